package subresource

import (
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestBytesOfALogComeBeforeItsEnd(t *testing.T) {
	log := endApart{io.NopCloser(iotest.DataErrReader(strings.NewReader("alive\n")))} // gives data and end together
	buffer := make([]byte, 100)
	if n, err := log.Read(buffer); err != nil || string(buffer[:n]) != "alive\n" {
		t.Errorf("first read: %q, %v; want the log without an error", buffer[:n], err)
	}
	if n, err := log.Read(buffer); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("second read: %d bytes, %v; want the end", n, err)
	}
}

func TestBind(t *testing.T) {
	tests := map[string]struct {
		pod     corev1.Pod
		refused bool
	}{
		"a waiting pod gets its node":        {},
		"a pod no longer waits for another":  {pod: corev1.Pod{Status: corev1.PodStatus{NominatedNodeName: "one"}}},
		"a bound pod keeps its node":         {pod: corev1.Pod{Spec: corev1.PodSpec{NodeName: "one"}}, refused: true},
		"a pod that is deleted gets none":    {pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}}, refused: true},
		"a pod at a gate has to wait longer": {pod: corev1.Pod{Spec: corev1.PodSpec{SchedulingGates: []corev1.PodSchedulingGate{{Name: "g"}}}}, refused: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := bind(&tc.pod, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"a": "b"}}, Target: corev1.ObjectReference{Name: "two"}})
			if (err != nil) != tc.refused {
				t.Fatalf("bind() = %v", err)
			}
			if err == nil && (tc.pod.Spec.NodeName != "two" || tc.pod.Status.NominatedNodeName != "" || tc.pod.Annotations["a"] != "b" || tc.pod.Status.Conditions[0].Status != corev1.ConditionTrue) {
				t.Errorf("bound pod: %+v", tc.pod)
			}
		})
	}
}

func TestSpend(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		budget policyv1.PodDisruptionBudget
		check  func(error) bool
		left   int32
	}{
		"a budget with one left has none then": {
			budget: policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}}, check: func(err error) bool { return err == nil },
		},
		"an empty budget makes wait": {check: apierrors.IsTooManyRequests},
		"a budget not counted yet makes wait": {
			budget: policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 2}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1, ObservedGeneration: 1}},
			check:  apierrors.IsTooManyRequests, left: 1,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := spend(&tc.budget, "web", now); !tc.check(err) {
				t.Errorf("spend() = %v", err)
			} else if _, marked := tc.budget.Status.DisruptedPods["web"]; marked != (err == nil) {
				t.Errorf("pod is marked as going: %v", marked)
			}
			if tc.budget.Status.DisruptionsAllowed != tc.left {
				t.Errorf("%d disruptions left, want %d", tc.budget.Status.DisruptionsAllowed, tc.left)
			}
		})
	}
}

func TestChooseContainer(t *testing.T) {
	one := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}, InitContainers: []corev1.Container{{Name: "first"}}}}
	two := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, {Name: "side"}}}}
	tests := map[string]struct {
		pod         *corev1.Pod
		asked, want string // want "": refused
	}{
		"the only one needs no name":         {pod: one, want: "main"},
		"an init container is asked by name": {pod: one, asked: "first", want: "first"},
		"of several one has to be named":     {pod: two},
		"an unknown one is refused":          {pod: two, asked: "third"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := chooseContainer(tc.pod, tc.asked)
			if got != tc.want || (tc.want == "") != apierrors.IsBadRequest(err) {
				t.Errorf("chooseContainer() = %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

func TestLogQuery(t *testing.T) {
	got := at(&url.URL{Scheme: "https", Host: "10.0.0.1:10250"}, logQuery(&corev1.PodLogOptions{Follow: true, TailLines: ptr.To[int64](5)}), "containerLogs", "ns", "web", "main")
	if want := "https://10.0.0.1:10250/containerLogs/ns/web/main?follow=true&tailLines=5"; got.String() != want {
		t.Errorf("location = %s, want %s", got, want)
	}
}

func TestReadyEndpoints(t *testing.T) {
	slices := []discoveryv1.EndpointSlice{{
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080)}, {Name: ptr.To("other"), Port: ptr.To[int32](1)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1"}},
			{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
			{Addresses: []string{"127.0.0.1"}},
		},
	}}
	if diff := cmp.Diff([]string{"10.0.0.1:8080"}, readyEndpoints(slices, "http")); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
}

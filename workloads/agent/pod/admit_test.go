package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestAdmit(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"disk": "slow"}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("2"),
		}},
	}
	pod := func(name string, change func(*corev1.PodSpec)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}}}
		change(&p.Spec)
		return p
	}
	plain := func(*corev1.PodSpec) {}
	port := func(n int32) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) { s.Containers[0].Ports = []corev1.ContainerPort{{HostPort: n}} }
	}
	cpu := func(amount string) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) {
			s.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
		}
	}
	disk := func(kind string) func(*corev1.PodSpec) {
		return func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": kind} }
	}
	tests := map[string]struct {
		others []*corev1.Pod
		pod    *corev1.Pod
		want   string
	}{
		"a pod that asks for nothing":        {pod: pod("p", plain)},
		"a port that is free":                {others: []*corev1.Pod{pod("o", port(80))}, pod: pod("p", port(81))},
		"a port that is taken":               {others: []*corev1.Pod{pod("o", port(80))}, pod: pod("p", port(80)), want: "NodePorts"},
		"what is left of the processors":     {others: []*corev1.Pod{pod("o", cpu("1"))}, pod: pod("p", cpu("1"))},
		"more than is left":                  {others: []*corev1.Pod{pod("o", cpu("1500m"))}, pod: pod("p", cpu("1")), want: "OutOfcpu"},
		"a node that is another kind":        {pod: pod("p", disk("fast")), want: "NodeAffinity"},
		"a node of the right kind":           {pod: pod("p", disk("slow"))},
		"one pod more than the node may run": {others: []*corev1.Pod{pod("o", plain), pod("q", plain)}, pod: pod("p", plain), want: "OutOfpods"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if e := admit(node, tc.others, tc.pod); e != nil {
				got = e.Reason
			}
			if got != tc.want {
				t.Errorf("admit() refuses with %q, want %q", got, tc.want)
			}
		})
	}
}

package scheme

import (
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestHubTypesAreInternalOnes(t *testing.T) {
	for _, v := range served {
		internal := schema.GroupVersion{Group: v.gv.Group, Version: runtime.APIVersionInternal}
		for kind, typ := range Scheme.KnownTypes(v.gv) {
			found, ok := Scheme.KnownTypes(internal)[kind]
			if v.hub && ok && found != typ && typ.PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1" {
				t.Errorf("%s %s is %s inside", v.gv, kind, found)
			}
			if !ok && typ.PkgPath() != "k8s.io/apimachinery/pkg/apis/meta/v1" {
				t.Errorf("%s %s has no internal version", v.gv, kind)
			}
		}
	}
}

// What a client of one version wrote must come back to it whole after being stored as the other.
func TestConversionsLoseNothing(t *testing.T) {
	at := metav1.NewMicroTime(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))
	second := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	quantity := resource.MustParse("100")
	tests := map[string]struct {
		object runtime.Object
		via    schema.GroupVersion
	}{
		"an old event": {via: eventsv1.SchemeGroupVersion, object: &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: "a", Namespace: "b"},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "p", FieldPath: "spec"},
			Reason:         "Started", Message: "it started", Source: corev1.EventSource{Component: "agent", Host: "h"},
			FirstTimestamp: second, LastTimestamp: second, Count: 3, Type: "Normal",
		}},
		"a new event": {via: eventsv1.SchemeGroupVersion, object: &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: "a"}, EventTime: at, Series: &corev1.EventSeries{Count: 2, LastObservedTime: at},
			Action: "Starting", Related: &corev1.ObjectReference{Name: "r"}, ReportingController: "c", ReportingInstance: "i",
		}},
		"an autoscaler by CPU": {via: autoscalingv2.SchemeGroupVersion, object: &autoscalingv1.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: "a", Annotations: map[string]string{"mine": "kept"}},
			Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
				ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{Kind: "Deployment", Name: "d"},
				MinReplicas:    new(int32(1)), MaxReplicas: 3, TargetCPUUtilizationPercentage: new(int32(80)),
			},
		}},
		"an autoscaler by what v1 has no room for": {via: autoscalingv1.SchemeGroupVersion, object: &autoscalingv2.HorizontalPodAutoscaler{
			ObjectMeta: metav1.ObjectMeta{Name: "a"},
			Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
				MaxReplicas: 3,
				Metrics: []autoscalingv2.MetricSpec{
					{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
						Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: new(int32(50))},
					}},
					{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
						Metric: autoscalingv2.MetricIdentifier{Name: "requests"},
						Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &quantity},
					}},
				},
				Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{
					ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(10))},
				},
			},
			Status: autoscalingv2.HorizontalPodAutoscalerStatus{
				DesiredReplicas: 2,
				CurrentMetrics: []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
					Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: new(int32(40))},
				}}},
				Conditions: []autoscalingv2.HorizontalPodAutoscalerCondition{{Type: autoscalingv2.AbleToScale, Status: corev1.ConditionTrue, LastTransitionTime: second}},
			},
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			kinds, _, err := Scheme.ObjectKinds(tc.object)
			if err != nil {
				t.Fatal(err)
			}
			other, err := Scheme.New(tc.via.WithKind(kinds[0].Kind))
			if err != nil {
				t.Fatal(err)
			}
			if err := Scheme.Convert(tc.object.DeepCopyObject(), other, nil); err != nil {
				t.Fatal(err)
			}
			back := tc.object.DeepCopyObject()
			if err := Scheme.Convert(other, back, nil); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.object, back); diff != "" {
				t.Errorf("there and back (-before +after):\n%s", diff)
			}
		})
	}
}

func TestQueryParameters(t *testing.T) {
	tests := map[string]struct {
		query string
		into  runtime.Object
		want  runtime.Object
	}{
		"of a log": {
			query: "container=c&follow=true&tailLines=10&sinceTime=2026-01-02T03:04:05Z&timestamps=1&previous=0",
			into:  &corev1.PodLogOptions{},
			want: &corev1.PodLogOptions{
				Container: "c", Follow: true, TailLines: new(int64(10)), Timestamps: true,
				SinceTime: &metav1.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
			},
		},
		"of a command": {
			query: "command=sh&command=-c&command=true&stdout=true&container=",
			into:  &corev1.PodExecOptions{},
			want:  &corev1.PodExecOptions{Command: []string{"sh", "-c", "true"}, Stdout: true},
		},
		"of forwarded ports": {query: "ports=80&ports=443", into: &corev1.PodPortForwardOptions{}, want: &corev1.PodPortForwardOptions{Ports: []int32{80, 443}}},
		"of a proxied path":  {query: "path=/a/b", into: &corev1.ServiceProxyOptions{}, want: &corev1.ServiceProxyOptions{Path: "/a/b"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			query, err := url.ParseQuery(tc.query)
			if err != nil {
				t.Fatal(err)
			}
			if err := ParameterCodec.DecodeParameters(query, corev1.SchemeGroupVersion, tc.into); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, tc.into); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
	if err := ParameterCodec.DecodeParameters(url.Values{"tailLines": {"many"}}, corev1.SchemeGroupVersion, &corev1.PodLogOptions{}); err == nil {
		t.Error("a number that is none was accepted")
	}
}

func TestFieldSelectors(t *testing.T) {
	tests := map[string]struct {
		kind    schema.GroupVersionKind
		label   string
		want    string
		refused bool
	}{
		"a pod's node":                      {kind: corev1.SchemeGroupVersion.WithKind("Pod"), label: "spec.nodeName", want: "spec.nodeName"},
		"a pod's node by its first name":    {kind: corev1.SchemeGroupVersion.WithKind("Pod"), label: "spec.host", want: "spec.nodeName"},
		"anything's name":                   {kind: corev1.SchemeGroupVersion.WithKind("Pod"), label: "metadata.name", want: "metadata.name"},
		"a new event's object":              {kind: eventsv1.SchemeGroupVersion.WithKind("Event"), label: "regarding.name", want: "involvedObject.name"},
		"what is not selectable is refused": {kind: corev1.SchemeGroupVersion.WithKind("Pod"), label: "spec.containers", refused: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, value, err := Scheme.ConvertFieldLabel(tc.kind, tc.label, "v")
			if tc.refused {
				if err == nil {
					t.Error("it was accepted")
				}
				return
			}
			if err != nil || got != tc.want || value != "v" {
				t.Errorf("got %q=%q, %v; want %q", got, value, err, tc.want)
			}
		})
	}
}

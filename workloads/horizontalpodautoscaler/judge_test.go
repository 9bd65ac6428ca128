package horizontalpodautoscaler

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestCombine(t *testing.T) {
	cpu, memory := *percent("cpu", 50), *average("memory", "1")
	says := func(replicas int32, name string) answer {
		return answer{proposal: proposal{replicas: replicas, name: name}}
	}
	fails := func(m *autoscalingv2.MetricSpec) answer {
		return answer{reason: failed(m), err: inner(m, errors.New("unable to get metrics for resource cpu: no metrics returned from resource metrics API"))}
	}
	tests := map[string]struct {
		answers []answer
		usable  bool
		want    int32
		name    string
		active  string
		message string
		err     string
	}{
		"the largest wins": {[]answer{says(3, "cpu"), says(5, "memory")}, true, 5, "memory", "ValidMetricFound",
			"the HPA was able to successfully calculate a replica count from memory", ""},
		"one that fails does not keep the other from adding": {[]answer{fails(&cpu), says(5, "memory")}, true, 5, "memory", "ValidMetricFound",
			"the HPA was able to successfully calculate a replica count from memory",
			"invalid metrics (1 invalid out of 2), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"},
		"but from removing": {[]answer{fails(&cpu), says(2, "memory")}, false, 2, "memory", "FailedGetResourceMetric",
			"the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API",
			"invalid metrics (1 invalid out of 2), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"},
		"the size there is may stay": {[]answer{says(4, "cpu"), fails(&memory)}, true, 4, "cpu", "ValidMetricFound",
			"the HPA was able to successfully calculate a replica count from cpu",
			"invalid metrics (1 invalid out of 2), first error is: failed to get memory resource metric value: failed to get memory usage: unable to get metrics for resource cpu: no metrics returned from resource metrics API"},
		"all fail": {[]answer{fails(&cpu), fails(&memory)}, false, 0, "", "FailedGetResourceMetric",
			"the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API",
			"invalid metrics (2 invalid out of 2), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := combine([]autoscalingv2.MetricSpec{cpu, memory}, tc.answers, 4)
			err := ""
			if d.err != nil {
				err = d.err.Error()
			}
			got := []any{d.usable, d.replicas, d.name, d.active.Reason, d.active.Message, err, len(d.statuses)}
			if diff := cmp.Diff([]any{tc.usable, tc.want, tc.name, tc.active, tc.message, tc.err, 2}, got); diff != "" {
				t.Errorf("combine() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWordsOfErrors(t *testing.T) {
	err := errors.New("why")
	tests := map[string]struct {
		metric                *autoscalingv2.MetricSpec
		reason, inside, whole string
	}{
		"utilization": {percent("cpu", 1), "FailedGetResourceMetric", "failed to get cpu utilization: why", "failed to get cpu resource metric value: failed to get cpu utilization: why"},
		"usage":       {average("memory", "1"), "FailedGetResourceMetric", "failed to get memory usage: why", "failed to get memory resource metric value: failed to get memory usage: why"},
		"container":   {inContainer("app", 1), "FailedGetContainerResourceMetric", "failed to get cpu utilization: why", "failed to get app container metric value: failed to get cpu utilization: why"},
		"pods":        {ofPods("1"), "FailedGetPodsMetric", "unable to get metric hits: why", "failed to get pods metric value: unable to get metric hits: why"},
		"object":      {object("1"), "FailedGetObjectMetric", "why", "failed to get object metric value: failed to get hits object metric: why"},
		"external":    {queue("1"), "FailedGetExternalMetric", "why", "failed to get queue external metric value: failed to get queue external metric: why"},
		"unknown":     {&autoscalingv2.MetricSpec{Type: "Moon"}, "InvalidMetricSourceType", "why", "why"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			said := inner(tc.metric, err)
			if got := []string{failed(tc.metric), said.Error(), outer(tc.metric, said).Error()}; !cmp.Equal(got, []string{tc.reason, tc.inside, tc.whole}) {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestOutOfBounds(t *testing.T) {
	asleep := []autoscalingv2.HorizontalPodAutoscalerCondition{scaledToZero(0)}
	awake := []autoscalingv2.HorizontalPodAutoscalerCondition{scaledToZero(1)}
	tests := map[string]struct {
		conditions     []autoscalingv2.HorizontalPodAutoscalerCondition
		current, least int32
		want           wish
		off, settled   bool
	}{
		"between the bounds metrics decide":             {nil, 3, 2, wish{}, false, false},
		"above the maximum":                             {nil, 9, 2, wish{5, "Current number of replicas above Spec.MaxReplicas"}, false, true},
		"below the minimum":                             {nil, 1, 2, wish{2, "Current number of replicas below Spec.MinReplicas"}, false, true},
		"at zero by somebody else's hand it stays":      {nil, 0, 1, wish{}, true, true},
		"whatever the minimum":                          {awake, 0, 0, wish{}, true, true},
		"at zero by our hand metrics decide":            {asleep, 0, 0, wish{}, false, false},
		"and a minimum that was raised since is obeyed": {asleep, 0, 2, wish{2, "Current number of replicas below Spec.MinReplicas"}, false, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h := &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 5}}
			h.Status.Conditions = tc.conditions
			want, off, settled := outOfBounds(h, tc.current, tc.least)
			if want != tc.want || off != tc.off || settled != tc.settled {
				t.Errorf("outOfBounds() = %v, %t, %t; want %v, %t, %t", want, off, settled, tc.want, tc.off, tc.settled)
			}
		})
	}
}

func TestConditionsKeepTheirTime(t *testing.T) {
	status := &autoscalingv2.HorizontalPodAutoscalerStatus{}
	later := now.Add(time.Minute)
	set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, steady), now)
	set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, downStabilized), later)
	if c := status.Conditions[0]; !c.LastTransitionTime.Equal(&metav1.Time{Time: now}) || c.Reason != downStabilized.reason {
		t.Errorf("the same status with another reason became %v", c)
	}
	set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, steady), later)
	if c := status.Conditions[0]; !c.LastTransitionTime.Equal(&metav1.Time{Time: later}) || len(status.Conditions) != 1 {
		t.Errorf("another status became %v of %d", c, len(status.Conditions))
	}
}

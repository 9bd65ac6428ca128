package scheme

import (
	"encoding/json"
	"fmt"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// A v1 autoscaler has room for one CPU target. What it has no room for travels in annotations, as JSON of the
// v2 types, so that a client of v1 can write back what it read. The CPU target is then the first metric again,
// wherever it was: the order of metrics means nothing.
const (
	metricsAnnotation    = "autoscaling.alpha.kubernetes.io/metrics"
	behaviorAnnotation   = "autoscaling.alpha.kubernetes.io/behavior"
	currentAnnotation    = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation = "autoscaling.alpha.kubernetes.io/conditions"
)

func autoscalerToV1(in *autoscalingv2.HorizontalPodAutoscaler, out *autoscalingv1.HorizontalPodAutoscaler) error {
	*out = autoscalingv1.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas,
			MaxReplicas:    in.Spec.MaxReplicas,
		},
		Status: autoscalingv1.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration,
			LastScaleTime:      in.Status.LastScaleTime,
			CurrentReplicas:    in.Status.CurrentReplicas,
			DesiredReplicas:    in.Status.DesiredReplicas,
		},
	}
	var metrics []autoscalingv2.MetricSpec
	for _, m := range in.Spec.Metrics {
		if isCPU(m) && out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
			continue
		}
		metrics = append(metrics, m)
	}
	var current []autoscalingv2.MetricStatus
	for _, m := range in.Status.CurrentMetrics {
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU &&
			m.Resource.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		current = append(current, m)
	}
	out.Annotations = withoutCarried(in.Annotations)
	carry := func(key string, value any, present bool) error {
		if !present {
			return nil
		}
		text, err := json.Marshal(value)
		if err != nil {
			return fmt.Errorf("encode %s: %w", key, err)
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[key] = string(text)
		return nil
	}
	if err := carry(metricsAnnotation, metrics, len(metrics) > 0); err != nil {
		return err
	}
	if err := carry(behaviorAnnotation, in.Spec.Behavior, in.Spec.Behavior != nil); err != nil {
		return err
	}
	if err := carry(currentAnnotation, current, len(current) > 0); err != nil {
		return err
	}
	return carry(conditionsAnnotation, in.Status.Conditions, len(in.Status.Conditions) > 0)
}

func autoscalerToV2(in *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscaler) error {
	*out = autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: in.ObjectMeta,
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
			MinReplicas:    in.Spec.MinReplicas,
			MaxReplicas:    in.Spec.MaxReplicas,
		},
		Status: autoscalingv2.HorizontalPodAutoscalerStatus{
			ObservedGeneration: in.Status.ObservedGeneration,
			LastScaleTime:      in.Status.LastScaleTime,
			CurrentReplicas:    in.Status.CurrentReplicas,
			DesiredReplicas:    in.Status.DesiredReplicas,
		},
	}
	// What cannot be read was not written by us: as a client's own annotation it must not make the object unreadable.
	restore := func(key string, into any) bool {
		text, ok := in.Annotations[key]
		return ok && json.Unmarshal([]byte(text), into) == nil
	}
	var metrics []autoscalingv2.MetricSpec
	restore(metricsAnnotation, &metrics)
	if target := in.Spec.TargetCPUUtilizationPercentage; target != nil {
		metrics = append([]autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: target},
			},
		}}, metrics...)
	}
	out.Spec.Metrics = metrics
	var behavior autoscalingv2.HorizontalPodAutoscalerBehavior
	if restore(behaviorAnnotation, &behavior) {
		out.Spec.Behavior = &behavior
	}
	if !restore(currentAnnotation, &out.Status.CurrentMetrics) && in.Status.CurrentCPUUtilizationPercentage != nil {
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name:    corev1.ResourceCPU,
				Current: autoscalingv2.MetricValueStatus{AverageUtilization: in.Status.CurrentCPUUtilizationPercentage},
			},
		}}
	}
	restore(conditionsAnnotation, &out.Status.Conditions)
	out.Annotations = withoutCarried(in.Annotations)
	return nil
}

// isCPU says whether v1 has room for a metric.
func isCPU(m autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU &&
		m.Resource.Target.Type == autoscalingv2.UtilizationMetricType && m.Resource.Target.AverageUtilization != nil
}

func withoutCarried(annotations map[string]string) map[string]string {
	kept := maps.Clone(annotations)
	for _, key := range []string{metricsAnnotation, behaviorAnnotation, currentAnnotation, conditionsAnnotation} {
		delete(kept, key)
	}
	if len(kept) == 0 {
		return nil // as it would be without the ones carried
	}
	return kept
}

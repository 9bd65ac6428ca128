package horizontalpodautoscaler

import (
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// answer is what one metric came to.
type answer struct {
	proposal
	reason string // of err, for its event and condition
	err    error
}

// inner words what kept a metric from being read or from being worth something, for its event and its condition.
func inner(m *autoscalingv2.MetricSpec, err error) error {
	of := func(name corev1.ResourceName, want autoscalingv2.MetricTarget) error {
		if want.AverageValue != nil {
			return fmt.Errorf("failed to get %s usage: %w", name, err)
		}
		return fmt.Errorf("failed to get %s utilization: %w", name, err)
	}
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		return of(m.Resource.Name, m.Resource.Target)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		return of(m.ContainerResource.Name, m.ContainerResource.Target)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		return fmt.Errorf("unable to get metric %s: %w", m.Pods.Metric.Name, err)
	}
	return err
}

// outer words an error for the summary of all metrics, as the event of the metric itself does not.
func outer(m *autoscalingv2.MetricSpec, err error) error {
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		return fmt.Errorf("failed to get %s resource metric value: %w", m.Resource.Name, err)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		return fmt.Errorf("failed to get %s container metric value: %w", m.ContainerResource.Container, err)
	case m.Type == autoscalingv2.PodsMetricSourceType:
		return fmt.Errorf("failed to get pods metric value: %w", err)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		return fmt.Errorf("failed to get object metric value: failed to get %s object metric: %w", m.Object.Metric.Name, err)
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		name := m.External.Metric.Name
		return fmt.Errorf("failed to get %s external metric value: failed to get %s external metric: %w", name, name, err)
	}
	return err
}

// failed is the reason of a metric that could not be had.
func failed(m *autoscalingv2.MetricSpec) string {
	switch m.Type {
	case autoscalingv2.ResourceMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.PodsMetricSourceType,
		autoscalingv2.ObjectMetricSourceType, autoscalingv2.ExternalMetricSourceType:
		return "FailedGet" + string(m.Type) + "Metric"
	}
	return "InvalidMetricSourceType"
}

// decision is the size all metrics together ask for.
type decision struct {
	replicas int32
	name     string // the metric that asks for most
	active   autoscalingv2.HorizontalPodAutoscalerCondition
	statuses []autoscalingv2.MetricStatus
	err      error // of metrics that could not be had
	usable   bool  // replicas mean something
}

// combine takes the largest proposal. Without all metrics it takes none that would remove pods: the missing one may be why
// they are there.
func combine(specs []autoscalingv2.MetricSpec, answers []answer, current int32) decision {
	d := decision{statuses: make([]autoscalingv2.MetricStatus, len(specs))} // clients match them with the spec by their place
	invalid := 0
	var first *answer
	for i := range answers {
		a := &answers[i]
		if a.err != nil {
			invalid++
			if first == nil {
				first = a
				d.err = outer(&specs[i], a.err)
			}
			continue
		}
		d.statuses[i] = a.status
		if !d.usable || a.replicas > d.replicas {
			d.replicas, d.name, d.usable = a.replicas, a.name, true
		}
	}
	if d.err != nil {
		d.err = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", invalid, len(specs), d.err)
	}
	if !d.usable || invalid > 0 && d.replicas < current {
		d.usable = false
		d.active = condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, verdict{"InvalidMetricSourceType", "the HPA has no metrics"})
		if first != nil {
			d.active = condition(autoscalingv2.ScalingActive, corev1.ConditionFalse,
				verdict{first.reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.err)})
		}
		return d
	}
	d.active = condition(autoscalingv2.ScalingActive, corev1.ConditionTrue,
		verdict{"ValidMetricFound", "the HPA was able to successfully calculate a replica count from " + d.name})
	return d
}

func condition(kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, why verdict) autoscalingv2.HorizontalPodAutoscalerCondition {
	return autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind, Status: status, Reason: why.reason, Message: why.message}
}

// set puts a condition into a status. Its time is that of its last change of status.
func set(status *autoscalingv2.HorizontalPodAutoscalerStatus, c autoscalingv2.HorizontalPodAutoscalerCondition, now time.Time) {
	c.LastTransitionTime = metav1.NewTime(now)
	for i := range status.Conditions {
		if old := &status.Conditions[i]; old.Type == c.Type {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	status.Conditions = append(status.Conditions, c)
}

func isTrue(status *autoscalingv2.HorizontalPodAutoscalerStatus, kind autoscalingv2.HorizontalPodAutoscalerConditionType) bool {
	for _, c := range status.Conditions {
		if c.Type == kind {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// wish is the size an autoscaler wants, and why.
type wish struct {
	replicas int32
	reason   string // of a change
}

// outOfBounds is what needs no metrics: a size the autoscaler does not allow, and a target somebody has turned off.
// settled says that there is nothing to ask metrics about.
func outOfBounds(h *autoscalingv2.HorizontalPodAutoscaler, current, least int32) (w wish, off, settled bool) {
	// At zero without having brought it there, we leave it: somebody has turned it off (KEP-2021).
	asleep := isTrue(&h.Status, autoscalingv2.ScaledToZero)
	switch {
	case current == 0 && !asleep:
		return wish{}, true, true
	case current > h.Spec.MaxReplicas:
		return wish{h.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"}, false, true
	case current < least:
		return wish{least, "Current number of replicas below Spec.MinReplicas"}, false, true
	}
	return wish{}, false, false
}

// fit turns what metrics ask for into the size to have now, with the conditions that explain it. at is the moment on the
// clock of the history, now the time of day.
func (h *history) fit(hpa *autoscalingv2.HorizontalPodAutoscaler, status *autoscalingv2.HorizontalPodAutoscalerStatus, d decision, in bounds, at, now time.Time) wish {
	b := hpa.Spec.Behavior
	stable, why := h.stabilize(b, in.current, d.replicas, at)
	set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, why), now)
	size, why := h.limit(b, in, stable, at)
	limited := corev1.ConditionFalse
	if size != stable {
		limited = corev1.ConditionTrue
	}
	set(status, condition(autoscalingv2.ScalingLimited, limited, why), now)
	w := wish{replicas: size}
	switch {
	case d.replicas > in.current:
		w.reason = d.name + " above target"
	case d.replicas < in.current:
		w.reason = "All metrics below target"
	}
	return w
}

// scaledToZero tells later passes, and people, who brought the target to zero.
func scaledToZero(to int32) autoscalingv2.HorizontalPodAutoscalerCondition {
	if to == 0 {
		return condition(autoscalingv2.ScaledToZero, corev1.ConditionTrue, verdict{"ScaledToZero", "the HPA controller scaled the workload to zero"})
	}
	return condition(autoscalingv2.ScaledToZero, corev1.ConditionFalse, verdict{"NotScaledToZero", "the HPA controller did not scale the workload to zero"})
}

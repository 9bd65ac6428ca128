package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// cpuInitialization is how long after a pod's start its CPU use counts only while it is ready; readinessDelay is how
	// long after its start a pod that is not ready is taken for one that never was. Both are kube-controller-manager's
	// defaults.
	cpuInitialization = 5 * time.Minute
	readinessDelay    = 30 * time.Second
	// defaultTolerance is how far a metric may be from its target before anything is done.
	defaultTolerance = 0.1
)

// tolerances of one autoscaler, as parts of one (KEP-4951).
type tolerances struct{ up, down float64 }

func tolerancesOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) tolerances {
	t := tolerances{up: defaultTolerance, down: defaultTolerance}
	if b != nil && b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	if b != nil && b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	return t
}

// hold says whether a ratio of use to target is near enough to one.
func (t tolerances) hold(ratio float64) bool { return ratio >= 1-t.down && ratio <= 1+t.up }

// scene is what proposals are made from, beside the metric.
type scene struct {
	current   int32 // the target's spec.replicas
	observed  int32 // its status.replicas
	pods      []*corev1.Pod
	tolerance tolerances
	now       time.Time
}

// proposal is what one metric asks for.
type proposal struct {
	replicas int32
	name     string // for events and conditions
	status   autoscalingv2.MetricStatus
}

// propose computes how many replicas one metric asks for.
func propose(m *autoscalingv2.MetricSpec, got reading, s scene) (proposal, error) {
	switch m.Type {
	case autoscalingv2.ResourceMetricSourceType:
		replicas, name, current, err := ofResource(m.Resource.Name, "", m.Resource.Target, got, s)
		return proposal{replicas, name, autoscalingv2.MetricStatus{
			Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: current},
		}}, err
	case autoscalingv2.ContainerResourceMetricSourceType:
		source := m.ContainerResource
		replicas, name, current, err := ofResource(source.Name, source.Container, source.Target, got, s)
		return proposal{replicas, name, autoscalingv2.MetricStatus{
			Type:              m.Type,
			ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: source.Name, Container: source.Container, Current: current},
		}}, err
	case autoscalingv2.PodsMetricSourceType:
		replicas, mean, err := averaged(got, target(m.Pods.Target.AverageValue), "", s)
		return proposal{replicas, "pods metric " + m.Pods.Metric.Name, autoscalingv2.MetricStatus{
			Type: m.Type, Pods: &autoscalingv2.PodsMetricStatus{Metric: m.Pods.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(mean)}},
		}}, err
	case autoscalingv2.ObjectMetricSourceType:
		source := m.Object
		replicas, current, err := ofOne(source.Target, got.value, s)
		return proposal{replicas, fmt.Sprintf("%s metric %s", source.DescribedObject.Kind, source.Metric.Name), autoscalingv2.MetricStatus{
			Type: m.Type, Object: &autoscalingv2.ObjectMetricStatus{DescribedObject: source.DescribedObject, Metric: source.Metric, Current: current},
		}}, err
	case autoscalingv2.ExternalMetricSourceType:
		replicas, current, err := ofOne(m.External.Target, got.value, s)
		return proposal{replicas, fmt.Sprintf("external metric %s(%+v)", m.External.Metric.Name, m.External.Metric.Selector), autoscalingv2.MetricStatus{
			Type: m.Type, External: &autoscalingv2.ExternalMetricStatus{Metric: m.External.Metric, Current: current},
		}}, err
	}
	return proposal{}, fmt.Errorf("unknown metric source type %q", string(m.Type))
}

func milli(value int64) *resource.Quantity {
	return resource.NewMilliQuantity(value, resource.DecimalSI)
}

// target is a target's value in thousandths; nothing at all asks for as many replicas as there may be.
func target(q *resource.Quantity) int64 {
	if q == nil {
		return 0
	}
	return q.MilliValue()
}

// ofResource holds what pods use against a value, or against what they request.
func ofResource(name corev1.ResourceName, container string, want autoscalingv2.MetricTarget, got reading, s scene) (int32, string, autoscalingv2.MetricValueStatus, error) {
	if want.AverageValue != nil {
		replicas, mean, err := averaged(got, target(want.AverageValue), name, s)
		return replicas, fmt.Sprintf("%s%s resource", name, ofContainer(container)), autoscalingv2.MetricValueStatus{AverageValue: milli(mean)}, err
	}
	if want.AverageUtilization == nil {
		return 0, "", autoscalingv2.MetricValueStatus{}, errNoTarget
	}
	replicas, percent, mean, err := utilized(got, *want.AverageUtilization, name, container, s)
	return replicas, fmt.Sprintf("%s%s resource utilization (percentage of request)", name, ofContainer(container)),
		autoscalingv2.MetricValueStatus{AverageUtilization: &percent, AverageValue: milli(mean)}, err
}

func ofContainer(name string) string {
	if name == "" {
		return ""
	}
	return " container"
}

// errNoTarget is for what only an API server without validation lets in.
var errNoTarget = errors.New("the target has no value of the kind it names")

var errNoPods = errors.New("no pods returned by selector while calculating replica count")

// errUnready is for pods that are all too young, on their way out, or not measured.
var errUnready = errors.New("did not receive metrics for targeted pods (pods might be unready)")

// utilized makes the sum of what pods use fit the wanted part of the sum of what they request.
func utilized(got reading, want int32, name corev1.ResourceName, container string, s scene) (replicas, percent int32, mean int64, err error) {
	if len(s.pods) == 0 {
		return 0, 0, 0, errNoPods
	}
	g := sortPods(s.pods, got.pods, name, s.now)
	if len(g.measured) == 0 {
		return 0, 0, 0, errUnready
	}
	requests, err := requested(s.pods, name, container)
	if err != nil {
		return 0, 0, 0, err
	}
	ratio := func(used map[string]int64) (float64, int32, int64, error) {
		var sum, of, n int64
		for pod, value := range used {
			if r, known := requests[pod]; known {
				sum, of, n = sum+value, of+r, n+1
			}
		}
		if of == 0 {
			return 0, 0, 0, errors.New("no metrics returned matched known pods")
		}
		percent := int32(min(float64(sum)*100/float64(of), math.MaxInt32)) // the sum times 100 could overflow
		return float64(percent) / float64(want), percent, sum / n, nil
	}
	first, percent, mean, err := ratio(g.measured)
	if err != nil {
		return 0, 0, 0, err
	}
	// A pod nobody could measure is taken to use nothing when that would add pods, and all it requests (or more, if that is
	// the target) when it would remove some.
	replicas, err = rebalance(first, g, s, func(pod string) int64 {
		return requests[pod] * int64(max(100, want)) / 100
	}, func(used map[string]int64) (float64, error) {
		again, _, _, err := ratio(used)
		return again, err
	})
	return replicas, percent, mean, err
}

// averaged makes the mean value of pods fit a target.
func averaged(got reading, want int64, name corev1.ResourceName, s scene) (replicas int32, mean int64, err error) {
	if len(s.pods) == 0 {
		return 0, 0, errNoPods
	}
	g := sortPods(s.pods, got.pods, name, s.now)
	if len(g.measured) == 0 {
		return 0, 0, errUnready
	}
	ratio := func(used map[string]int64) (float64, int64) {
		var sum int64
		for _, value := range used {
			sum += value
		}
		mean := sum / int64(len(used))
		return float64(mean) / float64(want), mean
	}
	first, mean := ratio(g.measured)
	replicas, err = rebalance(first, g, s, func(string) int64 { return want }, func(used map[string]int64) (float64, error) {
		again, _ := ratio(used)
		return again, nil
	})
	return replicas, mean, err
}

// rebalance turns the ratio of the pods that were measured into replicas. Those that were not get a say against the
// direction: it may end the change, and never turns it round.
func rebalance(first float64, g groups, s scene, most func(pod string) int64, ratio func(map[string]int64) (float64, error)) (int32, error) {
	young := len(g.unready) > 0 && first > 1
	if !young && len(g.missing) == 0 {
		if s.tolerance.hold(first) {
			return s.current, nil
		}
		return ceil(first * float64(g.ready)), nil
	}
	all := g.measured
	for _, pod := range g.missing {
		switch {
		case first < 1:
			all[pod] = most(pod)
		case first > 1:
			all[pod] = 0
		}
	}
	if young {
		for _, pod := range g.unready {
			all[pod] = 0
		}
	}
	again, err := ratio(all)
	if err != nil {
		return 0, err
	}
	if s.tolerance.hold(again) || first < 1 && again > 1 || first > 1 && again < 1 {
		return s.current, nil
	}
	replicas := ceil(again * float64(len(all)))
	if again < 1 && replicas > s.current || again > 1 && replicas < s.current {
		return s.current, nil
	}
	return replicas, nil
}

// ceil keeps what no cluster can have from overflowing.
func ceil(replicas float64) int32 {
	if math.IsNaN(replicas) {
		return 0 // nothing is used, and nothing is wanted
	}
	return int32(min(math.Ceil(replicas), math.MaxInt32))
}

// ofOne holds one value against a target, as a whole or for each pod.
func ofOne(want autoscalingv2.MetricTarget, value int64, s scene) (int32, autoscalingv2.MetricValueStatus, error) {
	switch {
	case want.Type != autoscalingv2.AverageValueMetricType && want.Value != nil:
		ratio := float64(value) / float64(target(want.Value))
		current := autoscalingv2.MetricValueStatus{Value: milli(value)}
		if s.current == 0 {
			return ceil(ratio), current, nil // no tolerance: any demand wakes the first pod (KEP-2021)
		}
		if s.tolerance.hold(ratio) {
			return s.current, current, nil
		}
		if len(s.pods) == 0 {
			return 0, current, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
		}
		return ceil(ratio * float64(ready(s.pods))), current, nil
	case want.AverageValue != nil:
		replicas, per := s.observed, int64(math.Ceil(float64(value)/float64(s.observed)))
		if s.observed == 0 {
			per = 0
		}
		ratio := float64(value) / (float64(target(want.AverageValue)) * float64(s.observed))
		if !s.tolerance.hold(ratio) {
			replicas = ceil(float64(value) / float64(target(want.AverageValue)))
		}
		return replicas, autoscalingv2.MetricValueStatus{AverageValue: milli(per)}, nil
	}
	return 0, autoscalingv2.MetricValueStatus{}, errNoTarget
}

// ready counts the pods that serve.
func ready(pods []*corev1.Pod) (n int) {
	for _, p := range pods {
		if c := readiness(p); p.Status.Phase == corev1.PodRunning && c != nil && c.Status == corev1.ConditionTrue {
			n++
		}
	}
	return n
}

func readiness(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// groups of pods, by what their readings are worth.
type groups struct {
	measured map[string]int64 // by name; also of pods that are no longer known
	ready    int
	unready  []string // too young to say
	missing  []string // not measured
}

// sortPods says which readings count.
func sortPods(pods []*corev1.Pod, got map[string]podReading, name corev1.ResourceName, now time.Time) groups {
	g := groups{measured: make(map[string]int64, len(got))}
	for pod, r := range got {
		g.measured[pod] = r.value
	}
	for _, p := range pods {
		r, measured := got[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			delete(g.measured, p.Name)
		case p.Status.Phase == corev1.PodPending:
			g.unready = append(g.unready, p.Name)
			delete(g.measured, p.Name)
		case !measured:
			g.missing = append(g.missing, p.Name)
		case name == corev1.ResourceCPU && starting(p, r, now):
			g.unready = append(g.unready, p.Name)
			delete(g.measured, p.Name)
		default:
			g.ready++
		}
	}
	return g
}

// starting says whether a pod's CPU use is that of its start. In its first minutes it is while the pod is not ready, and
// until a whole window was measured of a ready one; later only if it never was ready.
func starting(p *corev1.Pod, r podReading, now time.Time) bool {
	c, began := readiness(p), p.Status.StartTime
	if c == nil || began == nil {
		return true
	}
	if began.Add(cpuInitialization).After(now) {
		return c.Status == corev1.ConditionFalse || r.at.Before(c.LastTransitionTime.Add(r.window))
	}
	return c.Status == corev1.ConditionFalse && began.Add(readinessDelay).After(c.LastTransitionTime.Time)
}

// requested is what each pod requests of a resource, in thousandths; with a container, what that one requests.
func requested(pods []*corev1.Pod, name corev1.ResourceName, container string) (map[string]int64, error) {
	out := make(map[string]int64, len(pods))
	for _, p := range pods {
		if whole, set := ofPod(p, name); set && container == "" { // pod-level resources (KEP-2837) stand for all containers
			out[p.Name] = whole
			continue
		}
		var sum int64
		for _, c := range lasting(p) {
			if container != "" && c.Name != container {
				continue
			}
			q, known := c.Resources.Requests[name]
			if !known {
				return nil, fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, p.Name)
			}
			sum += q.MilliValue()
		}
		out[p.Name] = sum
	}
	return out, nil
}

// lasting are the containers that run as long as the pod: sidecars, and all but init containers.
func lasting(p *corev1.Pod) []*corev1.Container {
	var out []*corev1.Container
	for i := range p.Spec.Containers {
		out = append(out, &p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}

func ofPod(p *corev1.Pod, name corev1.ResourceName) (int64, bool) {
	if p.Spec.Resources == nil {
		return 0, false
	}
	q, set := p.Spec.Resources.Requests[name]
	return q.MilliValue(), set
}

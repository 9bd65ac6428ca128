package horizontalpodautoscaler

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// pods that requested a whole CPU and 1000 bytes, started long ago and are ready; change makes one different.
func pods(n int, changes ...func(p *corev1.Pod)) []*corev1.Pod {
	var out []*corev1.Pod
	for i := range n {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", i)},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1000"),
			}}}}},
			Status: corev1.PodStatus{
				Phase: corev1.PodRunning, StartTime: ptr.To(metav1.NewTime(now.Add(-time.Hour))),
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour + time.Minute))}},
			},
		}
		if i < len(changes) && changes[i] != nil {
			changes[i](p)
		}
		out = append(out, p)
	}
	return out
}

func pending(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }
func broken(p *corev1.Pod)  { p.Status.Phase = corev1.PodFailed }
func going(p *corev1.Pod)   { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }

// started so long ago, and ready or not since so long.
func started(ago time.Duration, ready corev1.ConditionStatus, since time.Duration) func(p *corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime = ptr.To(metav1.NewTime(now.Add(-ago)))
		p.Status.Conditions[0].Status = ready
		p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-since))
	}
}

// used by pod-0, pod-1 and so on, in thousandths; -1 for a pod that was not measured.
func used(values ...int64) reading {
	out := reading{pods: map[string]podReading{}}
	for i, v := range values {
		if v >= 0 {
			out.pods[fmt.Sprintf("pod-%d", i)] = podReading{value: v, at: now, window: 15 * time.Second}
		}
	}
	return out
}

func percent(name corev1.ResourceName, target int32) *autoscalingv2.MetricSpec {
	return &autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &target},
	}}
}

func average(name corev1.ResourceName, target string) *autoscalingv2.MetricSpec {
	return &autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(target))},
	}}
}

func inContainer(name string, target int32) *autoscalingv2.MetricSpec {
	return &autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
		Name: corev1.ResourceCPU, Container: name, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &target},
	}}
}

func ofPods(target string) *autoscalingv2.MetricSpec {
	return &autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "hits"},
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(target))},
	}}
}

func object(value string) *autoscalingv2.MetricSpec {
	return &autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
		DescribedObject: autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "shop"},
		Metric:          autoscalingv2.MetricIdentifier{Name: "hits"},
		Target:          autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(resource.MustParse(value))},
	}}
}

func queue(perPod string) *autoscalingv2.MetricSpec {
	return &autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "queue"},
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(perPod))},
	}}
}

func TestPropose(t *testing.T) {
	young := started(time.Minute, corev1.ConditionFalse, 50*time.Second)
	tests := map[string]struct {
		metric  *autoscalingv2.MetricSpec
		got     reading
		pods    []*corev1.Pod
		current int32 // the number of pods, if 0
		zero    bool  // current really is 0
		up      float64
		down    float64
		want    int32
		err     string
	}{
		"twice the target doubles the pods":                     {metric: percent("cpu", 50), got: used(1000, 1000), pods: pods(2), want: 4},
		"half the target halves them":                           {metric: percent("cpu", 50), got: used(250, 250, 250, 250), pods: pods(4), want: 2},
		"part of a pod is a pod":                                {metric: percent("cpu", 50), got: used(600, 600, 600), pods: pods(3), want: 4},
		"ten percent above is near enough":                      {metric: percent("cpu", 50), got: used(550, 550), pods: pods(2), want: 2},
		"ten percent below is near enough":                      {metric: percent("cpu", 50), got: used(450, 450), pods: pods(2), want: 2},
		"a smaller tolerance for the way up is kept":            {metric: percent("cpu", 50), got: used(530, 530), pods: pods(2), up: 0.05, down: 0.1, want: 3},
		"a larger tolerance for the way down is kept":           {metric: percent("cpu", 50), got: used(300, 300), pods: pods(2), up: 0.1, down: 0.5, want: 2},
		"no tolerance at all acts on a percent":                 {metric: percent("cpu", 50), got: used(510, 510), pods: pods(2), up: 0, down: 0, want: 3},
		"a container of its own is measured alone":              {metric: inContainer("app", 50), got: used(1000, 1000), pods: pods(2), want: 4},
		"memory against a value":                                {metric: average("memory", "100"), got: used(200_000, 200_000), pods: pods(2), want: 4},
		"memory at its value":                                   {metric: average("memory", "100"), got: used(100_000, 100_000), pods: pods(2), want: 2},
		"nothing used of something wanted":                      {metric: percent("cpu", 50), got: used(0, 0), pods: pods(2), want: 0},
		"pods that are going do not count":                      {metric: percent("cpu", 50), got: used(1000, 0), pods: pods(2, nil, going), want: 2},
		"failed pods do not count":                              {metric: percent("cpu", 50), got: used(1000, 0), pods: pods(2, nil, broken), want: 2},
		"a pending pod dampens the way up":                      {metric: percent("cpu", 50), got: used(1000, 1000, -1), pods: pods(3, nil, nil, pending), want: 4},
		"pending pods can end the way up":                       {metric: percent("cpu", 50), got: used(1000, -1), pods: pods(2, nil, pending), want: 2},
		"pending pods do not slow the way down":                 {metric: percent("cpu", 50), got: used(100, 100, -1), pods: pods(3, nil, nil, pending), want: 1},
		"a pod that is starting counts for nothing":             {metric: percent("cpu", 50), got: used(1000, 5000), pods: pods(2, nil, young), want: 2},
		"a starting pod's memory counts":                        {metric: percent("memory", 50), got: used(1_000_000, 1_000_000), pods: pods(2, nil, young), want: 4},
		"a ready pod counts once a whole window was measured":   {metric: percent("cpu", 50), got: used(1000), pods: pods(1, started(time.Minute, corev1.ConditionTrue, 20*time.Second)), want: 2},
		"and not before, as its start is in the window":         {metric: percent("cpu", 50), got: used(1000), pods: pods(1, started(time.Minute, corev1.ConditionTrue, 10*time.Second)), err: "did not receive metrics for targeted pods (pods might be unready)"},
		"an old pod that was ready counts when it no longer is": {metric: percent("cpu", 50), got: used(1000), pods: pods(1, started(time.Hour, corev1.ConditionFalse, time.Minute)), want: 2},
		"an old pod that never was ready does not":              {metric: percent("cpu", 50), got: used(1000), pods: pods(1, started(time.Hour, corev1.ConditionFalse, time.Hour)), err: "did not receive metrics for targeted pods (pods might be unready)"},
		"a pod not measured uses nothing on the way up":         {metric: percent("cpu", 50), got: used(1000, 1000, -1), pods: pods(3), want: 4},
		"a pod not measured uses all on the way down":           {metric: percent("cpu", 50), got: used(100, 100, -1), pods: pods(3), want: 3},
		"many measured can outvote it":                          {metric: percent("cpu", 50), got: used(0, 0, 0, 0, 0, -1), pods: pods(6), want: 2},
		"a change is never turned round by what is missing":     {metric: percent("cpu", 50), got: used(600, -1, -1), pods: pods(3), want: 3},
		"at the target nothing missing matters":                 {metric: percent("cpu", 50), got: used(500, -1), pods: pods(2), want: 2},
		"more pods than wanted count as they are":               {metric: percent("cpu", 50), got: used(500, 500, 500), pods: pods(3), current: 2, want: 2},
		"no pods":                                                   {metric: percent("cpu", 50), got: used(), current: 2, err: "no pods returned by selector while calculating replica count"},
		"nobody measured":                                           {metric: percent("cpu", 50), got: used(-1), pods: pods(1), err: "did not receive metrics for targeted pods (pods might be unready)"},
		"no request to compare with":                                {metric: percent("nvidia.com/gpu", 50), got: used(1000), pods: pods(1), err: "missing request for nvidia.com/gpu in container app of Pod pod-0"},
		"metrics of pods nobody knows":                              {metric: percent("cpu", 50), got: reading{pods: map[string]podReading{"old": {value: 1}}}, pods: pods(1), err: "no metrics returned matched known pods"},
		"a sidecar's request counts":                                {metric: percent("cpu", 50), got: used(1000), pods: pods(1, sidecar), want: 1},
		"a pod's own request stands for its containers'":            {metric: percent("cpu", 50), got: used(1000), pods: pods(1, wholePod), want: 1},
		"a pod metric is averaged":                                  {metric: ofPods("10"), got: used(20_000, 20_000), pods: pods(2), want: 4},
		"starting pods have their say in a pod metric":              {metric: ofPods("10"), got: used(20_000, 20_000), pods: pods(2, nil, young), want: 4},
		"an object's value":                                         {metric: object("100"), got: reading{value: 200_000}, pods: pods(2), want: 4},
		"an object's value near its target":                         {metric: object("100"), got: reading{value: 105_000}, pods: pods(2), want: 2},
		"only ready pods are multiplied":                            {metric: object("100"), got: reading{value: 200_000}, pods: pods(3, nil, nil, pending), want: 4},
		"an object without pods":                                    {metric: object("100"), got: reading{value: 200_000}, current: 2, err: "unable to calculate ready pods: no pods returned by selector while calculating replica count"},
		"any demand wakes a target at zero":                         {metric: object("100"), got: reading{value: 1000}, zero: true, want: 1},
		"much demand wakes several":                                 {metric: object("100"), got: reading{value: 250_000}, zero: true, want: 3},
		"no demand leaves it at zero":                               {metric: object("100"), got: reading{value: 0}, zero: true, want: 0},
		"a queue is shared out":                                     {metric: queue("10"), got: reading{value: 45_000}, pods: pods(2), want: 5},
		"a queue near its target":                                   {metric: queue("10"), got: reading{value: 21_000}, pods: pods(2), want: 2},
		"an empty queue needs nobody":                               {metric: queue("10"), got: reading{value: 0}, pods: pods(2), want: 0},
		"a queue wakes a target at zero":                            {metric: queue("10"), got: reading{value: 15_000}, zero: true, want: 2},
		"an empty queue leaves it at zero":                          {metric: queue("10"), got: reading{value: 0}, zero: true, want: 0},
		"a target of nothing asks for all there can be":             {metric: queue("0"), got: reading{value: 1000}, pods: pods(2), want: math.MaxInt32},
		"an enormous sum does not turn negative":                    {metric: percent("memory", 1), got: used(math.MaxInt64 / 4), pods: pods(1), want: math.MaxInt32 / 100 * 100},
		"a metric of no kind is refused":                            {metric: &autoscalingv2.MetricSpec{Type: "Moon"}, pods: pods(1), err: `unknown metric source type "Moon"`},
		"a resource without a target is refused":                    {metric: &autoscalingv2.MetricSpec{Type: "Resource", Resource: &autoscalingv2.ResourceMetricSource{Name: "cpu"}}, pods: pods(1), err: errNoTarget.Error()},
		"an object without a target is refused":                     {metric: &autoscalingv2.MetricSpec{Type: "Object", Object: &autoscalingv2.ObjectMetricSource{}}, pods: pods(1), err: errNoTarget.Error()},
		"a missing pod and a starting one both hold the way up":     {metric: percent("cpu", 50), got: used(2000, -1, 2000), pods: pods(3, nil, nil, young), want: 4},
		"replicas of the scale, not pods, are shared among a queue": {metric: queue("10"), got: reading{value: 30_000}, pods: pods(1), current: 3, want: 3},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := scene{pods: tc.pods, now: now, current: tc.current, tolerance: tolerances{tc.up, tc.down}}
			if s.current == 0 && !tc.zero {
				s.current = int32(len(tc.pods))
			}
			if s.observed = s.current; tc.up == 0 && tc.down == 0 && !strings.Contains(name, "no tolerance") {
				s.tolerance = tolerancesOf(nil)
			}
			got, err := propose(tc.metric, tc.got, s)
			if (err == nil) != (tc.err == "") || err != nil && err.Error() != tc.err {
				t.Fatalf("propose() fails with %v, want %q", err, tc.err)
			}
			if strings.Contains(name, "enormous") {
				if got.replicas <= 0 {
					t.Errorf("propose() = %d replicas, want very many", got.replicas)
				}
				return
			}
			if err == nil && got.replicas != tc.want {
				t.Errorf("propose() = %d replicas, want %d", got.replicas, tc.want)
			}
		})
	}
}

func sidecar(p *corev1.Pod) {
	beside := p.Spec.Containers[0].DeepCopy()
	beside.Name, beside.RestartPolicy = "beside", ptr.To(corev1.ContainerRestartPolicyAlways)
	once := beside.DeepCopy()
	once.RestartPolicy = nil
	p.Spec.InitContainers = []corev1.Container{*beside, *once}
}

func wholePod(p *corev1.Pod) {
	p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}
}

func TestStatusAndNamesOfProposals(t *testing.T) {
	s := scene{current: 2, observed: 2, pods: pods(2), now: now, tolerance: tolerancesOf(nil)}
	tests := map[string]struct {
		metric *autoscalingv2.MetricSpec
		got    reading
		name   string
		status func(autoscalingv2.MetricStatus) string
		shows  string
	}{
		"utilization": {percent("cpu", 50), used(300, 500), "cpu resource utilization (percentage of request)",
			func(s autoscalingv2.MetricStatus) string { return show(s.Resource.Current) }, "40% 400m"},
		"container": {inContainer("app", 50), used(300, 500), "cpu container resource utilization (percentage of request)",
			func(s autoscalingv2.MetricStatus) string { return show(s.ContainerResource.Current) }, "40% 400m"},
		"resource": {average("memory", "100"), used(200_000, 400_000), "memory resource",
			func(s autoscalingv2.MetricStatus) string { return show(s.Resource.Current) }, "300"},
		"pods": {ofPods("10"), used(20_000, 21_000), "pods metric hits",
			func(s autoscalingv2.MetricStatus) string { return show(s.Pods.Current) }, "20500m"},
		"object": {object("100"), reading{value: 1500}, "Service metric hits",
			func(s autoscalingv2.MetricStatus) string { return show(s.Object.Current) }, "1500m"},
		"external": {queue("10"), reading{value: 45_000}, "external metric queue(nil)",
			func(s autoscalingv2.MetricStatus) string { return show(s.External.Current) }, "22500m"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := propose(tc.metric, tc.got, s)
			if err != nil {
				t.Fatal(err)
			}
			if got.name != tc.name || got.status.Type != tc.metric.Type || tc.status(got.status) != tc.shows {
				t.Errorf("propose() = %q, %s %s; want %q, %s", got.name, got.status.Type, tc.status(got.status), tc.name, tc.shows)
			}
		})
	}
}

func show(v autoscalingv2.MetricValueStatus) string {
	var out []string
	if v.AverageUtilization != nil {
		out = append(out, fmt.Sprintf("%d%%", *v.AverageUtilization))
	}
	for _, q := range []*resource.Quantity{v.AverageValue, v.Value} {
		if q != nil {
			out = append(out, q.String())
		}
	}
	return strings.Join(out, " ")
}

func TestAJumpOfTheClockCountsPodsAsBefore(t *testing.T) {
	young, old := started(time.Minute, corev1.ConditionFalse, 20*time.Second), started(time.Hour, corev1.ConditionFalse, time.Minute)
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			all := pods(2, young, old)
			got, err := propose(percent("cpu", 50), used(5000, 1000), scene{
				current: 2, observed: 2, pods: all, tolerance: tolerancesOf(nil), now: steadytest.Jumped(now, by).Now(),
			})
			if err != nil || got.replicas != 2 {
				t.Errorf("propose() = %d, %v; want 2, for the old pod alone", got.replicas, err)
			}
		})
	}
}

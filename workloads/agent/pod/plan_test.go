package pod

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/agent/health"
	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/status"
	"knarr.dev/knarr/workloads/agent/translate"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const year = 365 * 24 * time.Hour

func ago(d time.Duration) time.Time { return now.Add(-d) }

// wantedPod has the main containers a and b, unless other names are given.
func wantedPod(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "1"},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyAlways,
			TerminationGracePeriodSeconds: ptr.To[int64](30),
			Containers:                    []corev1.Container{{Name: "a", Image: "i"}, {Name: "b", Image: "i"}},
		},
	}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func policy(p corev1.RestartPolicy) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.RestartPolicy = p }
}

func withInit(names ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for _, n := range names {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: n, Image: "i"})
		}
	}
}

func withSidecar(names ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for _, n := range names {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: n, Image: "i", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)})
		}
	}
}

func one(pod *corev1.Pod) { pod.Spec.Containers = pod.Spec.Containers[:1] }

// seen is what the runtime has: a ready sandbox s0 and these containers.
func seen(containers ...observed.Container) observed.Pod {
	p := observed.Pod{
		Sandboxes:  []observed.Sandbox{{ID: "s0", Ready: true, IPs: []string{"10.0.0.1"}}},
		Containers: map[string][]observed.Container{},
	}
	for _, c := range containers {
		p.Containers[c.Name] = append(p.Containers[c.Name], c)
	}
	return p
}

func run(name string, change ...func(*observed.Container)) observed.Container {
	c := observed.Container{ID: name + "0", Name: name, Sandbox: "s0", State: observed.Running, Hash: translate.Hash(&corev1.Container{Name: name, Image: "i"})}
	for _, f := range change {
		f(&c)
	}
	return c
}

func asking(container, cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := translate.Find(p, container)
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
}

// limited is a pod of which a container may have no more CPU than so much.
func limited(container, cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		c := translate.Find(p, container)
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
}

// onCPUs is a container that may run on these.
func onCPUs(list string) func(*observed.Container) {
	return func(c *observed.Container) { c.CPUs = list }
}

// bounded is a container made when it asked for so much.
func bounded(cpu string) func(*observed.Container) {
	return func(c *observed.Container) {
		c.Bounds = translate.Wanted(translate.Find(wantedPod(asking(c.Name, cpu)), c.Name))
	}
}

func exited(code int32, when time.Time) func(*observed.Container) {
	return func(c *observed.Container) {
		c.State, c.ExitCode, c.Finished, c.Ended = observed.Exited, code, when, when
	}
}

func attempt(n uint32) func(*observed.Container) {
	return func(c *observed.Container) { c.Attempt = n; c.ID = c.Name + string(rune('0'+n)) }
}

func neverStarted(c *observed.Container) { c.State = observed.Created }

func lost(c *observed.Container) { c.State = observed.Lost }

func inSandbox(id string) func(*observed.Container) {
	return func(c *observed.Container) { c.Sandbox = id }
}

func start(name string, n uint32) Step { return Step{Do: StartContainer, Container: name, Attempt: n} }

func kill(name string, grace int64, why string) Step {
	return Step{Do: KillContainer, Container: name, ID: name + "0", Grace: grace, Message: why}
}

func last(s Step) Step {
	s.Last = true
	return s
}

func TestPlan(t *testing.T) {
	deleted := &Ending{Grace: 30, Deleted: true}
	gone := &Ending{Grace: 30, Gone: true}
	tests := map[string]struct {
		view     View
		steps    []Step
		look     time.Duration // from now; 0 is never
		away     time.Duration // what the time of day is off from what waiting is measured by
		waiting  map[string]status.Waiting
		over     bool
		resizing bool
	}{
		"a new pod gets its volumes and its sandbox side by side": {
			view:  View{Pod: wantedPod()},
			steps: []Step{{Do: Mount}, {Do: CreateSandbox}},
		},
		"what is under way is not begun twice": {
			view: View{Pod: wantedPod(), Busy: map[string]bool{"mount": true, "sandbox": true}},
		},
		"containers wait for the volumes": {
			view:  View{Pod: wantedPod(), Runtime: seen()},
			steps: []Step{{Do: Mount}},
		},
		"new labels reach the volumes that show them": {
			view:  View{Pod: wantedPod(), Mounted: true, Relabeled: true, Runtime: seen(run("a"), run("b"))},
			steps: []Step{{Do: Refresh}},
		},
		"new labels wait for the volumes": {
			view: View{Pod: wantedPod(), Relabeled: true, Busy: map[string]bool{"mount": true}, Runtime: seen()},
		},
		"other resources are given to what runs": {
			view:     View{Pod: wantedPod(asking("a", "200m")), Mounted: true, Runtime: seen(run("a", bounded("100m")), run("b"))},
			steps:    []Step{{Do: Resize}},
			resizing: true,
		},
		"a container that wants a restart for them gets that": {
			view: View{Pod: wantedPod(asking("a", "200m"), func(p *corev1.Pod) {
				p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.RestartContainer}}
			}), Mounted: true, Runtime: seen(run("a", bounded("100m")), run("b"))},
			steps:    []Step{{Do: KillContainer, ID: "a0", Container: "a", Grace: 30, Message: "Container a resize requires restart"}, {Do: Resize}},
			resizing: true,
		},
		"what has what it asks for is left alone": {
			view: View{Pod: wantedPod(asking("a", "200m")), Mounted: true, Runtime: seen(run("a", bounded("200m")), run("b"))},
		},
		"a failed step is tried again when its time has come": {
			view:  View{Pod: wantedPod(), NotBefore: map[string]time.Time{"mount": now.Add(time.Second), "sandbox": ago(time.Second)}},
			steps: []Step{{Do: CreateSandbox}},
			look:  time.Second,
		},
		"the first container starts alone, so that its postStart hook holds the next": {
			view:  View{Pod: wantedPod(), Mounted: true, Runtime: seen()},
			steps: []Step{start("a", 0)},
		},
		"the next waits while the first is being started": {
			view: View{Pod: wantedPod(), Mounted: true, Runtime: seen(), Busy: map[string]bool{"start/a": true}},
		},
		"a settled pod is left alone": {
			view: View{Pod: wantedPod(), Mounted: true, Runtime: seen(run("a"), run("b"))},
		},
		"a container that ended is restarted at once the first time": {
			view:  View{Pod: wantedPod(), Mounted: true, Runtime: seen(run("a", exited(1, ago(0))), run("b"))},
			steps: []Step{start("a", 1)},
		},
		"one that ends again waits out its back-off": {
			view: View{Pod: wantedPod(), Mounted: true, Runtime: seen(run("a", attempt(1), exited(1, ago(4*time.Second))), run("b")),
				Backoff: map[string]Backoff{"a": {Delay: 10 * time.Second, Last: ago(5 * time.Second)}}},
			look:    6 * time.Second,
			waiting: map[string]status.Waiting{"a": {Reason: "CrashLoopBackOff", Message: "back-off 10s restarting failed container=a pod=pod_ns(1)"}},
		},
		"neither shorter nor longer when the clock was set a year off before it ended": {
			view: View{Pod: wantedPod(), Mounted: true, Runtime: seen(run("a", attempt(1), exited(1, ago(4*time.Second)), func(c *observed.Container) { c.Finished = ago(-year) }), run("b")),
				Backoff: map[string]Backoff{"a": {Delay: 10 * time.Second, Last: ago(5 * time.Second)}}},
			look:    6 * time.Second,
			waiting: map[string]status.Waiting{"a": {Reason: "CrashLoopBackOff", Message: "back-off 10s restarting failed container=a pod=pod_ns(1)"}},
		},
		"a long calm run clears the back-off": {
			view: View{Pod: wantedPod(), Mounted: true, Runtime: seen(run("a", attempt(7), exited(1, ago(time.Second))), run("b")),
				Backoff: map[string]Backoff{"a": {Delay: 5 * time.Minute, Last: ago(11 * time.Minute)}}},
			steps: []Step{start("a", 8)},
		},
		"OnFailure leaves a container that ended well": {
			view: View{Pod: wantedPod(policy(corev1.RestartPolicyOnFailure)), Mounted: true, Runtime: seen(run("a", exited(0, ago(0))), run("b"))},
		},
		"OnFailure restarts one that failed": {
			view:  View{Pod: wantedPod(policy(corev1.RestartPolicyOnFailure)), Mounted: true, Runtime: seen(run("a", exited(1, ago(0))), run("b"))},
			steps: []Step{start("a", 1)},
		},
		"a container made but never started is made anew under its number": {
			view:  View{Pod: wantedPod(one), Mounted: true, Runtime: seen(run("a", neverStarted))},
			steps: []Step{{Do: StartContainer, Container: "a", ID: "a0"}},
		},
		"of runs that never started only the newest is one to start": {
			view:  View{Pod: wantedPod(one), Mounted: true, Runtime: seen(run("a", attempt(1)), run("a", neverStarted))},
			steps: []Step{{Do: RemoveContainer, Container: "a", ID: "a0"}},
		},
		"what may still run is stopped before it is started again": {
			view:  View{Pod: wantedPod(one), Mounted: true, Runtime: seen(run("a", lost))},
			steps: []Step{kill("a", 30, "Container a is in an unknown state, it will be stopped")},
		},
		"and stopped with its pod": {
			view:  View{Pod: wantedPod(one), Ending: deleted, Mounted: true, Runtime: seen(run("a", lost))},
			steps: []Step{last(kill("a", 30, "Stopping container a"))},
		},
		"and when its sandbox died": {
			view: View{Pod: wantedPod(one), Mounted: true, Runtime: observed.Pod{
				Sandboxes: []observed.Sandbox{{ID: "s0"}}, Containers: map[string][]observed.Container{"a": {run("a", lost)}}}},
			steps: []Step{kill("a", 30, "Pod sandbox changed, it will be killed and re-created.")},
		},
		"a new image replaces the container": {
			view:  View{Pod: wantedPod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = "other" }), Mounted: true, Runtime: seen(run("a"), run("b"))},
			steps: []Step{kill("a", 30, "Container a definition changed, will be restarted")},
		},
		"a failed liveness probe kills with its own grace": {
			view: View{Pod: wantedPod(func(p *corev1.Pod) {
				p.Spec.Containers[0].LivenessProbe = &corev1.Probe{TerminationGracePeriodSeconds: ptr.To[int64](3)}
			}), Mounted: true, Runtime: seen(run("a"), run("b")), Unhealthy: map[string]health.Probe{"a0": health.Liveness}},
			steps: []Step{kill("a", 3, "Container a failed liveness probe, will be restarted")},
		},
		"and so does a failed startup probe": {
			view: View{Pod: wantedPod(func(p *corev1.Pod) {
				p.Spec.Containers[0].LivenessProbe = &corev1.Probe{TerminationGracePeriodSeconds: ptr.To[int64](3)}
				p.Spec.Containers[0].StartupProbe = &corev1.Probe{TerminationGracePeriodSeconds: ptr.To[int64](5)}
			}), Mounted: true, Runtime: seen(run("a"), run("b")), Unhealthy: map[string]health.Probe{"a0": health.Startup}},
			steps: []Step{kill("a", 5, "Container a failed startup probe, will be restarted")},
		},
		"of ended runs one is kept": {
			view:  View{Pod: wantedPod(one), Mounted: true, Runtime: seen(run("a", attempt(3)), run("a", attempt(2), exited(1, ago(0))), run("a", attempt(1), exited(1, ago(0))))},
			steps: []Step{{Do: RemoveContainer, Container: "a", ID: "a1", Attempt: 1}},
		},

		"init containers go one after the other": {
			view:  View{Pod: wantedPod(withInit("x", "y")), Mounted: true, Runtime: seen(run("x", exited(0, ago(0))))},
			steps: []Step{start("y", 0)},
		},
		"a running init container holds everything": {
			view: View{Pod: wantedPod(withInit("x", "y")), Mounted: true, Runtime: seen(run("x"))},
		},
		"a failed init container is tried again": {
			view:  View{Pod: wantedPod(withInit("x")), Mounted: true, Runtime: seen(run("x", exited(1, ago(0))))},
			steps: []Step{start("x", 1)},
		},
		"a sidecar holds what follows until it has started": {
			view: View{Pod: wantedPod(withSidecar("s"), withInit("x")), Mounted: true, Runtime: seen(run("s"))},
		},
		"once it has, the next init container starts": {
			view:  View{Pod: wantedPod(withSidecar("s"), withInit("x")), Mounted: true, Runtime: seen(run("s")), Started: map[string]bool{"s0": true}},
			steps: []Step{start("x", 0)},
		},
		"a sidecar that ends beside running containers is restarted": {
			view:  View{Pod: wantedPod(one, withSidecar("s")), Mounted: true, Runtime: seen(run("s", exited(0, ago(0))), run("a"))},
			steps: []Step{start("s", 1)},
		},
		"init containers are not repeated while the main ones have begun": {
			view: View{Pod: wantedPod(one, withInit("x")), Mounted: true, Runtime: seen(run("a"))},
		},

		"a dead sandbox takes what ran in it along": {
			view: View{Pod: wantedPod(one), Mounted: true, Runtime: observed.Pod{
				Sandboxes: []observed.Sandbox{{ID: "s0"}}, Containers: map[string][]observed.Container{"a": {run("a")}}}},
			steps: []Step{kill("a", 30, "Pod sandbox changed, it will be killed and re-created.")},
		},
		"and a new one is made when nothing runs": {
			view: View{Pod: wantedPod(one), Mounted: true, Runtime: observed.Pod{
				Sandboxes: []observed.Sandbox{{ID: "s0", Attempt: 4}}, Containers: map[string][]observed.Container{"a": {run("a", exited(255, ago(0)))}}}},
			steps: []Step{{Do: CreateSandbox, Attempt: 5}},
		},
		"init containers run again in a new sandbox": {
			view: View{Pod: wantedPod(one, withInit("x")), Mounted: true, Runtime: seen(
				run("x", exited(0, ago(0)), inSandbox("old")), run("a", exited(255, ago(0)), inSandbox("old")))},
			steps: []Step{start("x", 1)},
		},

		"a finished pod gives back what it holds": {
			view:  View{Pod: wantedPod(one, policy(corev1.RestartPolicyNever)), Mounted: true, Runtime: seen(run("a", exited(0, ago(0))))},
			steps: []Step{{Do: StopSandbox, ID: "s0"}},
		},
		"then its volumes": {
			view: View{Pod: wantedPod(one, policy(corev1.RestartPolicyNever)), Mounted: true, Stopped: map[string]bool{"s0": true},
				Runtime: seen(run("a", exited(0, ago(0))))},
			steps: []Step{{Do: Clean}}, over: true,
		},
		"and stays as it is until it is deleted": {
			view: View{Pod: wantedPod(one, policy(corev1.RestartPolicyNever)), Cleaned: true, Reported: true, Stopped: map[string]bool{"s0": true},
				Runtime: seen(run("a", exited(0, ago(0))))},
			over: true,
		},
		"a failed init container ends a pod that may not restart": {
			view:  View{Pod: wantedPod(withInit("x"), policy(corev1.RestartPolicyNever)), Mounted: true, Runtime: seen(run("x", exited(1, ago(0))))},
			steps: []Step{{Do: StopSandbox, ID: "s0"}},
		},
		"what the API remembers of an ended container keeps it from running twice": {
			view: View{Pod: wantedPod(one, policy(corev1.RestartPolicyOnFailure), func(p *corev1.Pod) {
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", ContainerID: "containerd://x",
					State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 0}}}}
			}), Mounted: true},
			steps: []Step{{Do: Clean}}, over: true,
		},

		"a deleted pod's containers are stopped together, its sidecars kept": {
			view:  View{Pod: wantedPod(withSidecar("s")), Ending: deleted, Mounted: true, Runtime: seen(run("s"), run("a"), run("b", exited(0, ago(0))))},
			steps: []Step{last(kill("a", 30, "Stopping container a"))},
		},
		"sidecars go last, in reverse order": {
			view: View{Pod: wantedPod(one, withSidecar("s", "t")), Ending: deleted, Mounted: true,
				Runtime: seen(run("s"), run("t"), run("a", exited(0, ago(0))))},
			steps: []Step{last(kill("t", 30, "Stopping container t"))},
		},
		"nothing is undone while something is still being started": {
			view: View{Pod: wantedPod(), Ending: deleted, Runtime: seen(), Busy: map[string]bool{"start/a": true}},
		},
		"the API object is not let go before the last status is there": {
			view: View{Pod: wantedPod(one), Ending: deleted, Cleaned: true, Stopped: map[string]bool{"s0": true}, Runtime: seen(run("a", exited(0, ago(0))))},
			over: true,
		},
		"then it is": {
			view: View{Pod: wantedPod(one), Ending: deleted, Cleaned: true, Reported: true, Stopped: map[string]bool{"s0": true},
				Runtime: seen(run("a", exited(0, ago(0))))},
			steps: []Step{{Do: Finish}}, over: true,
		},
		"a pod the API has no more is forgotten without a report": {
			view:  View{Pod: wantedPod(one), Ending: gone, Cleaned: true},
			steps: []Step{{Do: Finish}}, over: true,
		},
		"an orphan nobody knows the spec of is stopped": {
			view:  View{Pod: &corev1.Pod{}, Ending: gone, Runtime: seen(run("a"))},
			steps: []Step{last(kill("a", 30, "Stopping container a"))},
		},
		"containers on CPUs that are others' now are moved": {
			view:  View{Pod: wantedPod(), Mounted: true, Runtime: seen(run("a", onCPUs("0-3")), run("b", onCPUs("0-1"))), CPUs: map[string]string{"a": "0-1", "b": "0-1"}},
			steps: []Step{{Do: Move}},
		},
		"so are those of a pod that ends": {
			view:  View{Pod: wantedPod(one), Ending: deleted, Runtime: seen(run("a", onCPUs(""))), CPUs: map[string]string{"a": "1"}},
			steps: []Step{last(kill("a", 30, "Stopping container a")), {Do: Move}},
		},
		"containers that may run anywhere are left alone": {
			view: View{Pod: wantedPod(), Mounted: true, Runtime: seen(run("a", onCPUs("0")), run("b")), CPUs: map[string]string{"a": ""}},
		},
		"a container on CPUs of its own has no quota, and needs none": {
			view: View{Pod: wantedPod(limited("a", "1")), Mounted: true, Runtime: seen(run("a", func(c *observed.Container) {
				c.OwnCPUs, c.Bounds = true, translate.Bounds{Shares: 1024, Quota: -1, Memory: -1}
			}), run("b"))},
		},
		"a deadline is looked at when it is due": {
			view: View{Pod: wantedPod(func(p *corev1.Pod) {
				p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = ptr.To[int64](60), ptr.To(metav1.NewTime(ago(20*time.Second)))
			}), Mounted: true, Runtime: seen(run("a"), run("b"))},
			look: 40 * time.Second,
		},
		"a deadline is a time of day, and waited for whatever the clock did": {
			view: View{Pod: wantedPod(func(p *corev1.Pod) {
				p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = ptr.To[int64](60), ptr.To(metav1.NewTime(ago(-year+20*time.Second)))
			}), Mounted: true, Runtime: seen(run("a"), run("b"))},
			away: year, look: 40 * time.Second,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.view.Now, tc.view.Today = now, now.Add(tc.away)
			before := tc.view.Pod.DeepCopy()
			got := plan(tc.view)
			if diff := cmp.Diff(tc.steps, got.Steps); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			look := time.Time{}
			if tc.look != 0 {
				look = now.Add(tc.look)
			}
			if !got.Look.Equal(look) {
				t.Errorf("look = %v, want %v", got.Look, look)
			}
			if tc.waiting == nil {
				tc.waiting = map[string]status.Waiting{}
			}
			if diff := cmp.Diff(tc.waiting, got.Waiting); diff != "" {
				t.Errorf("waiting (-want +got):\n%s", diff)
			}
			if got.Over != tc.over || got.Resizing != tc.resizing {
				t.Errorf("over = %v, resizing = %v; want %v, %v", got.Over, got.Resizing, tc.over, tc.resizing)
			}
			if diff := cmp.Diff(before, tc.view.Pod); diff != "" {
				t.Errorf("plan() changed the pod (-before +after):\n%s", diff)
			}
		})
	}
}

// beginsAnew has containers end the pod's round when they exit with 88.
func beginsAnew(names ...string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for _, name := range names {
			translate.Find(pod, name).RestartPolicyRules = []corev1.ContainerRestartRule{{
				Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}},
			}}
		}
	}
}

func round(n int) func(*observed.Container) { return func(c *observed.Container) { c.Round = n } }

func TestAllContainersBeginAnew(t *testing.T) {
	const why = "Stopping container %s, all containers of the pod are restarted"
	stop := func(name string) Step { return kill(name, 0, strings.ReplaceAll(why, "%s", name)) }
	first := func(name string, n uint32, round int) Step {
		return Step{Do: StartContainer, Container: name, Attempt: n, Round: round}
	}
	trigger := run("a", exited(88, now))
	pod := wantedPod(policy(corev1.RestartPolicyNever), withInit("init"), withSidecar("side"), beginsAnew("a", "side"))
	tests := map[string]struct {
		pod     *corev1.Pod
		runtime observed.Pod
		backoff map[string]Backoff
		busy    string
		steps   []Step
		look    time.Duration
	}{
		"all that run end, without grace": {
			runtime: seen(run("init", exited(0, ago(time.Minute))), run("side"), trigger, run("b")), steps: []Step{stop("b"), stop("side")},
		},
		"the first init container runs when all have ended": {
			runtime: seen(run("init", exited(0, ago(time.Minute))), run("side", exited(137, now)), trigger, run("b", exited(137, now))),
			steps:   []Step{first("init", 1, 1)},
		},
		"a start of before that is under way is waited for": {
			runtime: seen(run("init", exited(0, ago(time.Minute))), run("side", exited(137, now)), trigger), busy: startKey("b"),
		},
		"a container that did its work does it again": {
			pod:     wantedPod(policy(corev1.RestartPolicyNever), beginsAnew("a")),
			runtime: seen(run("a", round(1), attempt(1)), trigger, run("b", exited(0, ago(time.Minute)))), steps: []Step{first("b", 1, 1)},
		},
		"the run that began it stays until all are in the round": {
			pod:     wantedPod(policy(corev1.RestartPolicyNever), beginsAnew("a")),
			runtime: seen(run("a", round(1), attempt(2), exited(0, now)), run("a", round(1), attempt(1), exited(0, now)), trigger, run("b", exited(0, ago(time.Minute)))),
			steps:   []Step{first("b", 1, 1)},
		},
		"a pod that is through again is through": {
			pod:     wantedPod(policy(corev1.RestartPolicyNever), beginsAnew("a")),
			runtime: seen(run("a", round(1), attempt(1), exited(0, now)), trigger, run("b", round(1), exited(0, now))), steps: []Step{{Do: StopSandbox, ID: "s0"}},
		},
		"who keeps beginning anew backs off before anything runs": {
			runtime: seen(run("init", round(1), exited(0, ago(time.Minute))), run("side", round(1), exited(137, now)),
				run("a", round(1), attempt(1), exited(88, now)), run("b", round(1), exited(137, now))),
			backoff: map[string]Backoff{"a": {Delay: firstDelay, Last: ago(time.Minute)}}, look: firstDelay,
		},
		"an init container that fails in the new round fails the pod": {
			runtime: seen(run("init", round(1), attempt(1), exited(1, now)), run("init", exited(0, ago(time.Minute))),
				run("side", exited(137, now)), trigger, run("b", exited(137, now))),
			steps: []Step{{Do: StopSandbox, ID: "s0"}},
		},
		"a sidecar begins the pod anew, too": {
			runtime: seen(run("init", exited(0, ago(time.Minute))), run("side", exited(88, now)), run("a"), run("b")), steps: []Step{stop("a"), stop("b")},
		},
		"in its new round a pod is left alone": {
			runtime: seen(run("init", round(1), attempt(1), exited(0, now)), run("side", round(1), attempt(1)), run("a", round(1), attempt(1)), trigger, run("b", round(1), attempt(1))),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			v := View{Pod: tc.pod, Runtime: tc.runtime, Mounted: true, Now: now, Today: now, Backoff: tc.backoff, Started: map[string]bool{"side1": true}}
			if v.Pod == nil {
				v.Pod = pod
			}
			if tc.busy != "" {
				v.Busy = map[string]bool{tc.busy: true}
			}
			p := plan(v)
			slices.SortFunc(p.Steps, func(a, b Step) int { return strings.Compare(a.Key(), b.Key()) })
			if diff := cmp.Diff(tc.steps, p.Steps); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			var look time.Duration
			if !p.Look.IsZero() {
				look = p.Look.Sub(now)
			}
			if look != tc.look {
				t.Errorf("looks again after %s; want %s", look, tc.look)
			}
		})
	}
}

func TestEnding(t *testing.T) {
	evicted := &Ending{Reason: "Evicted"}
	tests := map[string]struct {
		pod     *corev1.Pod
		gone    bool
		evicted *Ending
		want    *Ending
	}{
		"a wanted pod goes on": {pod: wantedPod()},
		"a deleted one has the grace of its deletion": {
			pod: wantedPod(func(p *corev1.Pod) {
				p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(now)), ptr.To[int64](7)
			}),
			want: &Ending{Grace: 7, Deleted: true},
		},
		"one that vanished has its own":   {pod: wantedPod(), gone: true, want: &Ending{Grace: 30, Gone: true}},
		"an evicted one stays in the API": {pod: wantedPod(), evicted: evicted, want: evicted},
		"one past its deadline fails": {
			pod: wantedPod(func(p *corev1.Pod) {
				p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = ptr.To[int64](60), ptr.To(metav1.NewTime(ago(time.Minute)))
			}),
			want: &Ending{Grace: 30, Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, ending(tc.pod, tc.gone, tc.evicted, now)); diff != "" {
				t.Errorf("ending (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAJumpOfTheClockEndsNoPod(t *testing.T) {
	pod := wantedPod(func(p *corev1.Pod) {
		p.Spec.ActiveDeadlineSeconds, p.Status.StartTime = ptr.To[int64](60), ptr.To(metav1.NewTime(ago(20*time.Second)))
	})
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			today := steadytest.Jumped(now, by).Now()
			if end := ending(pod, false, nil, today); end != nil {
				t.Errorf("ending() = %+v at %v, want none", end, today)
			}
			if look := plan(View{Pod: pod, Mounted: true, Runtime: seen(run("a"), run("b")), Now: now, Today: today}).Look; !look.Equal(now.Add(40 * time.Second)) {
				t.Errorf("look again at %v, want 40 s from %v", look, now)
			}
		})
	}
}

func TestBackoffDoublesToItsLimit(t *testing.T) {
	tests := map[string]struct {
		most time.Duration
		want []time.Duration // in seconds
	}{
		"as usual":                             {maxDelay, []time.Duration{10, 20, 40, 80, 160, 300, 300}},
		"a node may have a lower limit":        {30 * time.Second, []time.Duration{10, 20, 30, 30, 30, 30, 30}},
		"which holds for the first delay, too": {2 * time.Second, []time.Duration{2, 2, 2, 2, 2, 2, 2}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var b Backoff
			var delays []time.Duration
			at := now
			for range tc.want {
				b = b.next(at, at, tc.most)
				delays = append(delays, b.Delay/time.Second)
				at = b.until(at)
			}
			if diff := cmp.Diff(tc.want, delays); diff != "" {
				t.Errorf("delays (-want +got):\n%s", diff)
			}
		})
	}
}

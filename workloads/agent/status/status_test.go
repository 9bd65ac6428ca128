package status

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/agent/observed"
)

var now = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

func pod(policy corev1.RestartPolicy, names ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "1", Generation: 3}}
	p.Spec.RestartPolicy = policy
	for _, n := range names {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: n, Image: "i"})
	}
	return p
}

func withInit(p *corev1.Pod, sidecar bool, name string) *corev1.Pod {
	c := corev1.Container{Name: name, Image: "i"}
	if sidecar {
		c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	}
	p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	return p
}

func seen(containers ...observed.Container) observed.Pod {
	p := observed.Pod{Sandboxes: []observed.Sandbox{{ID: "s", Ready: true, IPs: []string{"10.0.0.1", "fd00::1"}}}, Containers: map[string][]observed.Container{}}
	for _, c := range containers {
		p.Containers[c.Name] = append(p.Containers[c.Name], c)
	}
	return p
}

func running(name string) observed.Container {
	return observed.Container{ID: name + "-id", Name: name, Sandbox: "s", State: observed.Running, Started: now.Time}
}

func exited(name string, code int32) observed.Container {
	return observed.Container{ID: name + "-id", Name: name, Sandbox: "s", State: observed.Exited, ExitCode: code, Finished: now.Time}
}

func condition(s corev1.PodStatus, kind corev1.PodConditionType) string {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return string(c.Status) + " " + c.Reason
		}
	}
	return "missing"
}

func all(ids ...string) map[string]bool {
	m := map[string]bool{}
	for _, id := range ids {
		m[id+"-id"] = true
	}
	return m
}

func TestPhaseAndReadiness(t *testing.T) {
	const (
		always = corev1.RestartPolicyAlways
		onFail = corev1.RestartPolicyOnFailure
		never  = corev1.RestartPolicyNever
	)
	tests := map[string]struct {
		in    Input
		phase corev1.PodPhase
		init  string
		ready string
	}{
		"a pod not seen by the runtime is pending": {
			in: Input{Pod: pod(always, "a")}, phase: corev1.PodPending, init: "True ", ready: "False ContainersNotReady",
		},
		"one waiting for its init container is not initialized": {
			in:    Input{Pod: withInit(pod(always, "a"), false, "x"), Runtime: seen(running("x")), Started: all("x"), Ready: all("x")},
			phase: corev1.PodPending, init: "False ContainersNotInitialized", ready: "False ContainersNotReady",
		},
		"all running and ready is ready": {
			in:    Input{Pod: pod(always, "a", "b"), Runtime: seen(running("a"), running("b")), Started: all("a", "b"), Ready: all("a", "b")},
			phase: corev1.PodRunning, init: "True ", ready: "True ",
		},
		"one container that has not started keeps it pending": {
			in:    Input{Pod: pod(always, "a", "b"), Runtime: seen(running("a")), Started: all("a"), Ready: all("a")},
			phase: corev1.PodPending, init: "True ", ready: "False ContainersNotReady",
		},
		"a failing readiness probe keeps it running, not ready": {
			in:    Input{Pod: pod(always, "a"), Runtime: seen(running("a")), Started: all("a")},
			phase: corev1.PodRunning, init: "True ", ready: "False ContainersNotReady",
		},
		"a container still in its startup probe is not ready": {
			in:    Input{Pod: pod(always, "a"), Runtime: seen(running("a")), Ready: all("a")},
			phase: corev1.PodRunning, init: "True ", ready: "False ContainersNotReady",
		},
		"a crash loop is running": {
			in:    Input{Pod: pod(always, "a"), Runtime: seen(exited("a", 1)), Waiting: map[string]Waiting{"a": {Reason: "CrashLoopBackOff"}}},
			phase: corev1.PodRunning, init: "True ", ready: "False ContainersNotReady",
		},
		"ended well and not to be restarted is succeeded": {
			in:    Input{Pod: pod(onFail, "a"), Runtime: seen(exited("a", 0))},
			phase: corev1.PodSucceeded, init: "True PodCompleted", ready: "False PodCompleted",
		},
		"ended badly and to be restarted is running": {
			in:    Input{Pod: pod(onFail, "a"), Runtime: seen(exited("a", 1))},
			phase: corev1.PodRunning, init: "True ", ready: "False ContainersNotReady",
		},
		"one failed of two that never restart is failed": {
			in:    Input{Pod: pod(never, "a", "b"), Runtime: seen(exited("a", 0), exited("b", 1))},
			phase: corev1.PodFailed, init: "True ", ready: "False PodFailed",
		},
		"one ended of two that never restart is running": {
			in:    Input{Pod: pod(never, "a", "b"), Runtime: seen(exited("a", 0), running("b")), Started: all("b"), Ready: all("b")},
			phase: corev1.PodRunning, init: "True ", ready: "False ContainersNotReady",
		},
		"an init container that failed for good fails the pod": {
			in:    Input{Pod: withInit(pod(never, "a"), false, "x"), Runtime: seen(exited("x", 1))},
			phase: corev1.PodFailed, init: "False ContainersNotInitialized", ready: "False PodFailed",
		},
		"a sidecar that is not ready makes the pod unready": {
			in:    Input{Pod: withInit(pod(always, "a"), true, "s"), Runtime: seen(running("s"), running("a")), Started: all("s", "a"), Ready: all("a")},
			phase: corev1.PodRunning, init: "True ", ready: "False ContainersNotReady",
		},
		"a pod whose containers ended lasts until its sidecars have": {
			in:    Input{Pod: withInit(pod(never, "a"), true, "s"), Runtime: seen(running("s"), exited("a", 0)), Started: all("s"), Ready: all("s")},
			phase: corev1.PodRunning, init: "True ", ready: "False ContainersNotReady",
		},
		"a deleted pod that ended well has succeeded": {
			in:    Input{Pod: pod(always, "a"), Runtime: seen(exited("a", 0)), Stopping: true, Stopped: true},
			phase: corev1.PodSucceeded, init: "True PodCompleted", ready: "False PodCompleted",
		},
		"a deleted pod that had to be killed has failed": {
			in:    Input{Pod: pod(always, "a"), Runtime: seen(exited("a", 137)), Stopping: true, Stopped: true},
			phase: corev1.PodFailed, init: "True ", ready: "False PodFailed",
		},
		"a deleted pod that never started has failed": {
			in:    Input{Pod: pod(always, "a"), Stopping: true, Stopped: true},
			phase: corev1.PodFailed, init: "True ", ready: "False PodFailed",
		},
		"a pod deleted before its init container's turn has failed": {
			in:    Input{Pod: withInit(pod(always, "a"), false, "x"), Stopping: true, Stopped: true},
			phase: corev1.PodFailed, init: "False ContainersNotInitialized", ready: "False PodFailed",
		},
		"an evicted pod has failed with the reason": {
			in:    Input{Pod: pod(always, "a"), Runtime: seen(running("a")), Stopping: true, Reason: "Evicted", Message: "why", Started: all("a"), Ready: all("a")},
			phase: corev1.PodFailed, init: "True ", ready: "False PodFailed",
		},
		"a closed readiness gate keeps a pod of ready containers unready": {
			in: Input{Pod: func() *corev1.Pod {
				p := pod(always, "a")
				p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "gate"}}
				return p
			}(), Runtime: seen(running("a")), Started: all("a"), Ready: all("a")},
			phase: corev1.PodRunning, init: "True ", ready: "False ReadinessGatesNotReady",
		},
		"what has ended does not begin again": {
			in: Input{Pod: func() *corev1.Pod {
				p := pod(always, "a")
				p.Status.Phase = corev1.PodFailed
				return p
			}(), Runtime: seen(running("a")), Started: all("a"), Ready: all("a")},
			phase: corev1.PodFailed, init: "True ", ready: "False PodFailed",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.in.Now = now
			before := tc.in.Pod.DeepCopy()
			s := Of(tc.in)
			if s.Phase != tc.phase {
				t.Errorf("phase = %s, want %s", s.Phase, tc.phase)
			}
			if got := condition(s, corev1.PodInitialized); got != tc.init {
				t.Errorf("Initialized = %q, want %q", got, tc.init)
			}
			if got := condition(s, corev1.PodReady); got != tc.ready {
				t.Errorf("Ready = %q, want %q", got, tc.ready)
			}
			if diff := cmp.Diff(before, tc.in.Pod); diff != "" {
				t.Errorf("Of() changed the pod (-before +after):\n%s", diff)
			}
			again := tc.in
			again.Pod = again.Pod.DeepCopy()
			again.Pod.Status = s
			again.Now = metav1.NewTime(now.Add(time.Hour))
			if diff := cmp.Diff(s, Of(again)); diff != "" {
				t.Errorf("a second look an hour later changes the status (-first +second):\n%s", diff)
			}
		})
	}
}

func TestContainerStatus(t *testing.T) {
	crashed := exited("a", 1)
	crashed.Attempt, crashed.Message = 2, "last words"
	created := running("a")
	created.State = observed.Created
	lost := running("a")
	lost.State = observed.Lost
	told := pod("Always", "a")
	told.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}
	first := exited("a", 1)
	restarted := running("a")
	restarted.Attempt, restarted.ID = 1, "a2-id"
	ended := &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: "last words", FinishedAt: now, ContainerID: "containerd://a-id"}
	tests := map[string]struct {
		in   Input
		want corev1.ContainerStatus
	}{
		"one that waits to be created says so": {
			in:   Input{Pod: pod("Always", "a")},
			want: corev1.ContainerStatus{Name: "a", Image: "i", Started: ptr.To(false), State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		},
		"one that waits for init containers says that": {
			in:   Input{Pod: withInit(pod("Always", "a"), false, "x")},
			want: corev1.ContainerStatus{Name: "a", Image: "i", Started: ptr.To(false), State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}},
		},
		"one that is made but does not run yet still says that": {
			in: Input{Pod: withInit(pod("Always", "a"), false, "x"), Runtime: seen(created)},
			want: corev1.ContainerStatus{Name: "a", Image: "i", Started: ptr.To(false), ContainerID: "containerd://a-id", Resources: &corev1.ResourceRequirements{},
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "PodInitializing"}}},
		},
		"one that cannot start says why": {
			in: Input{Pod: pod("Always", "a"), Waiting: map[string]Waiting{"a": {Reason: "ErrImagePull", Message: "no"}}},
			want: corev1.ContainerStatus{Name: "a", Image: "i", Started: ptr.To(false),
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "no"}}},
		},
		"one in back-off keeps how it ended": {
			in: Input{Pod: pod("Always", "a"), Runtime: seen(crashed), Waiting: map[string]Waiting{"a": {Reason: "CrashLoopBackOff"}}},
			want: corev1.ContainerStatus{Name: "a", Image: "i", Started: ptr.To(false), RestartCount: 2, ContainerID: "containerd://a-id", Resources: &corev1.ResourceRequirements{},
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: ended}},
		},
		"one that may or may not run is what it was": {
			in: Input{Pod: told, Runtime: seen(lost)},
			want: corev1.ContainerStatus{Name: "a", Image: "i", Started: ptr.To(false), ContainerID: "containerd://a-id", Resources: &corev1.ResourceRequirements{},
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}},
		},
		"one that was restarted counts it": {
			in: Input{Pod: pod("Always", "a"), Runtime: seen(restarted, first), Started: map[string]bool{"a2-id": true}, Ready: map[string]bool{"a2-id": true}},
			want: corev1.ContainerStatus{Name: "a", Image: "i", Started: ptr.To(true), Ready: true, RestartCount: 1, ContainerID: "containerd://a2-id", Resources: &corev1.ResourceRequirements{},
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: 1, Reason: "Error", FinishedAt: now, ContainerID: "containerd://a-id"}}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.in.Now, tc.in.Kind = now, "containerd"
			if diff := cmp.Diff(tc.want, Of(tc.in).ContainerStatuses[0]); diff != "" {
				t.Errorf("container status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConditionsOfOthersStay(t *testing.T) {
	p := pod("Always", "a")
	old := metav1.NewTime(now.Add(-time.Hour))
	p.Status.Conditions = []corev1.PodCondition{
		{Type: "example.com/theirs", Status: corev1.ConditionTrue, Reason: "Theirs"},
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
		{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: old},
	}
	s := Of(Input{Pod: p, Now: now})
	for _, kind := range []corev1.PodConditionType{"example.com/theirs", corev1.PodScheduled} {
		if !slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == kind && c.Status == corev1.ConditionTrue }) {
			t.Errorf("condition %s is lost: %+v", kind, s.Conditions)
		}
	}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady && !c.LastTransitionTime.Equal(&old) {
			t.Errorf("Ready did not change but its transition time did: %v", c.LastTransitionTime)
		}
	}
}

func TestAddresses(t *testing.T) {
	s := Of(Input{Pod: pod("Always", "a"), Runtime: seen(), HostIPs: []string{"192.0.2.1"}, Now: now})
	if s.PodIP != "10.0.0.1" || len(s.PodIPs) != 2 || s.HostIP != "192.0.2.1" {
		t.Errorf("addresses = %s %v %s", s.PodIP, s.PodIPs, s.HostIP)
	}
	host := pod("Always", "a")
	host.Spec.HostNetwork = true
	if s := Of(Input{Pod: host, Runtime: seen(), HostIPs: []string{"192.0.2.1"}, Now: now}); s.PodIP != "192.0.2.1" {
		t.Errorf("a pod on the host's network has address %q", s.PodIP)
	}
}

func TestAResizeIsSaidWhileItLasts(t *testing.T) {
	p := pod("Always", "a")
	p.Generation = 2
	conditions := func(in Input) []corev1.PodCondition {
		s := Of(in)
		p.Status = s
		return slices.DeleteFunc(slices.Clone(s.Conditions), func(c corev1.PodCondition) bool { return c.Type != corev1.PodResizeInProgress })
	}
	if got := conditions(Input{Pod: p, Runtime: seen(running("a")), Resizing: true, ResizeError: "busy"}); len(got) != 1 || got[0].Reason != corev1.PodReasonError || got[0].Message != "busy" {
		t.Errorf("while a resize fails: %+v", got)
	}
	if got := conditions(Input{Pod: p, Runtime: seen(running("a"))}); len(got) != 0 {
		t.Errorf("after the resize: %+v", got)
	}
}

func TestWhoseTurnCameHasAnEnd(t *testing.T) {
	tests := map[string]struct {
		runtime   observed.Pod
		init, app string // reasons
	}{
		"after a failed init container the others wait": {seen(exited("x", 1)), "ended Error", "waiting PodInitializing"},
		"before any began they wait":                    {seen(), "waiting PodInitializing", "waiting PodInitializing"},
		"of an initialized pod all have ended":          {seen(exited("x", 0)), "ended Completed", "ended ContainerStatusUnknown"},
		"an init container that is lost has ended":      {seen(running("x")), "ended ContainerStatusUnknown", "waiting PodInitializing"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := Of(Input{Pod: withInit(pod(corev1.RestartPolicyNever, "a"), false, "x"), Runtime: tc.runtime, Stopping: true, Stopped: true, Now: now})
			if got := state(s.InitContainerStatuses[0]); got != tc.init {
				t.Errorf("init container %s, want %s", got, tc.init)
			}
			if got := state(s.ContainerStatuses[0]); got != tc.app {
				t.Errorf("container %s, want %s", got, tc.app)
			}
		})
	}
}

func state(s corev1.ContainerStatus) string {
	switch {
	case s.State.Terminated != nil:
		return "ended " + s.State.Terminated.Reason
	case s.State.Waiting != nil:
		return "waiting " + s.State.Waiting.Reason
	}
	return "running"
}

func TestAPodThatBeginsAnewIsPendingUntilAllRun(t *testing.T) {
	p := pod(corev1.RestartPolicyNever, "a", "b")
	p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}},
	}}
	again := func(c observed.Container, state observed.State) observed.Container {
		c.Round, c.Attempt, c.State, c.ID = 1, 1, state, c.Name+"1-id"
		return c
	}
	cause := exited("a", 88)
	tests := map[string]struct {
		runtime   observed.Pod
		stopping  bool
		phase     corev1.PodPhase
		condition string
		message   string
		waits     []string // containers
	}{
		"while others still run": {
			runtime: seen(cause, running("b")), phase: corev1.PodPending, condition: "True ContainerExited",
			message: "Container a exited with code 88, triggering pod restart", waits: []string{"a"},
		},
		"when all have ended":      {runtime: seen(cause, exited("b", 137)), phase: corev1.PodPending, condition: "False ", waits: []string{"a", "b"}},
		"while the first runs":     {runtime: seen(again(running("a"), observed.Running), cause, exited("b", 137)), phase: corev1.PodPending, condition: "False ", waits: []string{"b"}},
		"when all run":             {runtime: seen(again(running("a"), observed.Running), cause, again(running("b"), observed.Running)), phase: corev1.PodRunning, condition: "False "},
		"unless it is ended first": {runtime: seen(cause, running("b")), stopping: true, phase: corev1.PodRunning, condition: "False "},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := Of(Input{Pod: p, Runtime: tc.runtime, Stopping: tc.stopping, Now: now})
			if got := condition(s, corev1.AllContainersRestarting); s.Phase != tc.phase || got != tc.condition {
				t.Errorf("phase %s, condition %q; want %s, %q", s.Phase, got, tc.phase, tc.condition)
			}
			if i := slices.IndexFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.AllContainersRestarting }); i >= 0 && s.Conditions[i].Message != tc.message {
				t.Errorf("it says %q; want %q", s.Conditions[i].Message, tc.message)
			}
			var waits []string
			for _, c := range s.ContainerStatuses {
				if c.State.Waiting != nil {
					waits = append(waits, c.Name)
				}
			}
			if diff := cmp.Diff(tc.waits, waits); diff != "" {
				t.Errorf("containers that wait (-want +got):\n%s", diff)
			}
		})
	}
}

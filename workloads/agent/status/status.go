// Package status computes what the API is told about a pod.
//
// In:       the pod as the API has it, what the runtime says, probe results, why containers wait.
// Out:      the whole pod status, as a value.
// Promise:  pure; conditions of other writers stay; a transition time changes only with its condition; a pod that has
//
//	ended never un-ends.
//
// Not here: writing it (workloads/agent/pod), deciding what to do (workloads/agent/pod).
package status

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/observed"
)

// Waiting is why a container does not run.
type Waiting struct{ Reason, Message string }

// Pending is why a pod was not granted what it asks for now: Deferred or Infeasible. Empty when it was.
type Pending struct{ Reason, Message string }

// Input is everything a status is computed from.
type Input struct {
	Pod     *corev1.Pod // its status is the last one the API had
	Runtime observed.Pod
	Waiting map[string]Waiting // by container name
	Started map[string]bool    // by container ID: the startup probe passed, or there is none
	Ready   map[string]bool    // by container ID: the readiness probe passes, or there is none
	HostIPs []string
	Kind    string // of runtime, such as containerd

	Pending     Pending // why a resize has to wait
	Resizing    bool    // not all of it is held to what it asks for now
	ResizeError string  // why the last try failed

	Stopping bool // the pod is being ended; nothing is started any more
	Stopped  bool // and nothing of it runs any more
	Reason   string
	Message  string // why it was ended, when not by deleting it
	// Disrupted: it was ended for others' sake.
	Disrupted bool

	Now metav1.Time

	round int                 // of the pod
	cause *observed.Container // whose end began it
}

// Of is the pod's status.
func Of(in Input) corev1.PodStatus {
	old := &in.Pod.Status
	spec := &in.Pod.Spec
	s := *old.DeepCopy() // what other writers keep there stays
	in.round, in.cause = Round(in.Pod, in.Runtime)
	s.ObservedGeneration = in.Pod.Generation
	s.QOSClass = cgroup.QOS(in.Pod)
	s.Reason, s.Message = in.Reason, in.Message
	s.HostIPs = hostIPs(in.HostIPs)
	s.InitContainerStatuses = in.containers(spec.InitContainers, old.InitContainerStatuses, true)
	s.ContainerStatuses = in.containers(spec.Containers, old.ContainerStatuses, false)
	s.EphemeralContainerStatuses = in.containers(ephemeral(spec.EphemeralContainers), old.EphemeralContainerStatuses, false)
	if s.StartTime == nil {
		s.StartTime = &in.Now
	}
	if len(s.HostIPs) > 0 {
		s.HostIP = s.HostIPs[0].IP
	}
	in.podIPs(&s)
	initialized := in.initialized(s.InitContainerStatuses)
	if in.Stopped {
		in.closeBooks(&s, len(initialized) == 0)
	}
	s.Phase = in.phase(&s, len(initialized) == 0)
	if ended(old.Phase) {
		s.Phase = old.Phase
		if s.Reason == "" {
			s.Reason, s.Message = old.Reason, old.Message
		}
	}
	s.Conditions = in.conditions(&s, initialized)
	return s
}

func ended(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

func hostIPs(ips []string) []corev1.HostIP {
	out := make([]corev1.HostIP, 0, len(ips))
	for _, ip := range ips {
		out = append(out, corev1.HostIP{IP: ip})
	}
	return out
}

func ephemeral(list []corev1.EphemeralContainer) []corev1.Container {
	out := make([]corev1.Container, 0, len(list))
	for i := range list {
		out = append(out, corev1.Container(list[i].EphemeralContainerCommon))
	}
	return out
}

func (in *Input) podIPs(s *corev1.PodStatus) {
	s.PodIP, s.PodIPs = "", nil
	sandbox := in.Runtime.Sandbox()
	switch {
	case sandbox != nil && sandbox.Ready && in.Pod.Spec.HostNetwork:
		for _, ip := range in.HostIPs {
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
		}
	case sandbox != nil && sandbox.Ready:
		for _, ip := range sandbox.IPs {
			s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
		}
	default:
		s.PodIPs = slices.Clone(in.Pod.Status.PodIPs) // it keeps the last one for whoever reads about a pod that ended
	}
	if len(s.PodIPs) > 0 {
		s.PodIP = s.PodIPs[0].IP
	}
}

// initialized lists the init containers that are not through yet: not ended well, or a sidecar not started.
func (in *Input) initialized(statuses []corev1.ContainerStatus) (open []string) {
	for i := range statuses {
		st, c := &statuses[i], &in.Pod.Spec.InitContainers[i]
		done := st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
		if Restartable(c) {
			done = st.Started != nil && *st.Started || st.State.Terminated != nil && in.Stopping
		}
		if !done {
			open = append(open, st.Name)
		}
	}
	return open
}

// closeBooks gives every container of an ended pod an end: whoever waits for the pod waits for that. Only containers
// whose turn never came stay waiting; that an init container failed is told by them too.
func (in *Input) closeBooks(s *corev1.PodStatus, initialized bool) {
	lost := func(list []corev1.ContainerStatus) {
		for i := range list {
			began := initialized || list[i].State.Running != nil || list[i].LastTerminationState.Terminated != nil
			if began && list[i].State.Terminated == nil {
				list[i].State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: 137, Reason: "ContainerStatusUnknown",
					Message: "The container could not be located when the pod was terminated",
				}}
				list[i].Ready = false
				list[i].Started = new(bool)
			}
		}
	}
	lost(s.ContainerStatuses)
	lost(s.EphemeralContainerStatuses)
	lost(s.InitContainerStatuses)
}

// phase sums up the containers.
func (in *Input) phase(s *corev1.PodStatus, initialized bool) corev1.PodPhase {
	if in.Reason != "" && in.Stopping {
		return corev1.PodFailed // evicted, or past its deadline
	}
	if in.beginsAnew() {
		return corev1.PodPending
	}
	var running, waiting, stopped, succeeded int
	for i := range s.ContainerStatuses {
		st := &s.ContainerStatuses[i]
		switch {
		case st.State.Running != nil:
			running++
		case st.State.Terminated != nil:
			stopped++
			if st.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case st.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waiting++
		}
	}
	policy := in.Pod.Spec.RestartPolicy
	if in.Stopped {
		policy = corev1.RestartPolicyNever
	}
	if policy == corev1.RestartPolicyNever && in.initFailed(s.InitContainerStatuses) {
		return corev1.PodFailed
	}
	switch {
	case !initialized && !in.Stopped && running == 0 && stopped == 0:
		return corev1.PodPending
	case waiting > 0 && in.Stopped:
		return corev1.PodFailed
	case waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case in.restarts(s.ContainerStatuses, policy):
		return corev1.PodRunning
	case in.sidecarsRun(s.InitContainerStatuses):
		return corev1.PodRunning // the pod ends when its sidecars have
	case stopped == succeeded:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

func (in *Input) initFailed(statuses []corev1.ContainerStatus) bool {
	for i := range statuses {
		if t := statuses[i].State.Terminated; t != nil && t.ExitCode != 0 && !Restartable(&in.Pod.Spec.InitContainers[i]) {
			return true
		}
	}
	return false
}

// restarts says whether any ended container will be started again.
func (in *Input) restarts(statuses []corev1.ContainerStatus, policy corev1.RestartPolicy) bool {
	for i := range statuses {
		code := int32(1)
		if t := statuses[i].State.Terminated; t != nil {
			code = t.ExitCode
		}
		own := policy
		if !in.Stopped {
			own = Policy(in.Pod, &in.Pod.Spec.Containers[i], code)
		}
		if own == corev1.RestartPolicyAlways || own == corev1.RestartPolicyOnFailure && code != 0 {
			return true
		}
	}
	return false
}

func (in *Input) sidecarsRun(statuses []corev1.ContainerStatus) bool {
	return slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil })
}

func unready(statuses []corev1.ContainerStatus) (names []string) {
	for i := range statuses {
		if !statuses[i].Ready {
			names = append(names, statuses[i].Name)
		}
	}
	return names
}

func (in *Input) conditions(s *corev1.PodStatus, open []string) []corev1.PodCondition {
	set := conditionSet{old: in.Pod.Status.Conditions, generation: in.Pod.Generation, now: in.Now}
	sandbox := in.Runtime.Sandbox()
	set.add(corev1.PodReadyToStartContainers, sandbox != nil && sandbox.Ready, "", "")

	completed := map[corev1.PodPhase]string{corev1.PodSucceeded: "PodCompleted", corev1.PodFailed: "PodFailed"}[s.Phase]
	switch {
	case s.Phase == corev1.PodSucceeded:
		set.add(corev1.PodInitialized, true, completed, "")
	case len(open) > 0 && !beganMain(s):
		set.add(corev1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %v", open))
	default:
		set.add(corev1.PodInitialized, true, "", "")
	}

	missing := unready(s.ContainerStatuses)
	for i := range in.Pod.Spec.InitContainers {
		if Restartable(&in.Pod.Spec.InitContainers[i]) && !s.InitContainerStatuses[i].Ready {
			missing = append(missing, s.InitContainerStatuses[i].Name)
		}
	}
	ready, reason, message := len(missing) == 0, "", ""
	switch {
	case completed != "":
		ready, reason = false, completed
	case !ready:
		reason, message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %v", missing)
	}
	set.add(corev1.ContainersReady, ready, reason, message)
	if gate := in.closedGate(); ready && gate != "" {
		ready, reason, message = false, "ReadinessGatesNotReady", gate
	}
	set.add(corev1.PodReady, ready, reason, message)
	in.restarting(&set)
	if in.Disrupted {
		set.add(corev1.DisruptionTarget, true, corev1.PodReasonTerminationByKubelet, in.Message)
	}
	set.old = slices.DeleteFunc(slices.Clone(set.old), func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending && in.Pending.Reason == ""
	})
	if in.Pending.Reason != "" && !in.Stopping {
		set.add(corev1.PodResizePending, true, in.Pending.Reason, in.Pending.Message)
	}
	if in.Resizing && !in.Stopping {
		reason := ""
		if in.ResizeError != "" {
			reason = corev1.PodReasonError
		}
		set.add(corev1.PodResizeInProgress, true, reason, in.ResizeError)
	} else {
		set.old = slices.DeleteFunc(slices.Clone(set.old), func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizeInProgress })
	}
	return set.result()
}

// beganMain: a sidecar restarting later does not make the pod uninitialized again.
func beganMain(s *corev1.PodStatus) bool {
	return slices.ContainsFunc(s.ContainerStatuses, func(c corev1.ContainerStatus) bool { return c.ContainerID != "" })
}

func (in *Input) closedGate() string {
	for _, gate := range in.Pod.Spec.ReadinessGates {
		i := slices.IndexFunc(in.Pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == gate.ConditionType })
		if i < 0 {
			return fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType)
		}
		if in.Pod.Status.Conditions[i].Status != corev1.ConditionTrue {
			return fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, in.Pod.Status.Conditions[i].Status)
		}
	}
	return ""
}

// conditionSet builds the list: ours in a fixed order, then those of other writers as they were.
type conditionSet struct {
	old        []corev1.PodCondition
	generation int64
	now        metav1.Time
	ours       []corev1.PodCondition
}

func (s *conditionSet) add(kind corev1.PodConditionType, ok bool, reason, message string) {
	c := corev1.PodCondition{
		Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: s.now, ObservedGeneration: s.generation,
	}
	if ok {
		c.Status = corev1.ConditionTrue
	}
	if i := slices.IndexFunc(s.old, func(o corev1.PodCondition) bool { return o.Type == kind }); i >= 0 && s.old[i].Status == c.Status {
		c.LastTransitionTime = s.old[i].LastTransitionTime
	}
	s.ours = append(s.ours, c)
}

func (s *conditionSet) result() []corev1.PodCondition {
	for _, o := range s.old {
		if !slices.ContainsFunc(s.ours, func(c corev1.PodCondition) bool { return c.Type == o.Type }) {
			s.ours = append(s.ours, o)
		}
	}
	return s.ours
}

package status

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/translate"
)

// Restartable says whether an init container is a sidecar: it keeps running beside the containers.
func Restartable(c *corev1.Container) bool {
	return ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
}

// containers reports each container of a list in the spec's order.
func (in *Input) containers(list []corev1.Container, old []corev1.ContainerStatus, init bool) []corev1.ContainerStatus {
	if len(list) == 0 {
		return nil
	}
	out := make([]corev1.ContainerStatus, 0, len(list))
	for i := range list {
		was := slices.IndexFunc(old, func(s corev1.ContainerStatus) bool { return s.Name == list[i].Name })
		var before *corev1.ContainerStatus
		if was >= 0 {
			before = &old[was]
		}
		out = append(out, in.container(&list[i], before, init))
	}
	return out
}

func (in *Input) container(c *corev1.Container, before *corev1.ContainerStatus, init bool) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: ptr.To(false)}
	runs := in.Runtime.Containers[c.Name]
	waiting, isWaiting := in.Waiting[c.Name]
	if len(runs) == 0 {
		in.unborn(&s, before, waiting, isWaiting)
		return s
	}
	latest := &runs[0]
	s.ContainerID = in.id(latest)
	s.ImageID = latest.ImageID
	if latest.Image != "" {
		s.Image = latest.Image
	}
	s.RestartCount = int32(latest.Attempt)
	in.resources(&s, c, before, latest)
	switch {
	case latest.State == observed.Running:
		s.State.Running = &corev1.ContainerStateRunning{StartedAt: second(latest.Started)}
		s.Started = ptr.To(in.Started[latest.ID])
		s.Ready = in.Started[latest.ID] && in.Ready[latest.ID] && (!init || Restartable(c))
	case latest.State == observed.Lost && before != nil: // until it is known
		s.State, s.LastTerminationState = before.State, before.LastTerminationState
		return s
	case latest.State == observed.Exited && !isWaiting && in.outdated(c.Name):
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: in.starting()}
		s.LastTerminationState.Terminated = in.terminated(latest)
		return s
	case latest.State == observed.Exited && (!isWaiting || in.Stopped):
		s.State.Terminated = in.terminated(latest)
		s.Ready = init && !Restartable(c) && latest.ExitCode == 0
	case latest.State == observed.Exited:
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}
		s.LastTerminationState.Terminated = in.terminated(latest)
		return s
	default:
		if !isWaiting {
			waiting.Reason = in.starting()
		}
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}
	}
	for i := range runs[1:] {
		if runs[i+1].State == observed.Exited {
			s.LastTerminationState.Terminated = in.terminated(&runs[i+1])
			break
		}
	}
	if s.LastTerminationState.Terminated == nil && before != nil && s.RestartCount > 0 && s.RestartCount == before.RestartCount {
		s.LastTerminationState = before.LastTerminationState // its container was removed meanwhile
	}
	return s
}

const (
	creating     = "ContainerCreating"
	initializing = "PodInitializing"
)

// starting is what a container waits for when nothing is wrong. It is one reason until the container runs, whether the
// runtime has made it already or not.
func (in *Input) starting() string {
	if len(in.Pod.Spec.InitContainers) > 0 {
		return initializing
	}
	return creating
}

// unborn reports a container the runtime has no run of: it was never started, or the record of it was lost.
func (in *Input) unborn(s *corev1.ContainerStatus, before *corev1.ContainerStatus, waiting Waiting, isWaiting bool) {
	if before != nil {
		s.RestartCount = before.RestartCount
		s.LastTerminationState = before.LastTerminationState
		if before.State.Terminated != nil {
			s.State, s.ContainerID, s.ImageID, s.Ready = before.State, before.ContainerID, before.ImageID, before.Ready
			if !isWaiting {
				return
			}
			s.LastTerminationState, s.State = before.State, corev1.ContainerState{}
		}
	}
	if !isWaiting {
		waiting.Reason = in.starting()
	}
	s.State.Waiting = &corev1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}
}

// id is a container's in the API's words: with who runs it.
func (in *Input) id(c *observed.Container) string { return in.Kind + "://" + c.ID }

func (in *Input) terminated(c *observed.Container) *corev1.ContainerStateTerminated {
	reason := c.Reason
	if reason == "" {
		reason = "Error"
		if c.ExitCode == 0 {
			reason = "Completed"
		}
	}
	return &corev1.ContainerStateTerminated{
		ExitCode:    c.ExitCode,
		Reason:      reason,
		Message:     c.Message,
		StartedAt:   second(c.Started),
		FinishedAt:  second(c.Finished),
		ContainerID: in.id(c),
	}
}

// second drops what the API would drop, so that a status read back is equal to the one written.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// resources repeats what the container got, its user and its mounts, as clients of the API expect.
func (in *Input) resources(s *corev1.ContainerStatus, c *corev1.Container, before *corev1.ContainerStatus, latest *observed.Container) {
	s.AllocatedResources = c.Resources.Requests.DeepCopy()
	resizing := latest.State == observed.Running && latest.Bounds != (translate.Bounds{}) && latest.Bounds != latest.Wanted(c)
	if resizing && before != nil && before.Resources != nil {
		s.Resources = before.Resources.DeepCopy() // what it has, until it has what it asks for now
	} else if len(c.Resources.Requests)+len(c.Resources.Limits) > 0 {
		s.Resources = &corev1.ResourceRequirements{Requests: c.Resources.Requests.DeepCopy(), Limits: c.Resources.Limits.DeepCopy()}
	} else {
		s.Resources = &corev1.ResourceRequirements{}
	}
	if u := latest.User; u != nil {
		s.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
	}
	for _, m := range c.VolumeMounts {
		vm := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			vm.RecursiveReadOnly = ptr.To(ptr.Deref(m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled))
			if *vm.RecursiveReadOnly == corev1.RecursiveReadOnlyIfPossible {
				vm.RecursiveReadOnly = ptr.To(corev1.RecursiveReadOnlyDisabled)
			}
		}
		s.VolumeMounts = append(s.VolumeMounts, vm)
	}
}

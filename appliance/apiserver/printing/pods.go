package printing

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Pods say in one word what is going on, which no single field does.
func Pods() rest.TableConvertor {
	return table(podCells,
		text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
		text("Status", "The aggregate status of the containers in this pod."),
		text("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
		age,
		wide("IP", "The address of the pod."),
		wide("Node", "The node the pod is on."),
		wide("Nominated Node", "The node the pod may be placed on once others have made room."),
		wide("Readiness Gates", "The conditions the pod waits for besides its containers."))
}

func podCells(pod *corev1.Pod, now time.Time) []any {
	s := summarize(pod)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts > 0 && !s.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts, since(s.lastRestart, now))
	}
	ip := pod.Status.PodIP
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	gates := none
	if total := len(pod.Spec.ReadinessGates); total > 0 {
		passed := 0
		for _, gate := range pod.Spec.ReadinessGates {
			if conditionIs(pod, gate.ConditionType, corev1.ConditionTrue) {
				passed++
			}
		}
		gates = fmt.Sprintf("%d/%d", passed, total)
	}
	return []any{fmt.Sprintf("%d/%d", s.ready, s.total), s.status, restarts, since(pod.CreationTimestamp, now),
		orNone(ip), orNone(pod.Spec.NodeName), orNone(pod.Status.NominatedNodeName), gates}
}

// summary is a pod at a glance.
type summary struct {
	ready, total, restarts int
	lastRestart            metav1.Time
	status                 string
}

// nodeLost is the reason of pods whose node nobody hears from.
const nodeLost = "NodeLost"

// summarize looks for the first thing that keeps the pod from running, in the order in which things happen:
// the pod itself, its init containers, its containers, its deletion.
func summarize(pod *corev1.Pod) summary {
	s := summary{status: string(pod.Status.Phase), total: len(pod.Spec.Containers)}
	if pod.Status.Reason != "" {
		s.status = pod.Status.Reason
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.status = corev1.PodReasonSchedulingGated
		}
	}
	sidecars := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		if deref(c.RestartPolicy) == corev1.ContainerRestartPolicyAlways {
			sidecars[c.Name] = true
			s.total++
		}
	}
	initializing := s.addInit(pod, sidecars)
	if !initializing || conditionIs(pod, corev1.PodInitialized, corev1.ConditionTrue) {
		s.addContainers(pod, initializing)
	}
	if pod.DeletionTimestamp != nil {
		switch {
		case pod.Status.Reason == nodeLost:
			s.status = "Unknown"
		case pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodSucceeded:
			s.status = "Terminating"
		}
	}
	return s
}

// addInit says whether init containers are still at work.
func (s *summary) addInit(pod *corev1.Pod, sidecars map[string]bool) bool {
	var sidecarRestarts int
	var lastSidecar metav1.Time
	for i, c := range pod.Status.InitContainerStatuses {
		s.restarts += int(c.RestartCount)
		s.restarted(c.LastTerminationState.Terminated)
		if sidecars[c.Name] {
			sidecarRestarts += int(c.RestartCount)
			if t := c.LastTerminationState.Terminated; t != nil && lastSidecar.Before(&t.FinishedAt) {
				lastSidecar = t.FinishedAt
			}
		}
		switch {
		case c.State.Terminated != nil && c.State.Terminated.ExitCode == 0:
			continue
		case sidecars[c.Name] && deref(c.Started):
			if c.Ready {
				s.ready++
			}
			continue
		case c.State.Terminated != nil:
			s.status = "Init:" + ended(c.State.Terminated)
		case c.State.Waiting != nil && c.State.Waiting.Reason != "" && c.State.Waiting.Reason != "PodInitializing":
			s.status = "Init:" + c.State.Waiting.Reason
		default:
			s.status = fmt.Sprintf("Init:%d/%d", i, len(pod.Spec.InitContainers))
		}
		return true
	}
	// Those that are done no longer count; those that stay do.
	s.restarts, s.lastRestart = sidecarRestarts, lastSidecar
	return false
}

func (s *summary) addContainers(pod *corev1.Pod, initializing bool) {
	if initializing {
		s.restarts, s.lastRestart = 0, metav1.Time{}
	}
	running := false
	for i := len(pod.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &pod.Status.ContainerStatuses[i]
		s.restarts += int(c.RestartCount)
		s.restarted(c.LastTerminationState.Terminated)
		switch {
		case c.State.Waiting != nil && c.State.Waiting.Reason != "":
			s.status = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			s.status = ended(c.State.Terminated)
		case c.Ready && c.State.Running != nil:
			running = true
			s.ready++
		}
	}
	// One container of several being done does not make the pod done.
	if s.status == "Completed" && running {
		s.status = "NotReady"
		if conditionIs(pod, corev1.PodReady, corev1.ConditionTrue) {
			s.status = "Running"
		}
	}
}

func (s *summary) restarted(t *corev1.ContainerStateTerminated) {
	if t != nil && s.lastRestart.Before(&t.FinishedAt) {
		s.lastRestart = t.FinishedAt
	}
}

func ended(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", t.ExitCode)
}

func conditionIs(pod *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == kind {
			return c.Status == status
		}
	}
	return false
}

// PodTemplates show what their pods run.
func PodTemplates() rest.TableConvertor {
	return table(func(t *corev1.PodTemplate, _ time.Time) []any {
		names, images := containers(&t.Template.Spec)
		return []any{names, images, labelsOf(t.Template.Labels)}
	}, text("Containers", "Names of each container in the template."), text("Images", "Images referenced by each container in the template."), text("Pod Labels", "The labels for the pod template."))
}

// containers are the names and images of a spec's containers, as one cell each.
func containers(spec *corev1.PodSpec) (names, images string) {
	var n, i []string
	for _, c := range spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func labelsOf(m map[string]string) string {
	return orNone(metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: m}))
}

// Events read from the newest fact: how often something happened and when last.
func Events() rest.TableConvertor {
	return unnamed(func(e *corev1.Event, now time.Time) []any {
		first, last := e.FirstTimestamp, e.LastTimestamp
		if first.IsZero() {
			first = metav1.Time{Time: e.EventTime.Time}
		}
		count := max(e.Count, 1)
		if e.Series != nil {
			last, count = metav1.Time{Time: e.Series.LastObservedTime.Time}, e.Series.Count
		}
		if last.IsZero() {
			last = first
		}
		source := e.Source.Component
		if source == "" {
			source = e.ReportingController
		}
		if e.Source.Host != "" {
			source += ", " + e.Source.Host
		}
		about := strings.ToLower(e.InvolvedObject.Kind)
		if e.InvolvedObject.Name != "" {
			about += "/" + e.InvolvedObject.Name
		}
		return []any{since(last, now), e.Type, e.Reason, about, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), since(first, now), int64(count), e.Name}
	},
		text("Last Seen", "Time at which the most recent occurrence of this event was recorded."),
		text("Type", "Type of this event (Normal, Warning)."), text("Reason", "The reason for the transition into the object's current status."),
		text("Object", "The object this event is about."), wide("Subobject", "The part of the object."), wide("Source", "The component reporting this event."),
		text("Message", "A human-readable description."), wide("First Seen", "The time at which the event was first recorded."),
		wide("Count", "The number of times this event has occurred."), wide("Name", "Name of the event."))
}

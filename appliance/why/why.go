package why

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Explain says why a pod is in the state it is in.
func Explain(f *Facts) (*Report, error) {
	switch pod := f.Pod; {
	case pod == nil:
		return missing(f), nil
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return ended(f), nil
	case pod.DeletionTimestamp != nil:
		return leavingNow(f), nil
	case pod.Spec.NodeName == "":
		return unplaced(f)
	}
	return placed(f), nil
}

// missing explains a pod that is not there: whoever would make it may not.
func missing(f *Facts) *Report {
	r := &Report{Unknown: f.Unknown}
	if len(f.Owners) == 0 {
		r.Cause = fmt.Sprintf("There is no pod %s in namespace %s, and nobody complains about not being able to make it.", f.Name, f.Namespace)
		r.do("Look for it elsewhere: kubectl get pods -A | grep %s", f.Name)
		return r
	}
	for _, owner := range f.Owners {
		last := owner.Said[len(owner.Said)-1]
		if r.Cause == "" {
			r.Cause = fmt.Sprintf("There is no pod %s in namespace %s: %s %s could not make it.", f.Name, f.Namespace, owner.Kind, owner.Name)
		}
		r.section(fmt.Sprintf("%s %s says (%s ago)", owner.Kind, owner.Name, ago(f.Now, lastSeen(&last))), last.Message)
		switch {
		case strings.Contains(last.Message, "exceeded quota"):
			r.do("Raise the ResourceQuota, or delete what uses it up: kubectl -n %s describe quota", f.Namespace)
		case strings.Contains(last.Message, "violates PodSecurity"):
			r.do("Change the pod's security settings as the message says, or the namespace's label pod-security.kubernetes.io/enforce.")
		case strings.Contains(last.Message, "LimitRange"), strings.Contains(last.Message, "maximum") && strings.Contains(last.Message, "usage per"), strings.Contains(last.Message, "minimum") && strings.Contains(last.Message, "usage per"):
			r.do("Keep the containers' resources within the LimitRange: kubectl -n %s describe limitrange", f.Namespace)
		case strings.Contains(last.Message, "admission webhook"):
			r.do("A webhook refused it: its message says why; kubectl get validatingwebhookconfigurations,mutatingwebhookconfigurations")
		case strings.Contains(last.Message, "serviceaccount") && strings.Contains(last.Message, "not found"):
			r.do("Create the service account the pod template names.")
		default:
			r.do("Change the template of %s %s as the message says.", owner.Kind, owner.Name)
		}
	}
	return r
}

// ended explains a pod that is over.
func ended(f *Facts) *Report {
	pod, r := f.Pod, &Report{Unknown: f.Unknown}
	name := pod.Namespace + "/" + pod.Name
	if pod.Status.Phase == corev1.PodSucceeded {
		r.Cause = fmt.Sprintf("Pod %s is done: all its containers ended well.", name)
		return r
	}
	r.Cause = fmt.Sprintf("Pod %s has failed and is not started again.", name)
	if pod.Status.Reason != "" {
		r.Cause = fmt.Sprintf("Pod %s has failed: %s. %s", name, pod.Status.Reason, pod.Status.Message)
	}
	if pod.Status.Reason == "Evicted" {
		r.do("The node was short of something: say in the pod's requests what it uses, or free space on node %s.", pod.Spec.NodeName)
	}
	for _, s := range allStatuses(pod) {
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			r.section("Container "+s.Name, endLine(f, &s, t)...)
		}
	}
	if c := conditionOf(pod, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		r.section("Disruption", c.Reason+"\t"+c.Message)
	}
	return r
}

// leavingNow explains a pod that is being deleted.
func leavingNow(f *Facts) *Report {
	pod, r := f.Pod, &Report{Unknown: f.Unknown}
	name, due := pod.Namespace+"/"+pod.Name, pod.DeletionTimestamp.Time
	r.Cause = fmt.Sprintf("Pod %s is being deleted; its containers have until %s.", name, due.UTC().Format("15:04:05 UTC"))
	if f.Now.After(due) {
		r.Cause = fmt.Sprintf("Pod %s should have been gone for %s.", name, ago(f.Now, due))
	}
	if len(pod.Finalizers) > 0 {
		r.section("Finalizers", pod.Finalizers...)
		r.do("Whoever set a finalizer has to remove it; its name says who that is.")
	}
	if n := nodeOf(f); pod.Spec.NodeName != "" && f.Now.After(due) && len(f.Unknown) == 0 {
		switch {
		case n == nil:
			r.section("Node", pod.Spec.NodeName+"\tno longer exists")
		case !ready(n):
			r.section("Node", n.Name+"\tis not ready, so nobody can say that the containers have ended")
			r.do("Bring node %s back, or, if the machine is surely off: kubectl -n %s delete pod %s --grace-period=0 --force", n.Name, pod.Namespace, pod.Name)
		default:
			r.section("Events", eventLines(f, "")...)
		}
	}
	return r
}

// placed explains a pod that has a node.
func placed(f *Facts) *Report {
	pod, r := f.Pod, &Report{Unknown: f.Unknown}
	name := pod.Namespace + "/" + pod.Name
	if n := nodeOf(f); n == nil && len(f.Unknown) == 0 {
		r.Cause = fmt.Sprintf("Pod %s is on node %s, which no longer exists.", name, pod.Spec.NodeName)
		r.do("It is deleted by itself soon; if it was made by hand, delete it and create it again.")
		return r
	} else if n != nil && !ready(n) {
		r.Cause = fmt.Sprintf("Pod %s is on node %s, which is not ready: what is known about its containers is old.", name, n.Name)
		if c := nodeReady(n); c != nil {
			r.section("Node "+n.Name, c.Reason+"\t"+c.Message)
		}
		r.do("Bring node %s back: `knarr status` and the log there say what it lacks.", n.Name)
		return r
	}
	for _, find := range []func(*Facts, *Report) bool{volumesMissing, initFailing, containerWaiting, containerFailing, notReady} {
		if find(f, r) {
			return r
		}
	}
	r.Cause = fmt.Sprintf("Pod %s runs on node %s and is ready.", name, pod.Spec.NodeName)
	if pod.Status.Phase != corev1.PodRunning {
		r.Cause = fmt.Sprintf("Pod %s is being started on node %s.", name, pod.Spec.NodeName)
		r.section("Events", eventLines(f, "")...)
	}
	for _, s := range pod.Status.ContainerStatuses {
		if t := s.LastTerminationState.Terminated; t != nil {
			r.section(fmt.Sprintf("Container %s was started again %d time(s); the last time", s.Name, s.RestartCount), endLine(f, &s, t)...)
		}
	}
	return r
}

// volumesMissing finds what keeps a pod's volumes from being mounted, or its sandbox from being made: containers only
// say that they are being created then.
func volumesMissing(f *Facts, r *Report) bool {
	for _, s := range allStatuses(f.Pod) {
		if s.State.Running != nil || s.State.Terminated != nil || (s.State.Waiting != nil && !slices.Contains([]string{"", "ContainerCreating", "PodInitializing"}, s.State.Waiting.Reason)) {
			return false
		}
	}
	for _, reason := range []string{"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "NetworkNotReady"} {
		lines := eventLines(f, reason)
		if len(lines) == 0 {
			continue
		}
		what := "its volumes are not there yet"
		if reason == "FailedCreatePodSandBox" || reason == "NetworkNotReady" {
			what = "its network is not there yet"
		}
		r.Cause = fmt.Sprintf("Pod %s/%s cannot start on node %s: %s.", f.Namespace, f.Name, f.Pod.Spec.NodeName, what)
		r.section(reason, lines[len(lines)-1])
		r.do("Do as the message says; it is tried again by itself.")
		return true
	}
	return false
}

// initFailing finds the init container that does not end.
func initFailing(f *Facts, r *Report) bool {
	pod := f.Pod
	for i, s := range pod.Status.InitContainerStatuses {
		if s.State.Terminated != nil && s.State.Terminated.ExitCode == 0 || s.Started != nil && *s.Started && sidecar(pod, s.Name) {
			continue
		}
		where := fmt.Sprintf("init container %s (%d of %d)", s.Name, i+1, len(pod.Status.InitContainerStatuses))
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing" && s.State.Waiting.Reason != "":
			waiting(f, r, where, &s)
		case s.State.Terminated != nil:
			r.Cause = fmt.Sprintf("Pod %s/%s does not get past %s, which failed.", f.Namespace, f.Name, where)
			r.section("Container "+s.Name, endLine(f, &s, s.State.Terminated)...)
		case s.State.Running != nil:
			r.Cause = fmt.Sprintf("Pod %s/%s waits for %s, which has run for %s.", f.Namespace, f.Name, where, ago(f.Now, s.State.Running.StartedAt.Time))
			r.do("See what it waits for: kubectl -n %s logs %s -c %s", f.Namespace, f.Name, s.Name)
		default:
			continue
		}
		return true
	}
	return false
}

func sidecar(pod *corev1.Pod, name string) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	})
}

// containerWaiting finds a container that cannot be started: its image, its configuration, its crashes.
func containerWaiting(f *Facts, r *Report) bool {
	for _, s := range f.Pod.Status.ContainerStatuses {
		if w := s.State.Waiting; w != nil && w.Reason != "" && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
			waiting(f, r, "container "+s.Name, &s)
			return true
		}
	}
	return false
}

// waiting explains a container by the reason it waits for.
func waiting(f *Facts, r *Report, where string, s *corev1.ContainerStatus) {
	w, name := s.State.Waiting, f.Namespace+"/"+f.Name
	switch w.Reason {
	case "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		r.Cause = fmt.Sprintf("Pod %s does not start: the image %s of %s is not to be had.", name, s.Image, where)
		r.section(w.Reason, pulls(f, w)...)
		switch text := strings.Join(pulls(f, w), " "); {
		case strings.Contains(text, "unauthorized"), strings.Contains(text, "denied"), strings.Contains(text, "401"), strings.Contains(text, "403"):
			r.do("The registry wants credentials: give the pod (or its service account) imagePullSecrets.")
		case strings.Contains(text, "not found"), strings.Contains(text, "404"):
			r.do("The registry has no such image: look at its name and tag for a typing error.")
		case strings.Contains(text, "no such host"), strings.Contains(text, "timeout"), strings.Contains(text, "connection refused"), strings.Contains(text, "unreachable"):
			r.do("Node %s does not reach the registry: look at its DNS, network and proxy, or bring the image by `knarr image import`.", f.Pod.Spec.NodeName)
		case w.Reason == "ErrImageNeverPull":
			r.do("imagePullPolicy is Never and the image is not on node %s: `knarr image import` it there, or change the policy.", f.Pod.Spec.NodeName)
		default:
			r.do("Do as the message says; it is tried again by itself.")
		}
	case "CrashLoopBackOff":
		r.Cause = fmt.Sprintf("Pod %s: %s ends each time it is started (%d times so far); the next start waits.", name, where, s.RestartCount)
		if t := s.LastTerminationState.Terminated; t != nil {
			r.section("It ended last", endLine(f, s, t)...)
			advise(f, r, s.Name, t)
		}
	case "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreStartHookError", "PostStartHookError":
		r.Cause = fmt.Sprintf("Pod %s does not start: %s cannot be made.", name, where)
		r.section(w.Reason, w.Message)
		if strings.Contains(w.Message, "not found") {
			r.do("Create what is not found, in namespace %s.", f.Namespace)
		}
	default:
		r.Cause = fmt.Sprintf("Pod %s: %s waits: %s.", name, where, w.Reason)
		r.section(w.Reason, w.Message)
	}
}

// pulls are the words about an image: the container's own, and the longer ones of the event.
func pulls(f *Facts, w *corev1.ContainerStateWaiting) (lines []string) {
	if w.Message != "" {
		lines = append(lines, w.Message)
	}
	for i := len(f.Events) - 1; i >= 0; i-- {
		if e := f.Events[i]; e.Reason == "Failed" && strings.Contains(e.Message, "pull") && !slices.Contains(lines, e.Message) {
			return append(lines, e.Message)
		}
	}
	return lines
}

// containerFailing finds a container that ended while others run.
func containerFailing(f *Facts, r *Report) bool {
	for _, s := range f.Pod.Status.ContainerStatuses {
		if t := s.State.Terminated; t != nil && t.ExitCode != 0 {
			r.Cause = fmt.Sprintf("Pod %s/%s: container %s has ended.", f.Namespace, f.Name, s.Name)
			r.section("It ended", endLine(f, &s, t)...)
			advise(f, r, s.Name, t)
			return true
		}
	}
	return false
}

// notReady finds what a running pod lacks to be sent requests.
func notReady(f *Facts, r *Report) bool {
	pod := f.Pod
	if c := conditionOf(pod, corev1.PodReady); pod.Status.Phase != corev1.PodRunning || c == nil || c.Status == corev1.ConditionTrue {
		return false
	}
	for _, s := range pod.Status.ContainerStatuses {
		if s.Ready || s.State.Running == nil {
			continue
		}
		probe := "readiness"
		if s.Started != nil && !*s.Started {
			probe = "startup"
		}
		r.Cause = fmt.Sprintf("Pod %s/%s runs but gets no requests: the %s probe of container %s does not succeed. It was started %s ago.", pod.Namespace, pod.Name, probe, s.Name, ago(f.Now, s.State.Running.StartedAt.Time))
		if lines := eventLines(f, "Unhealthy"); len(lines) > 0 {
			r.section("The probe says", lines[len(lines)-1])
		}
		r.do("Ask the container itself: kubectl -n %s logs %s -c %s", pod.Namespace, pod.Name, s.Name)
		return true
	}
	var open []string
	for _, g := range pod.Spec.ReadinessGates {
		if c := conditionOf(pod, g.ConditionType); c == nil || c.Status != corev1.ConditionTrue {
			open = append(open, string(g.ConditionType))
		}
	}
	if len(open) == 0 {
		return false
	}
	r.Cause = fmt.Sprintf("Pod %s/%s runs but gets no requests: a readiness gate is not open.", pod.Namespace, pod.Name)
	r.section("Gates", open...)
	r.do("Whoever put the gate into spec.readinessGates has to set the condition of its name.")
	return true
}

// endLine words how a container ended.
func endLine(f *Facts, s *corev1.ContainerStatus, t *corev1.ContainerStateTerminated) []string {
	line := fmt.Sprintf("exit code %d (%s), %s ago, after it had run for %s", t.ExitCode, t.Reason, ago(f.Now, t.FinishedAt.Time), ago(t.FinishedAt.Time, t.StartedAt.Time))
	if t.Signal != 0 {
		line += fmt.Sprintf(", by signal %d", t.Signal)
	}
	lines := []string{line}
	if t.Message != "" {
		lines = append(lines, "message:\t"+strings.TrimSpace(t.Message))
	}
	if last := f.LastLines[s.Name]; last != "" {
		lines = append(lines, "last line:\t"+last)
	}
	return lines
}

// advise names what usually lies behind the way a container ended.
func advise(f *Facts, r *Report, container string, t *corev1.ContainerStateTerminated) {
	unhealthy := eventLines(f, "Unhealthy")
	switch {
	case t.Reason == "OOMKilled":
		r.do("It needed more memory than its limit: raise resources.limits.memory of container %s, or have it use less.", container)
	case slices.ContainsFunc(unhealthy, func(line string) bool { return strings.Contains(line, "Liveness") }) && t.ExitCode != 0:
		r.section("The liveness probe says", unhealthy[len(unhealthy)-1])
		r.do("It was killed because its liveness probe failed: give it more time (initialDelaySeconds, a startupProbe), or see why it does not answer.")
	case t.ExitCode == 126 || t.ExitCode == 127 || t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		r.do("The command could not be run: look at command and args of container %s, and whether the image has that program for this machine's architecture.", container)
	case t.ExitCode == 0:
		r.do("It ends by itself, without an error: a server has to stay in the foreground; for work that ends use a Job.")
	default:
		r.do("Read what it wrote before it ended: kubectl -n %s logs %s -c %s --previous", f.Namespace, f.Name, container)
	}
}

// eventLines are the pod's events of a reason, "" for all that warn, the latest last.
func eventLines(f *Facts, reason string) (lines []string) {
	for i := range f.Events {
		e := &f.Events[i]
		if e.Reason == reason || reason == "" && e.Type == corev1.EventTypeWarning {
			lines = append(lines, fmt.Sprintf("%s ago\t%s", ago(f.Now, lastSeen(e)), strings.TrimSpace(e.Message)))
		}
	}
	return lines
}

func nodeOf(f *Facts) *corev1.Node {
	for i := range f.Nodes {
		if f.Nodes[i].Name == f.Pod.Spec.NodeName {
			return &f.Nodes[i]
		}
	}
	return nil
}

func ready(n *corev1.Node) bool {
	c := nodeReady(n)
	return c != nil && c.Status == corev1.ConditionTrue
}

func nodeReady(n *corev1.Node) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == corev1.NodeReady {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

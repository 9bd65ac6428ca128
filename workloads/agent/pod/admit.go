package pod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// admit says why a pod that was bound here cannot run here, nil if it can. It asks what the scheduler asks, for pods
// that were bound past it: by their own spec, or by another scheduler that knew less.
func admit(node *corev1.Node, others []*corev1.Pod, pod *corev1.Pod) *Ending {
	now := picture(node, others)
	for _, rule := range []plugins.Filterer{plugins.Resources{}, plugins.NodeAffinity{}, plugins.Ports{}} {
		if reasons := refusals(rule, now, pod); reasons != nil {
			return refused(rule.Name(), reasons)
		}
	}
	return nil
}

// picture is a cluster of one node, as the scheduler sees it.
func picture(node *corev1.Node, pods []*corev1.Pod) *snapshot.Snapshot {
	p := snapshot.New()
	p.SetNode(node)
	for _, pod := range pods {
		p.SetPod(pod)
	}
	return p
}

// refusals are what a rule has against a pod on the one node of a picture.
func refusals(rule plugins.Filterer, now *snapshot.Snapshot, pod *corev1.Pod) []string {
	filter, refusal := rule.Filter(snapshot.NewPod(pod), now)
	if filter != nil {
		for _, node := range now.Nodes() {
			refusal = filter(node)
		}
	}
	if refusal == nil {
		return nil
	}
	return refusal.Reasons
}

// refused puts a refusal in the words controllers and people match on.
func refused(rule string, reasons []string) *Ending {
	e := &Ending{Reason: rule, Message: "Pod was rejected: Predicate " + rule + " failed: " + strings.Join(reasons, ", ")}
	for _, reason := range reasons {
		if name, short := strings.CutPrefix(reason, "Insufficient "); short {
			return &Ending{Reason: "OutOf" + name, Message: "Pod was rejected: Node didn't have enough resource: " + name}
		}
		if reason == "Too many pods" {
			return &Ending{Reason: "OutOfpods", Message: "Pod was rejected: Node didn't have enough resource: pods"}
		}
	}
	return e
}

// arrived takes in a pod as the API shows it. One that was never taken in before, by this process or one before it, may
// be refused.
func (m *Manager) arrived(pod *corev1.Pod) {
	if isMirror(pod) {
		m.sawMirror(pod, false)
		return
	}
	fresh := pod.Spec.NodeName == m.conf.Node.Name && pod.Status.StartTime == nil && pod.DeletionTimestamp == nil && m.lookup(pod.UID) == nil
	if fresh {
		if e := m.refusal(pod); e != nil {
			a := m.actor(pod.UID, pod)
			a.mu.Lock()
			a.evicted, a.rejected = e, true
			a.mu.Unlock()
			m.event(pod, corev1.EventTypeWarning, e.Reason, "%s", e.Message)
		}
	}
	m.update(pod)
}

func (m *Manager) refusal(pod *corev1.Pod) *Ending {
	if m.conf.Stopping() {
		return &Ending{Reason: "NodeShutdown", Message: "Pod was rejected as the node is shutting down."}
	}
	if e := m.conf.Able.refuse(pod); e != nil {
		return e
	}
	if why := pressure.Refuse(m.conf.Pressure(), pod); why != "" {
		return &Ending{Reason: pressure.Reason, Message: why}
	}
	node := &corev1.Node{}
	err := m.conf.Cache.Get(m.ctx, client.ObjectKey{Name: m.conf.Node.Name}, node)
	if err != nil || node.Name == "" || len(node.Status.Allocatable) == 0 {
		return m.unequipped(pod) // what else the node has is not known yet; the scheduler knew it
	}
	if e := admit(node, m.scheduled(), pod); e != nil {
		return e
	}
	return m.unequipped(pod)
}

// unequipped says that there are not the devices the pod was sent here for. What it got of others goes back with its end.
func (m *Manager) unequipped(pod *corev1.Pod) *Ending {
	for _, e := range m.conf.Equipment {
		if err := e.Admit(pod); err != nil {
			refusal := &Ending{Reason: "UnexpectedAdmissionError", Message: "Pod was rejected: " + err.Error()}
			if own, ok := err.(interface{ Why() string }); ok {
				refusal.Reason = own.Why()
			}
			return refusal
		}
	}
	return nil
}

// scheduled are the pods whose requests count on this node.
func (m *Manager) scheduled() []*corev1.Pod {
	var pods []*corev1.Pod
	for _, a := range m.all() {
		a.mu.Lock()
		if a.holds() && !a.gone && !ended(a.pod) {
			pods = append(pods, a.pod)
		}
		a.mu.Unlock()
	}
	return pods
}

// holds: does the pod have anything of this node? a.mu is held.
func (a *actor) holds() bool { return !a.rejected && !a.cleaned && !a.over }

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

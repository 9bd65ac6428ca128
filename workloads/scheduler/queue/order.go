package queue

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// entries is a heap (container/heap) in the order of before.
type entries struct {
	list   []*Entry
	before func(a, b *Entry) bool
}

func (h *entries) Len() int           { return len(h.list) }
func (h *entries) Less(i, j int) bool { return h.before(h.list[i], h.list[j]) }
func (h *entries) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}
func (h *entries) Push(x any) {
	e := x.(*Entry)
	e.index = len(h.list)
	h.list = append(h.list, e)
}
func (h *entries) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	return e
}

func moreImportant(a, b *Entry) bool {
	if a.Pod.Priority != b.Pod.Priority {
		return a.Pod.Priority > b.Pod.Priority
	}
	return a.queued < b.queued
}

func earlier(a, b *Entry) bool { return a.due.Before(b.due) }

func gated(pod *corev1.Pod) bool { return len(pod.Spec.SchedulingGates) > 0 }

// concerns says whether a pod's news could change where it may go; its conditions, which we write, cannot. The names of claims
// made for it can: a claim may be seen before the pod that says it is its own.
func concerns(before, after *corev1.Pod) bool {
	return before.Generation != after.Generation ||
		!apiequality.Semantic.DeepEqual(before.Status.ResourceClaimStatuses, after.Status.ResourceClaimStatuses) || !maps.Equal(before.Labels, after.Labels) ||
		!apiequality.Semantic.DeepEqual(before.Spec, after.Spec)
}

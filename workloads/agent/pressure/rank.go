package pressure

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"
)

// Measured is a pod and what it uses. Known is false for one that could not be measured.
type Measured struct {
	Pod
	Use   Use
	Known bool
}

// rank orders the pods that may go for a shortage, the first to go first: those that use more than they asked for, then
// by priority, then by how much more they use. Critical pods are not among them.
func rank(short Shortage, shared bool, pods []Measured) []Measured {
	out := slices.DeleteFunc(slices.Clone(pods), func(p Measured) bool { return p.Ending || critical(p.Pod.Pod) })
	slices.SortStableFunc(out, func(a, b Measured) int {
		if a.Known != b.Known { // nobody knows what it takes: it may be the cause
			return known(a.Known) - known(b.Known)
		}
		extraA, extraB := extra(short.Signal, shared, a), extra(short.Signal, shared, b)
		if over := cmp.Compare(above(extraB), above(extraA)); over != 0 && short.Signal != ProcessesAvailable {
			return over
		}
		return cmp.Or(cmp.Compare(priority(a.Pod.Pod), priority(b.Pod.Pod)), cmp.Compare(extraB, extraA))
	})
	return out
}

func known(is bool) int {
	if is {
		return 1
	}
	return 0
}

func above(extra int64) int {
	if extra > 0 {
		return 1
	}
	return 0
}

// extra is how much more of the resource a pod uses than it asked for.
func extra(signal Signal, shared bool, p Measured) int64 {
	switch signal {
	case MemoryAvailable:
		return int64(p.Use.Memory) - asked(p.Pod.Pod, corev1.ResourceMemory)
	case ProcessesAvailable:
		return int64(p.Use.Processes)
	}
	var sum Amount
	ofImages := signal == ImagesAvailable || signal == ImagesInodesFree
	for _, c := range p.Use.Containers {
		if ofImages || shared {
			sum = sum.plus(c.Layer)
		}
		if !ofImages || shared {
			sum = sum.plus(c.Logs)
		}
	}
	if !ofImages || shared {
		for _, v := range p.Use.Volumes {
			sum = sum.plus(v)
		}
	}
	if signal.resource() == "inodes" {
		return int64(sum.Inodes)
	}
	return int64(sum.Bytes) - asked(p.Pod.Pod, corev1.ResourceEphemeralStorage)
}

func asked(pod *corev1.Pod, name corev1.ResourceName) int64 {
	request := podresources.PodRequests(pod, podresources.PodResourcesOptions{})[name]
	return request.Value()
}

// explain words the eviction of a pod for a shortage, in the words tools look for.
func explain(short Shortage, p Measured) string {
	name := short.Signal.resource()
	format := resource.BinarySI
	if name == "inodes" || name == "pids" {
		format = resource.DecimalSI
	}
	amount := func(n uint64) string { return resource.NewQuantity(int64(n), format).String() }
	var text strings.Builder
	fmt.Fprintf(&text, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", name, amount(short.Threshold), amount(short.Available))
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		use, runs := p.Use.Containers[c.Name]
		used := use.Memory
		if name == corev1.ResourceEphemeralStorage {
			used = use.Layer.Bytes + use.Logs.Bytes
		}
		request := c.Resources.Requests[name]
		if runs && format == resource.BinarySI && int64(used) > request.Value() {
			fmt.Fprintf(&text, "Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, kibi(used), request.String(), name)
		}
	}
	return text.String()
}

// kibi rounds up to 1024: figures that long in bytes say nothing to anybody.
func kibi(n uint64) string {
	return resource.NewQuantity(int64((n+1023)/1024*1024), resource.BinarySI).String()
}

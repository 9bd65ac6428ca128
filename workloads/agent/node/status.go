package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/settings"
)

// facts is everything a status depends on, as one value.
type facts struct {
	now       time.Time
	name      string
	port      int32
	addresses []netip.Addr
	external  bool // a cloud controller manager knows the addresses better
	machine   machine
	podRange  bool // the node has its range of pod addresses

	runtimeProblem string // "" means it answers
	networkProblem string // "" means pods get addresses
	runtimeVersion string // containerd://2.4.2
	version        string // ours, shown as the kubelet's
	handlers       []corev1.NodeRuntimeHandler
	features       *corev1.NodeFeatures
	images         []corev1.ContainerImage // nil: not asked yet

	inUse            []corev1.UniqueVolumeName
	devices, working corev1.ResourceList // of plugins

	storage  uint64 // bytes
	settings settings.Settings
	pressure pressure.Conditions
	stopping bool // the machine is going down
}

// judge computes the status this machine should have, keeping what others wrote and all times that did not change.
func judge(old corev1.NodeStatus, f facts) corev1.NodeStatus {
	next := *old.DeepCopy()
	next.Capacity, next.Allocatable = resources(f)
	for name, amount := range old.Capacity {
		if strings.Contains(string(name), "/") { // a device or a licence somebody else counts, all of it for pods
			next.Capacity[name], next.Allocatable[name] = amount.DeepCopy(), amount.DeepCopy()
		}
	}
	for name, amount := range f.devices {
		next.Capacity[name], next.Allocatable[name] = amount, f.working[name]
	}
	next.VolumesInUse = f.inUse
	if !f.external || len(old.Addresses) == 0 { // a cloud says more about a node's addresses than the node knows
		next.Addresses = addresses(f.addresses, f.name)
	}
	next.NodeInfo = f.machine.info
	next.NodeInfo.KubeletVersion = f.version
	next.NodeInfo.ContainerRuntimeVersion = old.NodeInfo.ContainerRuntimeVersion
	if f.runtimeVersion != "" { // while the runtime does not answer, what it last said about itself stands
		next.NodeInfo.ContainerRuntimeVersion = f.runtimeVersion
		next.RuntimeHandlers = f.handlers
		next.Features = f.features
	}
	if f.images != nil {
		next.Images = f.images
	}
	next.DaemonEndpoints.KubeletEndpoint.Port = f.port
	for _, condition := range conditions(f) {
		next.Conditions = settle(next.Conditions, condition, f.now)
	}
	return next
}

// conditions in the order kubectl shows them, with the reasons and messages tools look for.
func conditions(f facts) []corev1.NodeCondition {
	is := func(kind corev1.NodeConditionType, status bool, reason, message string) corev1.NodeCondition {
		condition := corev1.NodeCondition{Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message}
		if status {
			condition.Status = corev1.ConditionTrue
		}
		return condition
	}
	out := make([]corev1.NodeCondition, 0, 4)
	if f.pressure.Memory {
		out = append(out, is(corev1.NodeMemoryPressure, true, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available"))
	} else {
		out = append(out, is(corev1.NodeMemoryPressure, false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available"))
	}
	if f.pressure.Disk {
		out = append(out, is(corev1.NodeDiskPressure, true, "KubeletHasDiskPressure", "kubelet has disk pressure"))
	} else {
		out = append(out, is(corev1.NodeDiskPressure, false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure"))
	}
	if f.pressure.Processes {
		out = append(out, is(corev1.NodePIDPressure, true, "KubeletHasInsufficientPID", "kubelet has insufficient PID available"))
	} else {
		out = append(out, is(corev1.NodePIDPressure, false, "KubeletHasSufficientPID", "kubelet has sufficient PID available"))
	}
	if problems := problems(f); len(problems) > 0 {
		return append(out, is(corev1.NodeReady, false, "KubeletNotReady", strings.Join(problems, ", ")))
	}
	return append(out, is(corev1.NodeReady, true, "KubeletReady", "kubelet is posting ready status"))
}

// problems that keep the node from being Ready.
func problems(f facts) []string {
	var out []string
	if f.stopping {
		out = append(out, "node is shutting down")
	}
	if f.runtimeProblem != "" {
		out = append(out, "container runtime is not ready: "+f.runtimeProblem)
	}
	if f.networkProblem != "" {
		out = append(out, "container runtime network not ready: "+f.networkProblem)
	}
	if !f.podRange {
		out = append(out, "the node has no range of pod addresses yet (spec.podCIDR); the control plane assigns it")
	}
	if len(f.addresses) == 0 {
		out = append(out, "the node has no address: set node-ip")
	}
	return out
}

// settle puts a condition into the list. Its times move only when it does.
func settle(list []corev1.NodeCondition, condition corev1.NodeCondition, now time.Time) []corev1.NodeCondition {
	for i := range list {
		if list[i].Type != condition.Type {
			continue
		}
		condition.LastHeartbeatTime = list[i].LastHeartbeatTime
		condition.LastTransitionTime = list[i].LastTransitionTime
		if list[i].Status != condition.Status {
			condition.LastTransitionTime = metav1.NewTime(now)
		}
		list[i] = condition
		return list
	}
	condition.LastHeartbeatTime, condition.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	return append(list, condition)
}

// resources of the machine, and the part of them pods may have.
func resources(f facts) (capacity, allocatable corev1.ResourceList) {
	memory := int64(f.machine.memory)
	storage := int64(f.storage)
	capacity = corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewQuantity(f.machine.cpus, resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(memory, resource.BinarySI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(storage, resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(f.settings.MaxPods, resource.DecimalSI),
	}
	allocatable = f.settings.Allocatable(capacity)
	usable := allocatable.Memory().Value()
	for size, bytes := range f.machine.hugePages {
		name := corev1.ResourceName(corev1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
		capacity[name] = *resource.NewQuantity(bytes, resource.BinarySI)
		allocatable[name] = capacity[name].DeepCopy()
		usable -= bytes // reserved pages serve nobody else
	}
	allocatable[corev1.ResourceMemory] = *resource.NewQuantity(max(usable, 0), resource.BinarySI)
	allocatable[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(allocatable.StorageEphemeral().Value(), resource.DecimalSI)
	return capacity, allocatable
}

func addresses(ips []netip.Addr, hostname string) []corev1.NodeAddress {
	out := make([]corev1.NodeAddress, 0, len(ips)+1)
	for _, ip := range ips {
		out = append(out, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return append(out, corev1.NodeAddress{Type: corev1.NodeHostName, Address: hostname})
}

// worthReporting: something changed, or the API has not heard this status for long.
func worthReporting(old, next corev1.NodeStatus, reported, now time.Time) bool {
	return !equality.Semantic.DeepEqual(old, next) || now.Sub(reported) >= reportEvery
}

// stamp marks a status as seen now.
func stamp(status *corev1.NodeStatus, now time.Time) {
	for i := range status.Conditions {
		switch status.Conditions[i].Type {
		case corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure:
			status.Conditions[i].LastHeartbeatTime = metav1.NewTime(now)
		}
	}
}

func find(list []corev1.NodeCondition, kind corev1.NodeConditionType) corev1.NodeCondition {
	if i := slices.IndexFunc(list, func(c corev1.NodeCondition) bool { return c.Type == kind }); i >= 0 {
		return list[i]
	}
	return corev1.NodeCondition{}
}

func isReady(status corev1.NodeStatus) bool {
	return find(status.Conditions, corev1.NodeReady).Status == corev1.ConditionTrue
}

// told is one event.
type told struct{ kind, reason, message string }

// news compares two statuses and words what a user would want to hear.
func news(name string, old, next corev1.NodeStatus) []told {
	var out []told
	if old.NodeInfo.BootID != "" && old.NodeInfo.BootID != next.NodeInfo.BootID {
		out = append(out, told{corev1.EventTypeWarning, "Rebooted", fmt.Sprintf("Node %s has been rebooted, boot id: %s", name, next.NodeInfo.BootID)})
	}
	for _, watched := range []struct {
		kind    corev1.NodeConditionType
		yes, no string
	}{
		{corev1.NodeMemoryPressure, "NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		{corev1.NodeDiskPressure, "NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		{corev1.NodePIDPressure, "NodeHasInsufficientPID", "NodeHasSufficientPID"},
		{corev1.NodeReady, "NodeReady", "NodeNotReady"},
	} {
		before, after := find(old.Conditions, watched.kind).Status, find(next.Conditions, watched.kind).Status
		if before == after {
			continue
		}
		if watched.kind == corev1.NodeReady && before == "" && after != corev1.ConditionTrue {
			continue // a new node is not ready yet, which is no news
		}
		reason := watched.no
		if after == corev1.ConditionTrue {
			reason = watched.yes
		}
		out = append(out, told{corev1.EventTypeNormal, reason, fmt.Sprintf("Node %s status is now: %s", name, reason)})
	}
	return out
}

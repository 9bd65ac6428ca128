package why

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// fix is a change that would lift a refusal. The cost orders changes: a command costs less than a change of the pod,
// and that less than another machine.
type fix struct {
	cost int
	text string
}

const (
	command = 1
	edit    = 3
	rethink = 5
	machine = 8
)

// fixes for a refusal of a rule.
func fixes(rule string, refusal *plugins.Refusal, pod *snapshot.Pod, n *snapshot.Node) []fix {
	switch rule {
	case "NodeUnschedulable":
		return []fix{{command, fmt.Sprintf("Node %s is cordoned: kubectl uncordon %s", n.Name, n.Name)}}
	case "TaintToleration":
		return taintFixes(pod, n)
	case "NodeAffinity":
		return labelFixes(pod, n)
	case "NodePorts":
		return []fix{{rethink, fmt.Sprintf("Free the host port %s on node %s, which %s", ports(pod), n.Name, holders(pod, n))}}
	case "NodeResourcesFit":
		return roomFixes(pod, n)
	case "DynamicResources":
		return []fix{{machine, fmt.Sprintf("Node %s has not the devices the pod asks for, by its claims or as extended resources (%s): see kubectl get resourceslices,resourceclaims -A", n.Name, strings.Join(refusal.Reasons, ", "))}}
	case "PodTopologySpread":
		return []fix{{edit, fmt.Sprintf("Node %s would make the pods more uneven than topologySpreadConstraints allow: raise maxSkew, say whenUnsatisfiable: ScheduleAnyway, or add nodes to the emptier domains", n.Name)}}
	case "InterPodAffinity":
		return []fix{{edit, fmt.Sprintf("Node %s: change the required podAffinity or podAntiAffinity that keeps the pod away (%s)", n.Name, strings.Join(refusal.Reasons, ", "))}}
	case "NodeName":
		return []fix{{machine, fmt.Sprintf("The pod names node %s itself, which does not exist: join it, or remove spec.nodeName", pod.Object.Spec.NodeName)}}
	case "VolumeBinding", "VolumeZone", "NodeVolumeLimits", "VolumeRestrictions":
		return []fix{{rethink, fmt.Sprintf("Node %s: %s; see the pod's claims and volumes (kubectl get pvc,pv)", n.Name, strings.Join(refusal.Reasons, ", "))}}
	}
	return []fix{{rethink, fmt.Sprintf("Node %s: %s", n.Name, strings.Join(refusal.Reasons, ", "))}}
}

// states are the taints by which a cluster says that a node is in trouble: not to be tolerated, but ended.
var states = map[string]string{
	corev1.TaintNodeNotReady:           "is not ready",
	corev1.TaintNodeUnreachable:        "has not been heard of",
	corev1.TaintNodeDiskPressure:       "is short of disk space",
	corev1.TaintNodeMemoryPressure:     "is short of memory",
	corev1.TaintNodePIDPressure:        "is short of process numbers",
	corev1.TaintNodeNetworkUnavailable: "has no network yet",
}

func taintFixes(pod *snapshot.Pod, n *snapshot.Node) (all []fix) {
	for i := range n.Object.Spec.Taints {
		taint := &n.Object.Spec.Taints[i]
		tolerated := slices.ContainsFunc(pod.Object.Spec.Tolerations, func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Logger{}, taint, false) })
		if tolerated || taint.Effect == corev1.TaintEffectPreferNoSchedule {
			continue
		}
		if state := states[taint.Key]; state != "" {
			all = append(all, fix{rethink, fmt.Sprintf("Node %s %s: bring it back (kubectl describe node %s says more)", n.Name, state, n.Name)})
			continue
		}
		all = append(all, fix{edit, fmt.Sprintf("Let the pod tolerate the taint %s of node %s, or remove it: kubectl taint node %s %s:%s-", taint.ToString(), n.Name, n.Name, taint.Key, taint.Effect)})
	}
	return all
}

// labelFixes name the labels a node selector misses; an affinity has too many ways to be met to choose one.
func labelFixes(pod *snapshot.Pod, n *snapshot.Node) []fix {
	var missing []string
	for _, key := range slices.Sorted(maps.Keys(pod.Object.Spec.NodeSelector)) {
		if value := pod.Object.Spec.NodeSelector[key]; n.Object.Labels[key] != value || !hasLabel(n.Object, key) {
			missing = append(missing, key+"="+value)
		}
	}
	if len(missing) > 0 {
		return []fix{{command + len(missing), fmt.Sprintf("Node %s does not carry what the pod's nodeSelector asks for: kubectl label node %s %s (with --overwrite where it says something else), or change the selector", n.Name, n.Name, strings.Join(missing, " "))}}
	}
	return []fix{{edit, fmt.Sprintf("Node %s matches none of the terms of the pod's required nodeAffinity: label it so that one matches, or change the affinity", n.Name)}}
}

func hasLabel(n *corev1.Node, key string) bool {
	_, has := n.Labels[key]
	return has
}

func ports(pod *snapshot.Pod) string {
	names := make([]string, len(pod.Ports))
	for i, p := range pod.Ports {
		names[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
	}
	return strings.Join(names, ", ")
}

// holders names the pods that have one of the ports.
func holders(pod *snapshot.Pod, n *snapshot.Node) string {
	var names []string
	for _, other := range n.Pods {
		if slices.ContainsFunc(other.Ports, func(p snapshot.HostPort) bool {
			return slices.ContainsFunc(pod.Ports, func(w snapshot.HostPort) bool { return w.Port == p.Port && w.Protocol == p.Protocol })
		}) {
			names = append(names, other.Object.Namespace+"/"+other.Object.Name)
		}
	}
	if len(names) == 0 {
		return "is taken"
	}
	return "is taken by " + some(names)
}

// roomFixes say of each amount how much is missing.
func roomFixes(pod *snapshot.Pod, n *snapshot.Node) (all []fix) {
	if int64(len(n.Pods))+1 > n.MaxPods {
		all = append(all, fix{rethink, fmt.Sprintf("Node %s has all the pods it may have (%d): move some elsewhere", n.Name, n.MaxPods)})
	}
	lack := func(name corev1.ResourceName, asked, has, taken int64) {
		left := has - taken
		switch {
		case asked == 0 || asked <= left:
		case asked > has:
			all = append(all, fix{machine, fmt.Sprintf("The pod asks for %s of %s, more than node %s has at all (%s): lower its request, or add a larger node", amount(name, asked), name, n.Name, amount(name, has))})
		default:
			all = append(all, fix{edit, fmt.Sprintf("Node %s lacks %s of %s (the pod asks for %s, %s of %s are not promised to others): lower the request, or free as much there", n.Name, amount(name, asked-left), name, amount(name, asked), amount(name, left), amount(name, has))})
		}
	}
	ask, has, taken := &pod.Requests, &n.Allocatable, &n.Requested
	lack(corev1.ResourceCPU, ask.MilliCPU, has.MilliCPU, taken.MilliCPU)
	lack(corev1.ResourceMemory, ask.Memory, has.Memory, taken.Memory)
	lack(corev1.ResourceEphemeralStorage, ask.Ephemeral, has.Ephemeral, taken.Ephemeral)
	for _, name := range slices.Sorted(maps.Keys(ask.Scalar)) {
		lack(name, ask.Scalar[name], has.Scalar[name], taken.Scalar[name])
	}
	return all
}

func amount(name corev1.ResourceName, n int64) string {
	switch name {
	case corev1.ResourceCPU:
		return resource.NewMilliQuantity(n, resource.DecimalSI).String()
	case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
		return resource.NewQuantity(n, resource.BinarySI).String()
	}
	return resource.NewQuantity(n, resource.DecimalSI).String()
}

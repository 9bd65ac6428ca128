package pressure

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/workloads/agent/cgroup"
)

// Pod is one that holds something of this node.
type Pod struct {
	*corev1.Pod
	Running map[string]string // ids of running containers, by their names
	Volumes map[string]string // where its volumes lie, by their names
	Ending  bool              // it was told to end
}

// Pods of this node; workloads/agent/pod has them.
type Pods interface {
	// Holding are the pods that hold something of this node.
	Holding() []Pod
	// Evict ends a pod as Failed; a disrupted one is marked as ended for others' sake.
	Evict(uid types.UID, eviction Eviction) bool
}

// Eviction is what a pod is told.
type Eviction struct {
	Reason, Message string
	Grace           int64 // seconds
	Disrupted       bool  // it did nothing wrong
}

// Reason of every eviction.
const Reason = "Evicted"

// critical pods are what the node or the cluster cannot do without: static ones and those of the system's priorities.
func critical(pod *corev1.Pod) bool {
	const source, fromAPI = "kubernetes.io/config.source", "api"
	if from, set := pod.Annotations[source]; set && from != fromAPI {
		return true
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return true
	}
	return priority(pod) >= systemCritical
}

// systemCritical is the lowest priority of the system's own: what users may give is below it.
const systemCritical = 2 * 1000000000

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// Refuse says why a pod may not come in now, "" if it may. Under pressure of memory alone, pods that ask for memory may.
func Refuse(c Conditions, pod *corev1.Pod) string {
	if c == (Conditions{}) || critical(pod) {
		return ""
	}
	if c == (Conditions{Memory: true}) {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if cgroup.QOS(pod) != corev1.PodQOSBestEffort || corehelpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &taint, false) {
			return ""
		}
	}
	var names []string
	for _, one := range []struct {
		is   bool
		name corev1.NodeConditionType
	}{{c.Memory, corev1.NodeMemoryPressure}, {c.Disk, corev1.NodeDiskPressure}, {c.Processes, corev1.NodePIDPressure}} {
		if one.is {
			names = append(names, string(one.name))
		}
	}
	return fmt.Sprintf("Pod was rejected: The node had condition: [%s]. ", strings.Join(names, " "))
}

// Package translate turns a pod's spec into what the container runtime is asked for.
//
// In:       a pod, facts about the node, the objects its environment refers to, where its volumes lie.
// Out:      CRI configurations of the sandbox and of each container, environment, DNS, hosts file.
// Promise:  pure: it reads no file, asks no API and changes nothing it is given.
// Not here: creating anything (workloads/agent/pod), the pod's own cgroup (workloads/agent/cgroup).
package translate

import (
	"fmt"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Labels and annotations every sandbox and container carries. crictl and other tools know these names, and a restarted
// agent finds its pods by them.
const (
	LabelPodName   = "io.kubernetes.pod.name"
	LabelNamespace = "io.kubernetes.pod.namespace"
	LabelPodUID    = "io.kubernetes.pod.uid"
	LabelContainer = "io.kubernetes.container.name"

	NoteHash          = "io.kubernetes.container.hash"
	NoteRestarts      = "io.kubernetes.container.restartCount"
	NoteMessagePath   = "io.kubernetes.container.terminationMessagePath"
	NoteMessagePolicy = "io.kubernetes.container.terminationMessagePolicy"
	NoteMessageFile   = "knarr.dev/termination-message-file"
	NoteRound         = "knarr.dev/round"
	NoteGrace         = "io.kubernetes.pod.terminationGracePeriod"
	NoteOwnCPUs       = "knarr.dev/own-cpus" // it has CPUs to itself
	// NoteSeccomp reaches the shim: the profile is the runtime's own.
	NoteSeccomp = "knarr.dev/seccomp"
)

// Node is what pods learn about the machine they run on.
type Node struct {
	Name          string
	IPs           []string // the first is the primary one
	Hostname      string
	ClusterDNS    []string
	ClusterDomain string
	DNS           DNS // the node's own resolver
	Unified       bool
	CPUs          int                   // of the machine
	MemoryBytes   int64                 // of the machine
	PageSizes     []corev1.ResourceName // hugepages that containers can be held to, by their resources' names
	Swap          Swap
	Allocatable   corev1.ResourceList
	LogRoot       string // pod log folders lie in it
	SeccompRoot   string // Localhost profiles lie in it
}

// Swap of a machine.
type Swap struct {
	Bytes   int64
	Bounded bool // the kernel can hold a group to a part of it, which it does under cgroup v2 only
	Limited bool // burstable pods have their part of it; otherwise pods have none
}

// LogFolder is a pod's folder inside LogRoot.
func LogFolder(pod *corev1.Pod) string {
	return pod.Namespace + "_" + pod.Name + "_" + string(pod.UID)
}

// LogFile is one run of a container, below the pod's log folder.
func LogFile(container string, attempt uint32) string {
	return container + "/" + strconv.Itoa(int(attempt)) + ".log"
}

// Hash tells whether a container must be replaced because its definition changed. Only the image of a container may
// change after the pod was created.
func Hash(c *corev1.Container) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s", c.Name, c.Image)
	return strconv.FormatUint(h.Sum64(), 16)
}

// Grace is how long the pod's containers get to end by themselves, in seconds.
func Grace(pod *corev1.Pod) int64 {
	if pod.DeletionGracePeriodSeconds != nil {
		return *pod.DeletionGracePeriodSeconds
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

// ConfigError is a mistake in the pod, or in an object it refers to, that starting again will not mend by itself.
type ConfigError struct{ Message string }

func (e ConfigError) Error() string { return e.Message }

func badConfig(format string, args ...any) error {
	return ConfigError{Message: fmt.Sprintf(format, args...)}
}

func podLabels(pod *corev1.Pod) map[string]string {
	return map[string]string{LabelPodName: pod.Name, LabelNamespace: pod.Namespace, LabelPodUID: string(pod.UID)}
}

func signal(l *corev1.Lifecycle) runtimeapi.Signal {
	if l == nil || l.StopSignal == nil {
		return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	if n, ok := runtimeapi.Signal_value["SIGNAL_"+string(*l.StopSignal)]; ok {
		return runtimeapi.Signal(n)
	}
	return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
}

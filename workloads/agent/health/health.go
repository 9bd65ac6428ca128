// Package health is what a container's probes say about it.
//
// In:       nothing; these are the words the prober and the pod's actor share.
// Out:      Result.
// Promise:  a leaf, so that neither side depends on the other.
// Not here: running probes (workloads/agent/probe), acting on them (workloads/agent/pod).
package health

import "k8s.io/apimachinery/pkg/types"

// Probe is one of a container's three questions.
type Probe string

const (
	Startup   Probe = "startup"
	Liveness  Probe = "liveness"
	Readiness Probe = "readiness"
)

// Result is the settled answer of one probe: sent when a threshold is crossed, not for each attempt.
// A container without an answer yet counts as not started, alive and not ready.
type Result struct {
	PodUID      types.UID
	Container   string
	ContainerID string // without the containerd:// scheme
	Probe       Probe
	Healthy     bool
	Message     string // what the last attempt said, for the event of a kill
}

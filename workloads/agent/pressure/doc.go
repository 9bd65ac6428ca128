// Package pressure keeps the node alive when it runs out of something: memory, disk, inodes or process ids.
//
// In:       /proc and statfs of the machine, control groups, folders of the pods' volumes and logs, the pods themselves.
// Out:      which conditions the node has; pods ended as Failed with the reason Evicted; which pods may still come in.
// Promise:  what can be had back without a pod's loss goes first; one pod goes at a time, and the next one only when
//
//	that was not enough; critical and static pods never go; a pod over its own limit of local storage goes.
//
// Not here: taints (workloads/nodelifecycle), images and dead containers (workloads/agent/garbage), how a pod ends
//
//	(workloads/agent/pod), limits of memory and processes (the kernel's: workloads/agent/cgroup).
//
// Signals, thresholds, order and wording are those of
// https://kubernetes.io/docs/concepts/scheduling-eviction/node-pressure-eviction/ with the default
// thresholds, or those of the kubelet configuration (evictionHard).
package pressure

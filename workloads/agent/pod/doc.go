// Package pod turns the pods bound to this node into running containers, and tells the API how they are.
//
// In:       pods from the shared cache (or, with the API away, the last ones seen, from disk), container events
//
//	from the runtime, probe results.
//
// Out:      sandboxes and containers in the runtime, pod status, events.
// Promise:  a second pass over a settled pod changes nothing; a restart of knarr restarts no container; a pod's API
//
//	object goes only when its containers have stopped and its volumes are unmounted.
//
// Not here: what a container is made of (workloads/agent/translate), status as a value (workloads/agent/status),
//
//	containerd itself (workloads/agent/runtime), volumes (storage/volume), probes (workloads/agent/probe).
//
// A pod is an actor: its state lives in one place, passes over it never overlap, and it has no goroutine while
// there is nothing to do.
//
//	watch, container event, probe, timer, finished step
//	      |  poke
//	      v
//	   observe -> status -> writer -> API
//	      |
//	      v
//	   plan(pod, observed, now) -> steps, next look
//	      |
//	      v
//	   each step runs beside the actor under a key; while it runs, plan leaves that key alone
package pod

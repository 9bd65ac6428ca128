package pod

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/agent/health"
	"knarr.dev/knarr/workloads/agent/translate"
)

// Volumes makes a pod's volumes reachable on this machine. storage/volume implements it.
type Volumes interface {
	// Mount makes every volume of the pod ready and returns where each lies on the host, by volume name.
	// It is called again after an error and after a restart, so what is there already stays as it is.
	Mount(ctx context.Context, pod *corev1.Pod) (map[string]string, error)
	// Update brings files that show the pod's labels and annotations in line with them.
	Update(ctx context.Context, pod *corev1.Pod) error
	// Unmount removes all volumes of a pod whose containers have stopped. A pod without volumes is no error.
	Unmount(ctx context.Context, pod types.UID) error
	// Pods lists the pods that have volumes here, so that those of forgotten pods can be unmounted.
	Pods() ([]types.UID, error)
}

// Static tells of the pods this machine's own files want. workloads/agent/static implements it.
type Static interface {
	// Read is what is wanted now.
	Read() []*corev1.Pod
	// Run calls changed with all that is wanted whenever that is something else than before, until ctx ends.
	Run(ctx context.Context, changed func([]*corev1.Pod))
}

// Equipment is devices of some kind that containers get. workloads/agent/devices and workloads/agent/claims are two.
type Equipment interface {
	// Admit says why a new pod cannot have what it asks for, and sets it aside if it can. An error with a method Why has a
	// reason of its own for the pod's status.
	Admit(pod *corev1.Pod) error
	// Equip returns what a container that is about to start needs for its devices.
	Equip(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (translate.Extras, error)
	// Release gives back what a pod had whose containers have stopped.
	Release(ctx context.Context, pod types.UID) error
	// Pods are those that have something.
	Pods() []types.UID
}

// Places says where containers run. workloads/agent/exclusive implements it.
type Places interface {
	// Of is where one of a pod's containers is to run, now.
	Of(pod types.UID, container string) translate.Place
	// Fixed says why a running pod cannot have the resources of a newer version of it, "" if it can.
	Fixed(before, pod *corev1.Pod) string
}

// Source is the part of a controller-runtime cache that is read: pods of at least this node.
type Source interface {
	client.Reader
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// Prober asks running containers how they are. workloads/agent/probe implements it.
type Prober interface {
	// Start begins the probes of a running container; for a container ID that is probed already it does nothing.
	Start(pod *corev1.Pod, container, containerID, podIP string)
	// Stop ends the probes of one container, or with "" those of the whole pod.
	Stop(pod types.UID, container string)
	// Results delivers every change. The pod manager is its only reader.
	Results() <-chan health.Result
}

package subresource

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// EphemeralContainers adds containers to a running pod, for looking around.
func EphemeralContainers(_ *resource.Env, storage *resource.Storage) (rest.Storage, error) {
	return partOf(storage, func(pod, old *corev1.Pod) {
		added := pod.Spec.EphemeralContainers
		*pod = *withMeta(pod, old)
		pod.Spec.EphemeralContainers = added
		raiseGeneration(pod, old)
	}, podspec.ValidateEphemeral), nil
}

// Resize changes what containers of a running pod may use.
func Resize(_ *resource.Env, storage *resource.Storage) (rest.Storage, error) {
	return partOf(storage, func(pod, old *corev1.Pod) {
		asked := pod.Spec
		*pod = *withMeta(pod, old)
		pod.Spec.Containers = slices.Clone(old.Spec.Containers)
		pod.Spec.InitContainers = slices.Clone(old.Spec.InitContainers)
		takeResources(pod.Spec.Containers, asked.Containers)
		takeResources(pod.Spec.InitContainers, asked.InitContainers)
		raiseGeneration(pod, old)
	}, podspec.ValidateResize), nil
}

// withMeta is the stored pod with the metadata of the update: clients annotate together with what they change.
func withMeta(pod, old *corev1.Pod) *corev1.Pod {
	merged := *old.DeepCopy()
	merged.ObjectMeta = pod.ObjectMeta
	return &merged
}

func takeResources(containers, asked []corev1.Container) {
	for i := range containers {
		for _, a := range asked {
			if a.Name == containers[i].Name {
				containers[i].Resources = a.Resources
				containers[i].ResizePolicy = a.ResizePolicy
			}
		}
	}
}

func raiseGeneration(pod, old *corev1.Pod) {
	pod.Generation = old.Generation
	if !apiequality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}

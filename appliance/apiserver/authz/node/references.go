package node

import (
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// containers are all of a pod's, of whatever sort, for their environment.
func containers(pod *corev1.Pod) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for i := range pod.Spec.InitContainers {
			if !yield(&pod.Spec.InitContainers[i]) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(&pod.Spec.Containers[i]) {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			// An EphemeralContainerCommon has the very fields of a Container.
			if !yield((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)) {
				return
			}
		}
	}
}

// usesSecret reports whether a pod names the secret itself.
func usesSecret(pod *corev1.Pod, name string) bool {
	for _, ref := range pod.Spec.ImagePullSecrets {
		if ref.Name == name {
			return true
		}
	}
	for c := range containers(pod) {
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil && from.SecretRef.Name == name {
				return true
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil && env.ValueFrom.SecretKeyRef.Name == name {
				return true
			}
		}
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return volumeUsesSecret(&v.VolumeSource, name) })
}

func volumeUsesSecret(v *corev1.VolumeSource, name string) bool {
	switch {
	case v.Secret != nil:
		return v.Secret.SecretName == name
	case v.Projected != nil:
		return slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.Secret != nil && p.Secret.Name == name
		})
	case v.CSI != nil:
		return refers(v.CSI.NodePublishSecretRef, name)
	case v.AzureFile != nil:
		return v.AzureFile.SecretName == name
	case v.CephFS != nil:
		return refers(v.CephFS.SecretRef, name)
	case v.FlexVolume != nil:
		return refers(v.FlexVolume.SecretRef, name)
	case v.ISCSI != nil:
		return refers(v.ISCSI.SecretRef, name)
	case v.RBD != nil:
		return refers(v.RBD.SecretRef, name)
	case v.ScaleIO != nil:
		return refers(v.ScaleIO.SecretRef, name)
	case v.StorageOS != nil:
		return refers(v.StorageOS.SecretRef, name)
	}
	return false
}

func refers(ref *corev1.LocalObjectReference, name string) bool {
	return ref != nil && ref.Name == name
}

// usesConfigMap reports whether a pod names the config map.
func usesConfigMap(pod *corev1.Pod, name string) bool {
	for c := range containers(pod) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil && from.ConfigMapRef.Name == name {
				return true
			}
		}
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil && env.ValueFrom.ConfigMapKeyRef.Name == name {
				return true
			}
		}
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		if v.ConfigMap != nil {
			return v.ConfigMap.Name == name
		}
		return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.ConfigMap != nil && p.ConfigMap.Name == name
		})
	})
}

// Claims are the persistent volume claims a pod mounts, those made for it included.
func Claims(pod *corev1.Pod) []string {
	var names []string
	for _, v := range pod.Spec.Volumes {
		switch {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, pod.Name+"-"+v.Name)
		}
	}
	return names
}

// usesResourceClaim reports whether a pod has the device claim, be it named by the user or made for the pod.
func usesResourceClaim(pod *corev1.Pod, name string) bool {
	for _, claim := range pod.Spec.ResourceClaims {
		if claim.ResourceClaimName != nil && *claim.ResourceClaimName == name {
			return true
		}
	}
	for _, claim := range pod.Status.ResourceClaimStatuses {
		if claim.ResourceClaimName != nil && *claim.ResourceClaimName == name {
			return true
		}
	}
	extended := pod.Status.ExtendedResourceClaimStatus
	return extended != nil && extended.ResourceClaimName == name
}

// volumeSecrets are the secrets a persistent volume is mounted with; one without a namespace is in its claim's.
func volumeSecrets(volume *corev1.PersistentVolume) []corev1.SecretReference {
	var refs []corev1.SecretReference
	add := func(ref *corev1.SecretReference) {
		if ref == nil {
			return
		}
		resolved := *ref
		if resolved.Namespace == "" && volume.Spec.ClaimRef != nil {
			resolved.Namespace = volume.Spec.ClaimRef.Namespace
		}
		refs = append(refs, resolved)
	}
	source := &volume.Spec.PersistentVolumeSource
	switch {
	case source.CSI != nil:
		add(source.CSI.NodeStageSecretRef)
		add(source.CSI.NodePublishSecretRef)
		add(source.CSI.NodeExpandSecretRef)
		add(source.CSI.ControllerPublishSecretRef)
		add(source.CSI.ControllerExpandSecretRef)
	case source.AzureFile != nil:
		ref := &corev1.SecretReference{Name: source.AzureFile.SecretName}
		if source.AzureFile.SecretNamespace != nil {
			ref.Namespace = *source.AzureFile.SecretNamespace
		}
		add(ref)
	case source.CephFS != nil:
		add(source.CephFS.SecretRef)
	case source.FlexVolume != nil:
		add(source.FlexVolume.SecretRef)
	case source.ISCSI != nil:
		add(source.ISCSI.SecretRef)
	case source.RBD != nil:
		add(source.RBD.SecretRef)
	case source.ScaleIO != nil:
		add(source.ScaleIO.SecretRef)
	case source.StorageOS != nil && source.StorageOS.SecretRef != nil:
		add(&corev1.SecretReference{Name: source.StorageOS.SecretRef.Name, Namespace: source.StorageOS.SecretRef.Namespace})
	}
	return refs
}

// NamesObjects reports whether a pod names any secret or config map.
func NamesObjects(pod *corev1.Pod) bool {
	if len(pod.Spec.ImagePullSecrets) > 0 {
		return true
	}
	for c := range containers(pod) {
		if slices.ContainsFunc(c.EnvFrom, func(from corev1.EnvFromSource) bool { return from.SecretRef != nil || from.ConfigMapRef != nil }) {
			return true
		}
		if slices.ContainsFunc(c.Env, func(env corev1.EnvVar) bool {
			return env.ValueFrom != nil && (env.ValueFrom.SecretKeyRef != nil || env.ValueFrom.ConfigMapKeyRef != nil)
		}) {
			return true
		}
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.EmptyDir == nil && v.HostPath == nil && v.DownwardAPI == nil && v.Image == nil
	})
}

package machine

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/authz/node"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
)

// completeStatic does for a pod from a file what the API server does for the others: defaults and rules. It may run with
// the API away, so it may name nothing of it (https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/).
func completeStatic(pod *corev1.Pod) error {
	switch {
	case pod.Spec.ServiceAccountName != "":
		return errors.New("spec.serviceAccountName: a static pod has no service account: remove it")
	case len(pod.Spec.ImagePullSecrets) > 0 || node.NamesObjects(pod):
		return errors.New("a static pod cannot use Secrets and ConfigMaps: put what it needs into a hostPath volume")
	case len(node.Claims(pod)) > 0 || len(pod.Spec.ResourceClaims) > 0:
		return errors.New("a static pod cannot use claims: use a hostPath volume")
	case len(pod.Spec.EphemeralContainers) > 0:
		return errors.New("spec.ephemeralContainers: a static pod has none: remove them")
	}
	podspec.DefaultPod(pod)
	return podspec.Validate(&pod.Spec, &pod.ObjectMeta, field.NewPath("spec")).ToAggregate()
}

package virtual

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Bindings is the old way to bind a pod to a node; it goes through the pod's own subresource.
func Bindings(env *resource.Env) (rest.Storage, error) {
	return &question[corev1.Binding]{namespaced: true, answer: func(ctx context.Context, binding *corev1.Binding) error {
		pods, ok := env.Path(corev1.SchemeGroupVersion, "pods/binding").(rest.NamedCreater)
		if !ok {
			return apierrors.NewMethodNotSupported(corev1.Resource("bindings"), "create")
		}
		_, err := pods.Create(ctx, binding.Name, binding, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
		return err
	}}, nil
}

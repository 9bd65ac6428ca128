package horizontalpodautoscaler

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
)

// targets reads and writes the size of anything that has a scale subresource.
type targets struct {
	kinds   meta.RESTMapper // of custom resources as well
	objects dynamic.Interface
}

// get reads a target's scale. It is not cached: what is written is based on it.
func (t *targets) get(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference) (*autoscalingv1.Scale, dynamic.ResourceInterface, error) {
	version, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, nil, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	mapping, err := t.kinds.RESTMapping(version.WithKind(ref.Kind).GroupKind())
	if err != nil {
		return nil, nil, fmt.Errorf("unable to determine resource for scale target reference: %w", err)
	}
	resource := t.objects.Resource(mapping.Resource).Namespace(namespace)
	found, err := resource.Get(ctx, ref.Name, metav1.GetOptions{}, "scale")
	if err != nil {
		return nil, nil, err
	}
	scale := &autoscalingv1.Scale{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(found.Object, scale); err != nil {
		return nil, nil, fmt.Errorf("read the scale of %s %s/%s: %w", ref.Kind, namespace, ref.Name, err)
	}
	return scale, resource, nil
}

// resize writes a size, if nobody has changed the target since its scale was read.
func resize(ctx context.Context, resource dynamic.ResourceInterface, scale *autoscalingv1.Scale, replicas int32) error {
	next := scale.DeepCopy()
	next.TypeMeta = metav1.TypeMeta{APIVersion: autoscalingv1.SchemeGroupVersion.String(), Kind: "Scale"}
	next.Spec.Replicas = replicas
	object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(next)
	if err != nil {
		return fmt.Errorf("write the scale of %s/%s: %w", scale.Namespace, scale.Name, err)
	}
	if replicas == 0 { // which is left out otherwise, and then means no change to some servers
		if err := unstructured.SetNestedField(object, int64(0), "spec", "replicas"); err != nil {
			return fmt.Errorf("write the scale of %s/%s: %w", scale.Namespace, scale.Name, err)
		}
	}
	_, err = resource.Update(ctx, &unstructured.Unstructured{Object: object}, metav1.UpdateOptions{}, "scale")
	return err
}

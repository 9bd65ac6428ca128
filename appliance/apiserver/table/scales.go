package table

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

var (
	scaleDeployment = resource.ScaleOf(func(d *appsv1.Deployment) (resource.Scaled, error) {
		return scaled(&d.Spec.Replicas, d.Status.Replicas, d.Spec.Selector)
	})
	scaleReplicaSet = resource.ScaleOf(func(r *appsv1.ReplicaSet) (resource.Scaled, error) {
		return scaled(&r.Spec.Replicas, r.Status.Replicas, r.Spec.Selector)
	})
	scaleStatefulSet = resource.ScaleOf(func(s *appsv1.StatefulSet) (resource.Scaled, error) {
		return scaled(&s.Spec.Replicas, s.Status.Replicas, s.Spec.Selector)
	})
	scaleReplicationController = resource.ScaleOf(func(c *corev1.ReplicationController) (resource.Scaled, error) {
		return resource.Scaled{Replicas: &c.Spec.Replicas, Current: c.Status.Replicas, Selector: labels.Set(c.Spec.Selector).String()}, nil
	})
)

func scaled(replicas **int32, current int32, selector *metav1.LabelSelector) (resource.Scaled, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return resource.Scaled{}, err
	}
	return resource.Scaled{Replicas: replicas, Current: current, Selector: s.String()}, nil
}

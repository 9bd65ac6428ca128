package resourceclaim

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Pods settles what pods need of claims.
type Pods struct {
	client client.Client
	events record.EventRecorder
}

// Reconcile settles one pod: claims are made from templates, and a pod with a node gets its place in them.
func (r *Pods) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pod corev1.Pod
	err := r.client.Get(ctx, req.NamespacedName, &pod)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe pod %s: %w", req, err)
	}
	if done(&pod) || pod.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	next := pod.DeepCopy()
	for i := range pod.Spec.ResourceClaims {
		podClaim := &pod.Spec.ResourceClaims[i]
		name, err := r.settle(ctx, &pod, podClaim)
		if err != nil {
			r.events.Eventf(&pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", podClaim.Name, err)
			return ctrl.Result{}, fmt.Errorf("claim %s of pod %s: %w", podClaim.Name, req, err)
		}
		if podClaim.ResourceClaimTemplateName != nil && named(&pod, podClaim) != name {
			next.Status.ResourceClaimStatuses = withStatus(next.Status.ResourceClaimStatuses, podClaim.Name, name)
		}
	}
	if apiequality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, next.Status.ResourceClaimStatuses) {
		return ctrl.Result{}, nil
	}
	err = r.client.Status().Patch(ctx, next, client.StrategicMergeFrom(&pod))
	if err != nil && !apierrors.IsNotFound(err) {
		return ctrl.Result{}, fmt.Errorf("tell pod %s the names of its claims: %w", req, err)
	}
	return ctrl.Result{}, nil
}

// settle returns the name of the claim that one of a pod's claims stands for, which exists then if it is made from a
// template.
func (r *Pods) settle(ctx context.Context, pod *corev1.Pod, podClaim *corev1.PodResourceClaim) (string, error) {
	name := named(pod, podClaim)
	if name == "" && podClaim.ResourceClaimTemplateName != nil {
		name = claimName(pod, podClaim.Name)
	}
	claim := &resourcev1.ResourceClaim{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: name}, claim)
	if apierrors.IsNotFound(err) {
		if podClaim.ResourceClaimTemplateName == nil {
			return name, nil // somebody will make it
		}
		return r.create(ctx, pod, podClaim)
	}
	if err != nil {
		return "", err
	}
	if podClaim.ResourceClaimTemplateName != nil && !metav1.IsControlledBy(claim, pod) {
		return "", fmt.Errorf("resource claim %q was not created for this pod; delete it, or the pod", name)
	}
	if pod.Spec.NodeName == "" {
		return name, nil
	}
	if next := reserve(claim, pod); next != nil {
		err := r.client.Status().Update(ctx, next)
		if err != nil && !apierrors.IsNotFound(err) {
			return "", fmt.Errorf("reserve %s: %w", name, err) // a conflict is tried again: nothing else queues the pod
		}
	}
	return name, nil
}

func (r *Pods) create(ctx context.Context, pod *corev1.Pod, podClaim *corev1.PodResourceClaim) (string, error) {
	var template resourcev1.ResourceClaimTemplate
	if err := r.client.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: *podClaim.ResourceClaimTemplateName}, &template); err != nil {
		return "", err
	}
	claim := newClaim(pod, podClaim.Name, &template)
	err := r.client.Create(ctx, claim)
	if apierrors.IsAlreadyExists(err) {
		return claim.Name, nil // ours, not in the cache yet; or another's, which the pass that sees it reports
	}
	return claim.Name, err
}

// waiting are the pods that want a claim of a template.
func (r *Pods) waiting(ctx context.Context, template client.Object) []reconcile.Request {
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(template.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var out []reconcile.Request
	for i := range pods.Items {
		for _, c := range pods.Items[i].Spec.ResourceClaims {
			if c.ResourceClaimTemplateName != nil && *c.ResourceClaimTemplateName == template.GetName() {
				out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&pods.Items[i])})
				break
			}
		}
	}
	return out
}

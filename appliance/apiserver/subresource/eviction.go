package subresource

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/util/retry"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	// maxDisrupted bounds the pods a budget remembers as going.
	maxDisrupted = 2000
	// retrySeconds is what a client is told to wait when the budget's controller has not caught up.
	retrySeconds = 10
)

// Eviction deletes a pod if its disruption budget allows it.
func Eviction(env *resource.Env, pods *resource.Storage) (rest.Storage, error) {
	budgets := env.Storage(policyv1.Resource("poddisruptionbudgets"))
	if budgets == nil {
		return nil, errors.New("find the storage of pod disruption budgets: it is not in the table")
	}
	return &eviction{pods: pods, budgets: budgets, now: time.Now}, nil
}

type eviction struct {
	pods, budgets *resource.Storage
	now           func() time.Time
}

var (
	_ rest.NamedCreater             = &eviction{}
	_ rest.GroupVersionKindProvider = &eviction{}
)

func (e *eviction) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy does nothing: the stores are others'.
func (e *eviction) Destroy() {}

func (e *eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

func (e *eviction) Create(ctx context.Context, name string, obj runtime.Object, admit rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	asked, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %#v", obj))
	}
	if name != asked.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	deletion := &metav1.DeleteOptions{}
	if asked.DeleteOptions != nil {
		deletion = asked.DeleteOptions.DeepCopy()
	}
	if len(deletion.DryRun) == 0 {
		deletion.DryRun = options.DryRun
	}
	if admit != nil {
		if err := admit(ctx, asked.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	err := retry.OnError(retry.DefaultRetry, apierrors.IsConflict, func() error { return e.evict(ctx, name, deletion) })
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// evict makes one attempt. A conflict means that the pod or its budget changed meanwhile.
func (e *eviction) evict(ctx context.Context, name string, options *metav1.DeleteOptions) error {
	obj, err := e.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	pod := obj.(*corev1.Pod)
	if p := options.Preconditions; p != nil && (p.UID != nil && *p.UID != pod.UID || p.ResourceVersion != nil && *p.ResourceVersion != pod.ResourceVersion) {
		return e.delete(ctx, pod, options) // which words the refusal
	}
	if disturbsNobody(pod) {
		return e.delete(ctx, pod, pinned(pod, options))
	}
	budget, err := e.budgetOf(ctx, pod)
	if err != nil {
		return err
	}
	if budget == nil {
		return e.delete(ctx, pod, options)
	}
	if !ready(pod) && allowsUnhealthy(budget) {
		// A pod that serves nobody costs nothing, as long as it is still the one that was looked at.
		return e.delete(ctx, pod, pinned(pod, options))
	}
	dry := dryrun.IsDryRun(options.DryRun)
	if _, err := change(ctx, e.budgets.Store, budget.Name, &storage.Preconditions{UID: &budget.UID}, dry, func(b *policyv1.PodDisruptionBudget) error {
		return spend(b, pod.Name, e.now())
	}); err != nil {
		return err
	}
	return e.delete(ctx, pod, options)
}

// disturbsNobody is true for pods that do not run yet, no longer, or are on their way out.
func disturbsNobody(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodPending || !pod.DeletionTimestamp.IsZero()
}

// pinned deletes exactly the state that was looked at.
func pinned(pod *corev1.Pod, options *metav1.DeleteOptions) *metav1.DeleteOptions {
	options = options.DeepCopy()
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.ResourceVersion == nil {
		options.Preconditions.ResourceVersion = &pod.ResourceVersion
	}
	return options
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// allowsUnhealthy says whether a budget lets pods go that are not ready anyway.
func allowsUnhealthy(b *policyv1.PodDisruptionBudget) bool {
	if policy := b.Spec.UnhealthyPodEvictionPolicy; policy != nil && *policy == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// budgetOf finds the one budget that covers a pod.
func (e *eviction) budgetOf(ctx context.Context, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	obj, err := e.budgets.List(ctx, &metainternalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	var found *policyv1.PodDisruptionBudget
	for i := range obj.(*policyv1.PodDisruptionBudgetList).Items {
		b := &obj.(*policyv1.PodDisruptionBudgetList).Items[i]
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		if found != nil {
			//lint:ignore ST1005 clients know these words from Kubernetes
			return nil, apierrors.NewInternalError(errors.New("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."))
		}
		found = b
	}
	return found, nil
}

// spend takes one disruption from a budget for a pod, or says why there is none.
func spend(b *policyv1.PodDisruptionBudget, pod string, now time.Time) error {
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return exhausted(retrySeconds, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
	case b.Status.DisruptionsAllowed < 0:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New("pdb disruptions allowed is negative"))
	case len(b.Status.DisruptedPods) > maxDisrupted:
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case b.Status.DisruptionsAllowed == 0:
		return exhausted(0, fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy))
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		disallow(b, now)
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	// The budget's controller counts the pod as gone from now on, though it has not seen the deletion yet.
	b.Status.DisruptedPods[pod] = metav1.Time{Time: now}
	return nil
}

func disallow(b *policyv1.PodDisruptionBudget, now time.Time) {
	for i := range b.Status.Conditions {
		c := &b.Status.Conditions[i]
		if c.Type == policyv1.DisruptionAllowedCondition && c.Status != metav1.ConditionFalse {
			c.Status, c.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
			c.LastTransitionTime, c.ObservedGeneration = metav1.Time{Time: now}, b.Status.ObservedGeneration
		}
	}
}

// exhausted is the answer clients such as kubectl drain wait on.
func exhausted(retryAfter int, detail string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: detail})
	return err
}

// delete marks the pod as disrupted, for those who ask why it went, and deletes it.
func (e *eviction) delete(ctx context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) error {
	options = options.DeepCopy()
	preconditions := &storage.Preconditions{}
	if p := options.Preconditions; p != nil {
		preconditions.UID, preconditions.ResourceVersion = p.UID, p.ResourceVersion
	}
	if !dryrun.IsDryRun(options.DryRun) && pod.DeletionTimestamp.IsZero() {
		marked, err := change(ctx, e.pods.Store, pod.Name, preconditions, false, func(p *corev1.Pod) error {
			setCondition(p, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
			return nil
		})
		if err != nil {
			return interpret(err, corev1.Resource("pods"), pod.Name)
		}
		if options.Preconditions != nil && options.Preconditions.ResourceVersion != nil {
			options.Preconditions.ResourceVersion = &marked.ResourceVersion // the mark was ours
		}
	}
	_, _, err := e.pods.Delete(ctx, pod.Name, rest.ValidateAllObjectFunc, options)
	return err
}

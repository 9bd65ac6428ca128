package podcontrol

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/indexes"
)

// Owners is a kind of owners, as far as it matters to their pods.
type Owners[T client.Object] struct {
	Kind     schema.GroupVersionKind
	List     func() client.ObjectList
	Selector func(T) *metav1.LabelSelector
	// Member is what an owner asks of a pod of nobody beside its labels; nil for nothing.
	Member func(T, *corev1.Pod) bool
	// Finalizer comes with adoption and goes with release; "" for owners that do not count how their pods end. Those
	// take no pod that has ended.
	Finalizer string
	// Gather is how long news of pods that neither come to an end nor change hands wait for more of their kind: they
	// change what an owner's status counts, which one write can say of many pods.
	Gather time.Duration
}

// Pods lists the pods that are owner's when it is done, adopting and releasing on the way. They are the cache's own.
func (c *Control[T]) Pods(ctx context.Context, owner T) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(c.Selector(owner))
	if err != nil {
		return nil, reconcile.TerminalError(fmt.Errorf("read the selector of %s %s: %w", c.Kind.Kind, owner.GetName(), err))
	}
	pods, err := Owned(ctx, c.Client, owner)
	if err != nil {
		return nil, err
	}
	orphans, err := list(ctx, c.Client, owner.GetNamespace(), "", selector)
	if err != nil {
		return nil, err
	}
	for _, orphan := range orphans {
		if (Active(orphan) || c.Finalizer != "") && (c.Member == nil || c.Member(owner, orphan)) {
			pods = append(pods, orphan)
		}
	}
	claimer := &Claimer{Client: c.Client, Live: c.Live, Kind: c.Kind, Finalizer: c.Finalizer}
	return Take(ctx, claimer, owner, selector, pods)
}

// Owned lists the pods that refer to owner. They are the cache's own.
func Owned(ctx context.Context, c client.Reader, owner metav1.Object) ([]*corev1.Pod, error) {
	return list(ctx, c, owner.GetNamespace(), string(owner.GetUID()), labels.Everything())
}

func list(ctx context.Context, c client.Reader, namespace, controller string, selector labels.Selector) ([]*corev1.Pod, error) {
	var list corev1.PodList
	err := c.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{indexes.PodController: controller},
		client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list pods in %s: %w", namespace, err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	return pods, nil
}

// Wanting lists the owners that would have a pod nobody owns.
func (c *Control[T]) Wanting(ctx context.Context, pod *corev1.Pod) []reconcile.Request {
	return Wanting(ctx, c.Client, c.List(), pod, func(owner T) *metav1.LabelSelector {
		if c.Member != nil && !c.Member(owner, pod) {
			return nil
		}
		return c.Selector(owner)
	})
}

// Wanting lists the objects in a child's namespace whose selector matches the child. No selector matches nothing, and
// neither does an empty one: it comes from objects that no server would let through today. all is a fresh list.
func Wanting[T client.Object](ctx context.Context, c client.Reader, all client.ObjectList, child client.Object, of func(T) *metav1.LabelSelector) []reconcile.Request {
	if err := c.List(ctx, all, client.InNamespace(child.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var requests []reconcile.Request
	_ = meta.EachListItem(all, func(o runtime.Object) error { // an error would be that all is no list
		selector, err := metav1.LabelSelectorAsSelector(of(o.(T)))
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(child.GetLabels())) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o.(T))})
		}
		return nil
	})
	return requests
}

// ForgetDeleted drops what is remembered of owners that are gone; no pass of theirs follows.
func (c *Control[T]) ForgetDeleted(also ...func(types.UID)) predicate.Funcs {
	return predicate.Funcs{DeleteFunc: func(e event.DeleteEvent) bool {
		c.Expected.Forget(e.Object.GetUID())
		for _, forget := range also {
			forget(e.Object.GetUID())
		}
		return false
	}}
}

// Report writes an owner's status if it is not the shown one, which is the owner's; the owner is the caller's own
// copy.
func Report[S any](ctx context.Context, c client.Client, owner client.Object, shown *S, status S) error {
	if apiequality.Semantic.DeepEqual(*shown, status) {
		return nil
	}
	*shown = status
	err := c.Status().Update(ctx, owner)
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // our view was old; the newer object queues its own pass
	}
	return fmt.Errorf("update the status of %s: %w", owner.GetName(), err)
}

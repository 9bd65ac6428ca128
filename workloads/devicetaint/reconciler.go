// Package devicetaint drives pods away from devices that are not to be used any more.
//
// In:       ResourceSlices, DeviceTaintRules and ResourceClaims, from a cache of its own; pods, from the shared one.
// Out:      pods deleted whose claims hold a device with a NoExecute taint they do not tolerate, or no longer; what rules
//
//	did, in their status (KEP-5055).
//
// Promise:  a pod is deleted as the pod the claim names, or not at all.
// Not here: keeping new pods from such devices (workloads/scheduler), taints of nodes (workloads/nodelifecycle).
package devicetaint

import (
	"context"
	"errors"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/podcontrol"
)

// Reconciler settles claims.
type Reconciler struct {
	client  client.Client // pods and claims
	devices client.Reader // slices and rules
	events  record.EventRecorder
	clock   clock.PassiveClock
	doomed  sync.Map // UIDs of claims whose pods go unless the taints do, by name; to tell of those that are spared
	tally   tally
}

// Register adds the controllers to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	own, err := cache.New(mgr.GetConfig(), cache.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("make the cache of devices: %w", err)
	}
	if err := mgr.Add(own); err != nil {
		return fmt.Errorf("add the cache of devices: %w", err)
	}
	r := &Reconciler{client: mgr.GetClient(), devices: own, events: events.Recorder(mgr, "device-taint-eviction"), clock: steady}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("devicetaint").
		For(&resourcev1.ResourceClaim{}).
		WatchesRawSource(source.Kind[client.Object](own, &resourcev1.ResourceSlice{}, handler.EnqueueRequestsFromMapFunc(r.affected))).
		WatchesRawSource(source.Kind[client.Object](own, &resourcev1.DeviceTaintRule{}, handler.EnqueueRequestsFromMapFunc(r.affected))).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the controller of device taints: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("devicetaintrule").
		WatchesRawSource(source.Kind[client.Object](own, &resourcev1.DeviceTaintRule{}, &handler.EnqueueRequestForObject{})).
		Watches(&resourcev1.ResourceClaim{}, handler.EnqueueRequestsFromMapFunc(r.meaning)).
		Complete(reconcile.Func(r.report))
	if err != nil {
		return fmt.Errorf("register the controller of device taint rules: %w", err)
	}
	return nil
}

// Reconcile settles one claim.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	claim := &resourcev1.ResourceClaim{}
	err := r.client.Get(ctx, req.NamespacedName, claim)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe resource claim %s: %w", req, err)
	}
	var slices resourcev1.ResourceSliceList
	var rules resourcev1.DeviceTaintRuleList
	if err := errors.Join(r.devices.List(ctx, &slices, client.UnsafeDisableDeepCopy), r.devices.List(ctx, &rules, client.UnsafeDisableDeepCopy)); err != nil {
		return ctrl.Result{}, fmt.Errorf("list devices and rules: %w", err)
	}
	evict, again := judge(claim, slices.Items, rules.Items, r.clock.Now())
	if again > 0 {
		r.doomed.Store(req.NamespacedName, claim.UID)
		return ctrl.Result{RequeueAfter: again}, nil
	}
	uid, was := r.doomed.LoadAndDelete(req.NamespacedName)
	if !evict && (!was || uid != claim.UID) {
		return ctrl.Result{}, nil
	}
	var errs []error
	for _, ref := range claim.Status.ReservedFor {
		pod, err := r.consumer(ctx, claim.Namespace, ref)
		switch {
		case err != nil:
			errs = append(errs, err)
		case pod != nil && evict:
			err := r.evict(ctx, pod)
			if err == nil {
				r.tally.add(blamed(claim, rules.Items, r.clock.Now()), pod.UID)
			}
			errs = append(errs, err)
		case pod != nil:
			r.events.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
		}
	}
	return ctrl.Result{}, errors.Join(errs...)
}

// consumer is a pod that uses a claim, nil if what uses it is none or ends anyway.
func (r *Reconciler) consumer(ctx context.Context, namespace string, ref resourcev1.ResourceClaimConsumerReference) (*corev1.Pod, error) {
	if ref.APIGroup != "" || ref.Resource != "pods" {
		return nil, nil
	}
	pod := &corev1.Pod{}
	err := r.client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: ref.Name}, pod)
	if apierrors.IsNotFound(err) || err == nil && (pod.UID != ref.UID || pod.DeletionTimestamp != nil || podcontrol.Terminal(pod)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("observe pod %s/%s: %w", namespace, ref.Name, err)
	}
	return pod, nil
}

func (r *Reconciler) evict(ctx context.Context, pod *corev1.Pod) error {
	r.events.Event(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	marked := pod.DeepCopy()
	condition := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByDeviceTaintManager",
		Message: "Device Taint manager: deleting due to NoExecute taint", ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(r.clock.Now()),
	}
	if was := podcontrol.Condition(marked, corev1.DisruptionTarget); was != nil {
		*was = condition
	} else {
		marked.Status.Conditions = append(marked.Status.Conditions, condition)
	}
	err := r.client.Status().Patch(ctx, marked, client.StrategicMergeFrom(pod))
	if err == nil {
		err = r.client.Delete(ctx, marked, client.Preconditions{UID: &pod.UID})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// affected are all claims with devices: there are as many as pods that use some, and taints change seldom.
func (r *Reconciler) affected(ctx context.Context, _ client.Object) []reconcile.Request {
	var claims resourcev1.ResourceClaimList
	if err := r.client.List(ctx, &claims, client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var out []reconcile.Request
	for i := range claims.Items {
		if claims.Items[i].Status.Allocation != nil {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&claims.Items[i])})
		}
	}
	return out
}

// meaning are the rules whose status a claim has part in.
func (r *Reconciler) meaning(ctx context.Context, o client.Object) []reconcile.Request {
	claim := o.(*resourcev1.ResourceClaim)
	var rules resourcev1.DeviceTaintRuleList
	if err := r.devices.List(ctx, &rules, client.UnsafeDisableDeepCopy); err != nil || claim.Status.Allocation == nil {
		return nil
	}
	var out []reconcile.Request
	for i := range rules.Items {
		if uses(claim, rules.Items[i].Spec.DeviceSelector) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&rules.Items[i])})
		}
	}
	return out
}

func uses(claim *resourcev1.ResourceClaim, selector *resourcev1.DeviceTaintSelector) bool {
	if claim.Status.Allocation == nil {
		return false
	}
	results := claim.Status.Allocation.Devices.Results
	for i := range results {
		if means(selector, allocated(&results[i])) {
			return true
		}
	}
	return false
}

// report tells in a rule's status how many pods it drives away, or would.
func (r *Reconciler) report(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	rule := &resourcev1.DeviceTaintRule{}
	err := r.devices.Get(ctx, req.NamespacedName, rule)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, r.forget(ctx)
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe device taint rule %s: %w", req.Name, err)
	}
	var claims resourcev1.ResourceClaimList
	var slices resourcev1.ResourceSliceList
	if err := errors.Join(r.client.List(ctx, &claims, client.UnsafeDisableDeepCopy), r.devices.List(ctx, &slices, client.UnsafeDisableDeepCopy)); err != nil {
		return ctrl.Result{}, fmt.Errorf("list devices and claims: %w", err)
	}
	next := rule.DeepCopy()
	condition := progress(rule, claims.Items, slices.Items, r.tally.of(rule.UID), metav1.NewTime(r.clock.Now()))
	if rule.DeletionTimestamp != nil || !meta.SetStatusCondition(&next.Status.Conditions, condition) {
		return ctrl.Result{}, nil
	}
	err = r.client.Status().Update(ctx, next)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // our view was old; the newer object queues its own pass
		return ctrl.Result{}, fmt.Errorf("update status of device taint rule %s: %w", req.Name, err)
	}
	return ctrl.Result{}, nil
}

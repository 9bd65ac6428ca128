// Package horizontalpodautoscaler gives workloads as many replicas as what they use asks for.
//
// In:       HorizontalPodAutoscalers and pods, from the shared cache; the targets' scales; metrics.k8s.io,
//
//	custom.metrics.k8s.io and external.metrics.k8s.io through the API server.
//
// Out:      targets scaled, conditions and events in the words of kube-controller-manager.
// Promise:  by autoscaling/v2's documented algorithm; pods are added or removed only on figures that justify it: what is
//
//	missing is taken for what speaks against the change.
//
// Not here: measuring (appliance/apiserver/usage), making and removing pods (the target's own controller).
package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"knarr.dev/knarr/workloads/events"
)

const (
	// period between passes of one autoscaler, as kube-controller-manager's.
	period = 15 * time.Second
	// patience with one server of metrics, which is somebody's pod.
	patience = 10 * time.Second
	// sideBySide is how many autoscalers settle at a time, so that a slow server of metrics does not hold up the others.
	sideBySide = 5
)

// Reconciler settles autoscalers.
type Reconciler struct {
	client   client.Client
	targets  *targets
	readings *readings
	events   record.EventRecorder
	clock    clock.PassiveClock // for what passes between two passes
	steady   clock.PassiveClock // for what the API has as a time

	mu    sync.Mutex
	known map[types.NamespacedName]*autoscaler
}

// autoscaler is what is remembered of one between its passes.
type autoscaler struct {
	uid types.UID
	history
	selector labels.Selector // of its target's pods, nil until known
}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	r, err := newReconciler(mgr, steady)
	if err != nil {
		return fmt.Errorf("register the autoscaler: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		For(&autoscalingv2.HorizontalPodAutoscaler{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: sideBySide}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the autoscaler: %w", err)
	}
	return nil
}

func newReconciler(mgr manager.Manager, steady clock.PassiveClock) (*Reconciler, error) {
	custom, err := apiutil.NewDynamicRESTMapper(mgr.GetConfig(), mgr.GetHTTPClient()) // asks nobody until it is asked
	if err != nil {
		return nil, fmt.Errorf("make a mapper of custom kinds: %w", err)
	}
	kinds := meta.FirstHitRESTMapper{MultiRESTMapper: meta.MultiRESTMapper{mgr.GetRESTMapper(), custom}}
	objects, err := dynamic.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client of all kinds: %w", err)
	}
	usage, err := metricsclient.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client of metrics: %w", err)
	}
	others := rest.CopyConfig(mgr.GetConfig())
	others.ContentConfig = rest.ContentConfig{} // adapters speak JSON
	others.Timeout = patience
	versions, err := discovery.NewDiscoveryClientForConfig(others)
	if err != nil {
		return nil, fmt.Errorf("make a discovery client: %w", err)
	}
	external, err := external_metrics.NewForConfig(others)
	if err != nil {
		return nil, fmt.Errorf("make a client of external metrics: %w", err)
	}
	served := custom_metrics.NewAvailableAPIsGetter(versions)
	return &Reconciler{
		client:  mgr.GetClient(),
		targets: &targets{kinds: kinds, objects: objects},
		readings: &readings{
			usage: usage, custom: custom_metrics.NewForConfig(others, kinds, served), versions: served, external: external,
		},
		events: events.Recorder(mgr, "horizontal-pod-autoscaler"),
		clock:  clock.RealClock{},
		steady: steady,
		known:  map[types.NamespacedName]*autoscaler{},
	}, nil
}

// Reconcile settles one autoscaler, and comes back after a period. What its user has to mend is in conditions and events.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var h autoscalingv2.HorizontalPodAutoscaler
	err := r.client.Get(ctx, req.NamespacedName, &h)
	if apierrors.IsNotFound(err) || err == nil && h.DeletionTimestamp != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.known, req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe autoscaler %s: %w", req, err)
	}
	status := h.Status.DeepCopy()
	status.ObservedGeneration = ptr.To(h.Generation)
	if err := r.settle(ctx, &h, status); err != nil {
		return ctrl.Result{}, err
	}
	return ctrl.Result{RequeueAfter: period}, r.store(ctx, &h, status)
}

// settle brings the target to the size it should have and says in status what came of it.
func (r *Reconciler) settle(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, status *autoscalingv2.HorizontalPodAutoscalerStatus) error {
	now := r.steady.Now()
	scale, target, err := r.targets.get(ctx, h.Namespace, h.Spec.ScaleTargetRef)
	if err != nil {
		r.events.Event(h, corev1.EventTypeWarning, "FailedGetScale", err.Error())
		set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionFalse,
			verdict{"FailedGetScale", fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err)}), now)
		return nil
	}
	set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionTrue,
		verdict{"SucceededGetScale", "the HPA controller was able to get the target's current scale"}), now)
	current, least := scale.Spec.Replicas, ptr.Deref(h.Spec.MinReplicas, 1)
	a := r.remembered(h, current, r.clock.Now())
	status.CurrentReplicas = current

	want, off, settled := outOfBounds(h, current, least)
	if off {
		status.DesiredReplicas, status.CurrentMetrics = 0, nil
		set(status, condition(autoscalingv2.ScalingActive, corev1.ConditionFalse,
			verdict{"ScalingDisabled", "scaling is disabled since the replica count of the target is zero"}), now)
		return nil
	}
	status.CurrentMetrics = nil
	if !settled {
		d := r.measure(ctx, h, a, scale, now)
		status.CurrentMetrics = d.statuses
		set(status, d.active, now)
		if d.err != nil {
			r.events.Event(h, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", d.err.Error())
		}
		if !d.usable {
			return nil
		}
		want = a.fit(h, status, d, bounds{min: least, max: h.Spec.MaxReplicas, current: current}, r.clock.Now(), now)
	}
	if current > 0 && isTrue(status, autoscalingv2.ScaledToZero) { // somebody else has woken it
		set(status, scaledToZero(current), now)
	}
	status.DesiredReplicas = want.replicas
	if want.replicas == current {
		return nil
	}
	return r.rescale(ctx, h, status, a, scale, want, func(replicas int32) error { return resize(ctx, target, scale, replicas) })
}

// rescale writes a new size. That it is zero is noted before: without the note, a target at zero is one turned off.
func (r *Reconciler) rescale(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, status *autoscalingv2.HorizontalPodAutoscalerStatus, a *autoscaler, scale *autoscalingv1.Scale, want wish, resize func(int32) error) error {
	now := r.steady.Now()
	if want.replicas == 0 {
		noted := h.DeepCopy()
		set(&noted.Status, scaledToZero(0), now)
		if err := r.client.Status().Update(ctx, noted); err != nil {
			return fmt.Errorf("note that %s/%s is scaled to zero: %w", h.Namespace, h.Name, err)
		}
		h.ResourceVersion = noted.ResourceVersion
	}
	if err := resize(want.replicas); err != nil {
		r.events.Eventf(h, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", want.replicas, want.reason, err.Error())
		set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionFalse,
			verdict{"FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err)}), now)
		status.DesiredReplicas = h.Status.DesiredReplicas
		return nil
	}
	set(status, condition(autoscalingv2.AbleToScale, corev1.ConditionTrue,
		verdict{"SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", want.replicas)}), now)
	set(status, scaledToZero(want.replicas), now)
	r.events.Eventf(h, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", want.replicas, want.reason)
	a.resized(h.Spec.Behavior, scale.Spec.Replicas, want.replicas, r.clock.Now())
	status.LastScaleTime = ptr.To(metav1.NewTime(now))
	return nil
}

// remembered is what is kept of an autoscaler; only its own pass uses it.
func (r *Reconciler) remembered(h *autoscalingv2.HorizontalPodAutoscaler, current int32, now time.Time) *autoscaler {
	r.mu.Lock()
	defer r.mu.Unlock()
	key := client.ObjectKeyFromObject(h)
	a := r.known[key]
	if a == nil || a.uid != h.UID {
		a = &autoscaler{uid: h.UID}
		r.known[key] = a
	}
	a.begin(current, now)
	return a
}

// measure asks every metric what it wants.
func (r *Reconciler) measure(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, a *autoscaler, scale *autoscalingv1.Scale, now time.Time) decision {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	selector, pods, err := r.podsOf(ctx, h, a, scale)
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		r.events.Event(h, corev1.EventTypeWarning, refused.event, err.Error())
		return decision{err: err, active: condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, refused.why)}
	}
	s := scene{current: scale.Spec.Replicas, observed: scale.Status.Replicas, pods: pods, tolerance: tolerancesOf(h.Spec.Behavior), now: now}
	answers := make([]answer, len(h.Spec.Metrics))
	for i := range h.Spec.Metrics {
		m, got := &h.Spec.Metrics[i], &answers[i]
		read, err := r.readings.of(ctx, h.Namespace, selector, m)
		if err == nil {
			got.proposal, err = propose(m, read, s)
		}
		if err != nil {
			got.reason, got.err = failed(m), inner(m, err)
			r.events.Event(h, corev1.EventTypeWarning, got.reason, got.err.Error())
		}
	}
	return combine(h.Spec.Metrics, answers, scale.Spec.Replicas)
}

// refusal is why there are no pods to measure.
type refusal struct {
	event string
	why   verdict
	err   error
}

func (r *refusal) Error() string { return r.err.Error() }

// refuse says the same in an event of that reason and in the condition.
func refuse(reason string, err error) error {
	return &refusal{reason, verdict{reason, err.Error()}, err}
}

// podsOf finds the pods behind a scale, which must be this autoscaler's alone: two would undo each other's work. Its errors
// are refusals.
func (r *Reconciler) podsOf(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, a *autoscaler, scale *autoscalingv1.Scale) (labels.Selector, []*corev1.Pod, error) {
	if scale.Status.Selector == "" {
		return nil, nil, &refusal{"SelectorRequired", verdict{"InvalidSelector", "the HPA target's scale is missing a selector"}, errors.New("selector is required")}
	}
	selector, err := labels.Parse(scale.Status.Selector)
	if err != nil {
		return nil, nil, refuse("InvalidSelector", fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err))
	}
	var list corev1.PodList
	if err := r.client.List(ctx, &list, client.InNamespace(h.Namespace), client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, refuse("FailedGetPods", fmt.Errorf("unable to get pods while calculating replica count: %w", err))
	}
	pods := make([]*corev1.Pod, 0, len(list.Items))
	for i := range list.Items {
		pods = append(pods, &list.Items[i])
	}
	if rivals := r.rivals(client.ObjectKeyFromObject(h), a, selector, pods); len(rivals) > 1 {
		return nil, nil, refuse("AmbiguousSelector", fmt.Errorf("pods by selector %v are controlled by multiple HPAs: %v", selector, rivals))
	}
	return selector, pods, nil
}

// rivals are the autoscalers of any of the pods, this one among them.
func (r *Reconciler) rivals(self types.NamespacedName, a *autoscaler, selector labels.Selector, pods []*corev1.Pod) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.selector = selector
	var out []string
	for key, other := range r.known {
		if key.Namespace != self.Namespace || other.selector == nil {
			continue
		}
		if key == self || slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return other.selector.Matches(labels.Set(p.Labels)) }) {
			out = append(out, key.String())
		}
	}
	slices.Sort(out)
	return out
}

func (r *Reconciler) store(ctx context.Context, h *autoscalingv2.HorizontalPodAutoscaler, status *autoscalingv2.HorizontalPodAutoscalerStatus) error {
	if apiequality.Semantic.DeepEqual(h.Status, *status) {
		return nil
	}
	next := h.DeepCopy()
	next.Status = *status
	err := r.client.Status().Update(ctx, next)
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // our view was old; the next pass writes it
	}
	return fmt.Errorf("update status of autoscaler %s/%s: %w", h.Namespace, h.Name, err)
}

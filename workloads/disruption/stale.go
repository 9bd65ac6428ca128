package disruption

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"knarr.dev/knarr/workloads/podcontrol"
)

// stale takes back the word that a pod is about to be disrupted when nobody did.
type stale struct {
	client client.Client
	clock  clock.PassiveClock
}

func registerStale(mgr manager.Manager, steady clock.PassiveClock) error {
	marked := predicate.NewPredicateFuncs(func(o client.Object) bool { return doomed(o.(*corev1.Pod)) })
	err := ctrl.NewControllerManagedBy(mgr).
		Named("stale-disruption").
		For(&corev1.Pod{}, builder.WithPredicates(marked)).
		Complete(&stale{client: mgr.GetClient(), clock: steady})
	if err != nil {
		return fmt.Errorf("register the controller of stale disruptions: %w", err)
	}
	return nil
}

// doomed says whether a pod is said to be disrupted and does not go.
func doomed(pod *corev1.Pod) bool {
	c := podcontrol.Condition(pod, corev1.DisruptionTarget)
	return c != nil && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil && !podcontrol.Terminal(pod)
}

// Reconcile looks at one pod.
func (s *stale) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pod corev1.Pod
	err := s.client.Get(ctx, req.NamespacedName, &pod)
	if apierrors.IsNotFound(err) || (err == nil && !doomed(&pod)) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe pod %s: %w", req, err)
	}
	now := s.clock.Now()
	if left := podcontrol.Condition(&pod, corev1.DisruptionTarget).LastTransitionTime.Add(confirmation).Sub(now); left > 0 {
		return ctrl.Result{RequeueAfter: min(left, confirmation)}, nil
	}
	next := pod.DeepCopy()
	*podcontrol.Condition(next, corev1.DisruptionTarget) = spared(&pod, now)
	err = s.client.Status().Patch(ctx, next, client.StrategicMergeFrom(&pod, client.MergeFromWithOptimisticLock{}))
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // our view was old; the newer object queues its own pass
	}
	return ctrl.Result{}, fmt.Errorf("take back the disruption of pod %s: %w", req, err)
}

func spared(pod *corev1.Pod, now time.Time) corev1.PodCondition {
	return corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
	}
}

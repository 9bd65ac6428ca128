package job

import (
	"context"
	"encoding/json"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/podcontrol"
)

// strays frees the pods that no job will count any more, which otherwise could never be deleted.
type strays struct {
	client  client.Client
	live    client.Reader
	wanting func(context.Context, *corev1.Pod) []reconcile.Request
}

func registerStrays(mgr manager.Manager, wanting func(context.Context, *corev1.Pod) []reconcile.Request) error {
	s := &strays{client: mgr.GetClient(), live: mgr.GetAPIReader(), wanting: wanting}
	suspect := predicate.NewPredicateFuncs(func(o client.Object) bool {
		pod := o.(*corev1.Pod)
		return hasFinalizer(pod) && (pod.DeletionTimestamp != nil || podcontrol.Terminal(pod) || metav1.GetControllerOfNoCopy(pod) == nil)
	})
	gone := predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("job-strays").
		For(&corev1.Pod{}, builder.WithPredicates(suspect)).
		Watches(&batchv1.Job{}, handler.EnqueueRequestsFromMapFunc(s.podsOf), builder.WithPredicates(gone)).
		Complete(s)
	if err != nil {
		return fmt.Errorf("register the controller of left-over job pods: %w", err)
	}
	return nil
}

// Reconcile frees one pod if nobody will count it.
func (s *strays) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pod corev1.Pod
	err := s.client.Get(ctx, req.NamespacedName, &pod)
	if apierrors.IsNotFound(err) || (err == nil && !hasFinalizer(&pod)) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe pod %s: %w", req, err)
	}
	if stray, err := s.stray(ctx, s.client, &pod); err != nil || !stray {
		return ctrl.Result{}, err
	}
	// The cache may be behind: its job may have adopted the pod, or be another that it does not show yet.
	var now corev1.Pod
	if err := s.live.Get(ctx, req.NamespacedName, &now); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if stray, err := s.stray(ctx, s.live, &now); err != nil || !stray || !hasFinalizer(&now) {
		return ctrl.Result{}, err
	}
	_, err = removeFinalizer(ctx, s.client, &now, now.ResourceVersion)
	return ctrl.Result{}, err
}

// stray says whether a pod has no job that will count it.
func (s *strays) stray(ctx context.Context, from client.Reader, pod *corev1.Pod) (bool, error) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return len(s.wanting(ctx, pod)) == 0, nil
	}
	if ref.Kind != kind.Kind {
		return true, nil
	}
	var job batchv1.Job
	err := from.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}, &job)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at the job of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	owner := batchJob{&job}
	return job.UID != ref.UID || (owner.finished() && ours(owner)), nil
}

// podsOf are the pods of a job that is gone.
func (s *strays) podsOf(ctx context.Context, job client.Object) []reconcile.Request {
	pods, err := podcontrol.Owned(ctx, s.client, job)
	if err != nil {
		return nil // the cache is closing
	}
	var requests []reconcile.Request
	for _, pod := range pods {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
	}
	return requests
}

// addFinalizer puts our finalizer on a pod, in exactly this version unless that is empty. That it is gone, going or changed
// is no error: the newer object queues its own pass.
func addFinalizer(ctx context.Context, c client.Client, pod *corev1.Pod, version string) error {
	metadata := map[string]any{"uid": pod.UID, "finalizers": []string{batchv1.JobTrackingFinalizer}}
	if version != "" {
		metadata["resourceVersion"] = version
	}
	_, err := patchMetadata(ctx, c, pod, metadata)
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return fmt.Errorf("track pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// removeFinalizer takes our finalizer from exactly this pod, and in exactly this version unless that is empty, and returns
// which version came of it. That the pod is gone is no error.
func removeFinalizer(ctx context.Context, c client.Client, pod *corev1.Pod, version string) (string, error) {
	metadata := map[string]any{
		"uid":                                 pod.UID,
		"$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer},
	}
	if version != "" {
		metadata["resourceVersion"] = version
	}
	now, err := patchMetadata(ctx, c, pod, metadata)
	if apierrors.IsNotFound(err) || (version == "" && (apierrors.IsConflict(err) || apierrors.IsInvalid(err))) {
		return pod.ResourceVersion, nil // gone, or another of the same name
	}
	if err != nil {
		return "", fmt.Errorf("release pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return now, nil
}

// patchMetadata returns which version came of it.
func patchMetadata(ctx context.Context, c client.Client, pod *corev1.Pod, metadata map[string]any) (version string, err error) {
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return "", fmt.Errorf("encode a patch: %w", err)
	}
	target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	err = c.Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, body))
	return target.ResourceVersion, err
}

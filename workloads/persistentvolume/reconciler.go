// Package persistentvolume binds volume claims and volumes to each other.
//
// In:       PersistentVolumeClaims, PersistentVolumes, StorageClasses and the pods that use claims, from the shared cache.
// Out:      both halves of each pair pointing at the other, their phases, who is to provision; events that say what a
// claim waits for.
// Promise:  a volume is reserved by one write that only one claim can win, and a claim that was bound keeps its volume or
// is lost. A volume is called released only after the API server itself, not the cache, said that its claim is gone.
// Not here: making and deleting volumes (provisioners; storage/localpath is ours), choosing one for a pod's node
// (scheduler), growing them.
package persistentvolume

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
)

const (
	// byClass indexes volumes by their class, and claims that are not bound by theirs.
	byClass = "class"
	// byClaim indexes volumes by the claim they are reserved for, as namespace/name.
	byClaim = "claim"
)

// afterConflict is time for the cache to show what was written by others. The volume's news alone would wake only the
// claim that won it.
const afterConflict = 200 * time.Millisecond

// Register adds the controllers of claims and of volumes to a manager.
func Register(mgr manager.Manager) error {
	ctx, indexer := context.Background(), mgr.GetFieldIndexer()
	for _, index := range []struct {
		of   client.Object
		name string
		key  client.IndexerFunc
	}{
		{&corev1.PersistentVolume{}, byClass, func(o client.Object) []string {
			return []string{volume.GetPersistentVolumeClass(o.(*corev1.PersistentVolume))}
		}},
		{&corev1.PersistentVolume{}, byClaim, func(o client.Object) []string { return reservedFor(o.(*corev1.PersistentVolume)) }},
		{&corev1.PersistentVolumeClaim{}, byClass, func(o client.Object) []string { return openClass(o.(*corev1.PersistentVolumeClaim)) }},
	} {
		if err := indexer.IndexField(ctx, index.of, index.name, index.key); err != nil {
			return fmt.Errorf("index %T by %s: %w", index.of, index.name, err)
		}
	}
	r := &reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), events: events.Recorder(mgr, "persistentvolume-controller")}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("persistent-volume-claim").
		For(&corev1.PersistentVolumeClaim{}).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(r.claimsOf)).
		Watches(&storagev1.StorageClass{}, handler.EnqueueRequestsFromMapFunc(r.claimsIn)).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.claimsOfPod), builder.WithPredicates(stuck())).
		Complete(reconcile.Func(r.reconcileClaim))
	if err != nil {
		return fmt.Errorf("register the controller of volume claims: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("persistent-volume").
		For(&corev1.PersistentVolume{}).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(r.volumesOf)).
		Complete(reconcile.Func(r.reconcileVolume))
	if err != nil {
		return fmt.Errorf("register the controller of volumes: %w", err)
	}
	return nil
}

type reconciler struct {
	client client.Client
	live   client.Reader // the API server's own word
	events record.EventRecorder
}

// reconcileClaim settles one claim.
func (r *reconciler) reconcileClaim(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	view, err := r.observe(ctx, req.NamespacedName)
	if err != nil || view.claim == nil {
		return ctrl.Result{}, err
	}
	return r.apply(ctx, judgeClaim(view), view.claim)
}

func (r *reconciler) observe(ctx context.Context, key types.NamespacedName) (view claimView, err error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := r.client.Get(ctx, key, claim); err != nil {
		return view, client.IgnoreNotFound(err)
	}
	view.claim = claim
	if claim.Spec.VolumeName != "" {
		view.named, err = r.volume(ctx, claim.Spec.VolumeName)
		return view, err
	}
	class := volume.GetPersistentVolumeClaimClass(claim)
	for index, value := range map[string]string{byClass: class, byClaim: key.String()} {
		var found corev1.PersistentVolumeList
		if err := r.client.List(ctx, &found, client.MatchingFields{index: value}, client.UnsafeDisableDeepCopy); err != nil {
			return view, fmt.Errorf("list volumes for claim %s: %w", key, err)
		}
		for i := range found.Items {
			view.volumes = append(view.volumes, &found.Items[i])
		}
	}
	if class == "" {
		view.defaultClass, err = r.defaultClass(ctx)
		return view, err
	}
	view.class = &storagev1.StorageClass{}
	if err := r.client.Get(ctx, types.NamespacedName{Name: class}, view.class); apierrors.IsNotFound(err) {
		view.class = nil
	} else if err != nil {
		return view, fmt.Errorf("observe storage class %s: %w", class, err)
	}
	if waitsForPod(claim, view.class) {
		view.unplaced, err = r.unplaced(ctx, claim)
	}
	return view, err
}

// volume finds one; that there is none is asked of the API server, because a claim would be lost over it.
func (r *reconciler) volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	for _, reader := range []client.Reader{r.client, r.live} {
		v := &corev1.PersistentVolume{}
		err := reader.Get(ctx, types.NamespacedName{Name: name}, v)
		if err == nil {
			return v, nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("observe volume %s: %w", name, err)
		}
	}
	return nil, nil
}

// defaultClass is the class of claims that name none, "" if there is none: the youngest of those marked so.
func (r *reconciler) defaultClass(ctx context.Context) (string, error) {
	var classes storagev1.StorageClassList
	if err := r.client.List(ctx, &classes, client.UnsafeDisableDeepCopy); err != nil {
		return "", fmt.Errorf("list storage classes: %w", err)
	}
	var found *storagev1.StorageClass
	for i := range classes.Items {
		c := &classes.Items[i]
		if c.Annotations[defaultAnnotation] != "true" && c.Annotations[betaDefaultAnnotation] != "true" {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&c.CreationTimestamp) || found.CreationTimestamp.Equal(&c.CreationTimestamp) && c.Name < found.Name {
			found = c
		}
	}
	if found == nil {
		return "", nil
	}
	return found.Name, nil
}

const (
	defaultAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

// reconcileVolume settles one volume.
func (r *reconciler) reconcileVolume(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := &corev1.PersistentVolume{}
	if err := r.client.Get(ctx, req.NamespacedName, v); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var claim *corev1.PersistentVolumeClaim
	if ref := v.Spec.ClaimRef; ref != nil && ref.UID != "" {
		var err error
		if claim, err = r.claim(ctx, ref); err != nil {
			return ctrl.Result{}, err
		}
	}
	return r.apply(ctx, judgeVolume(v, claim), nil)
}

// claim finds the claim a volume is reserved for; that it is gone is asked of the API server, because data may be
// deleted over it.
func (r *reconciler) claim(ctx context.Context, ref *corev1.ObjectReference) (*corev1.PersistentVolumeClaim, error) {
	key := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	for _, reader := range []client.Reader{r.client, r.live} {
		claim := &corev1.PersistentVolumeClaim{}
		err := reader.Get(ctx, key, claim)
		if err == nil && claim.UID == ref.UID {
			return claim, nil
		}
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("observe claim %s: %w", key, err)
		}
	}
	return nil, nil
}

// apply writes what a decision changes, the volume before the claim, and then tells. was is the claim as it was seen,
// nil if the decision does not touch one.
func (r *reconciler) apply(ctx context.Context, d decision, was *corev1.PersistentVolumeClaim) (ctrl.Result, error) {
	err := r.write(ctx, d, was)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{RequeueAfter: afterConflict}, nil // another claim was faster: look for another volume
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	for _, e := range d.events {
		r.events.Event(e.about, e.kind, e.reason, e.message)
	}
	return ctrl.Result{}, nil
}

func (r *reconciler) write(ctx context.Context, d decision, was *corev1.PersistentVolumeClaim) error {
	if d.volume != nil {
		if err := r.writeVolume(ctx, d.volume); err != nil {
			return err
		}
	}
	if d.claim == nil {
		return nil
	}
	status := d.claim.Status
	if !apiequality.Semantic.DeepEqual(d.claim.Spec, was.Spec) || !apiequality.Semantic.DeepEqual(d.claim.Annotations, was.Annotations) {
		if err := r.client.Update(ctx, d.claim); err != nil {
			return fmt.Errorf("update claim %s/%s: %w", was.Namespace, was.Name, err)
		}
	}
	if apiequality.Semantic.DeepEqual(status, was.Status) {
		return nil
	}
	d.claim.Status = status
	if err := r.client.Status().Update(ctx, d.claim); err != nil {
		return fmt.Errorf("update status of claim %s/%s: %w", was.Namespace, was.Name, err)
	}
	return nil
}

func (r *reconciler) writeVolume(ctx context.Context, next *corev1.PersistentVolume) error {
	was := &corev1.PersistentVolume{}
	if err := r.client.Get(ctx, client.ObjectKeyFromObject(next), was); err != nil {
		return fmt.Errorf("observe volume %s: %w", next.Name, err)
	}
	status := next.Status
	if !apiequality.Semantic.DeepEqual(next.Spec, was.Spec) || !apiequality.Semantic.DeepEqual(next.Annotations, was.Annotations) {
		if err := r.client.Update(ctx, next); err != nil {
			return fmt.Errorf("update volume %s: %w", next.Name, err)
		}
	}
	if status.Phase == was.Status.Phase && status.Message == was.Status.Message && status.Reason == was.Status.Reason {
		return nil
	}
	next.Status = status
	if err := r.client.Status().Update(ctx, next); err != nil {
		return fmt.Errorf("update status of volume %s: %w", next.Name, err)
	}
	return nil
}

// claimsOf are the claims a volume's news may help: its own, or all that wait for one of its class.
func (r *reconciler) claimsOf(ctx context.Context, o client.Object) []reconcile.Request {
	v := o.(*corev1.PersistentVolume)
	if ref := v.Spec.ClaimRef; ref != nil {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}}}
	}
	return append(r.open(ctx, volume.GetPersistentVolumeClass(v)), r.open(ctx, naming+v.Name)...)
}

// claimsIn are the claims that wait for something of a class, or for there to be a default.
func (r *reconciler) claimsIn(ctx context.Context, o client.Object) []reconcile.Request {
	return append(r.open(ctx, o.GetName()), r.open(ctx, "")...)
}

func (r *reconciler) open(ctx context.Context, class string) (requests []reconcile.Request) {
	var found corev1.PersistentVolumeClaimList
	if err := r.client.List(ctx, &found, client.MatchingFields{byClass: class}, client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache ends
	}
	for i := range found.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&found.Items[i])})
	}
	return requests
}

// volumesOf are those reserved for a claim, and the one it names.
func (r *reconciler) volumesOf(ctx context.Context, o client.Object) (requests []reconcile.Request) {
	var found corev1.PersistentVolumeList
	key := client.ObjectKeyFromObject(o).String()
	if err := r.client.List(ctx, &found, client.MatchingFields{byClaim: key}, client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache ends
	}
	for i := range found.Items {
		requests = append(requests, reconcile.Request{NamespacedName: types.NamespacedName{Name: found.Items[i].Name}})
	}
	return requests
}

func reservedFor(v *corev1.PersistentVolume) []string {
	if v.Spec.ClaimRef == nil {
		return nil
	}
	return []string{v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name}
}

// naming marks claims in the index that wait for one volume; no class has such a name.
const naming = "volume/"

func openClass(c *corev1.PersistentVolumeClaim) []string {
	switch {
	case c.Spec.VolumeName != "": // also when it is bound: a lost volume may be made again
		return []string{naming + c.Spec.VolumeName}
	case c.Annotations[volume.AnnBindCompleted] != "" || c.DeletionTimestamp != nil:
		return nil
	}
	return []string{volume.GetPersistentVolumeClaimClass(c)}
}

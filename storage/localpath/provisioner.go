// Package localpath makes volumes out of folders on the nodes' own disks.
//
// In:       claims of classes that name our provisioner, once the scheduler has chosen a node; volumes of ours nobody needs.
// Out:      a folder on that node, asked for through the node's own server, and a PersistentVolume of type local for it.
// Promise:  the folder is there before its volume is, and the volume's object stays until the folder is deleted. A volume
// whose class says Retain is never deleted. The folder's size is not limited: the node's disk is.
// Not here: binding volumes to claims (workloads/persistentvolume), mounting them (storage/volume).
package localpath

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// ClassName is the storage class every cluster has from its start.
const ClassName = "local-path"

// askFor bounds one question to a node. Deleting a large volume takes a while.
const askFor = 2 * time.Minute

// Nodes reach the servers of the nodes.
type Nodes interface {
	// Make the folder of a volume on a node; path is where it is there.
	Make(ctx context.Context, node, volume string) (path string, err error)
	// Remove the folder of a volume and all in it from a node.
	Remove(ctx context.Context, node, volume string) error
}

// Register adds the provisioner to a manager. It may be done when the first claim is seen.
func Register(mgr manager.Manager, nodes Nodes) error {
	//lint:ignore SA1019 users know core/v1 Events; see workloads/events
	p := &provisioner{client: mgr.GetClient(), nodes: nodes, events: mgr.GetEventRecorderFor("local-path-provisioner")}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("local-path-claim").
		For(&corev1.PersistentVolumeClaim{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return ours(o.(*corev1.PersistentVolumeClaim))
		}))).
		Complete(reconcile.Func(p.reconcileClaim))
	if err != nil {
		return fmt.Errorf("register the provisioner of local volumes: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("local-path-volume").
		For(&corev1.PersistentVolume{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return o.GetAnnotations()[volume.AnnDynamicallyProvisioned] == Provisioner
		}))).
		Complete(reconcile.Func(p.reconcileVolume))
	if err != nil {
		return fmt.Errorf("register the deleter of local volumes: %w", err)
	}
	return nil
}

// patience is how long an API server that did not answer is left alone before it is asked again.
const patience = 5 * time.Second

// Offer has a manager make the storage class when it starts, unless there is one of its name: that may have been
// changed on purpose. The API server is asked, so that nothing is followed for it, and asked again until it answers:
// all controllers would end with this one.
func Offer(mgr manager.Manager) error {
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		_ = wait.PollUntilContextCancel(ctx, patience, true, func(ctx context.Context) (bool, error) {
			err := offer(ctx, mgr.GetAPIReader(), mgr.GetClient())
			if err != nil {
				mgr.GetLogger().Error(err, "a claim without a class waits; trying again", "in", patience)
			}
			return err == nil, nil
		}) // it ends without the class only when the manager does
		return nil
	}))
}

type provisioner struct {
	client client.Client
	nodes  Nodes
	events record.EventRecorder
}

func offer(ctx context.Context, api client.Reader, writer client.Writer) error {
	class := &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: ClassName, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner:       Provisioner,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}
	err := api.Get(ctx, client.ObjectKeyFromObject(class), &storagev1.StorageClass{})
	if apierrors.IsNotFound(err) {
		err = writer.Create(ctx, class)
	}
	if err == nil || apierrors.IsAlreadyExists(err) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("make storage class %s: %w", ClassName, err)
}

// reconcileClaim makes the volume of one claim.
func (p *provisioner) reconcileClaim(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	claim := &corev1.PersistentVolumeClaim{}
	if err := p.client.Get(ctx, req.NamespacedName, claim); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !ours(claim) {
		return ctrl.Result{}, nil
	}
	name := volume.GetPersistentVolumeClaimClass(claim)
	failed := func(err error) {
		p.events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v", name, err)
	}
	class := &storagev1.StorageClass{}
	if err := p.client.Get(ctx, types.NamespacedName{Name: name}, class); err != nil {
		return ctrl.Result{}, fmt.Errorf("observe storage class %s: %w", name, err)
	}
	if class.Provisioner != Provisioner {
		return ctrl.Result{}, nil
	}
	if err := refuses(claim); err != nil {
		failed(err)
		return ctrl.Result{}, nil // until the claim changes
	}
	node := &corev1.Node{}
	if err := p.client.Get(ctx, types.NamespacedName{Name: claim.Annotations[volume.AnnSelectedNode]}, node); apierrors.IsNotFound(err) {
		failed(err)
		return ctrl.Result{}, p.reschedule(ctx, claim)
	} else if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe node %s: %w", claim.Annotations[volume.AnnSelectedNode], err)
	}
	made, err := p.provision(ctx, claim, class, node)
	if err != nil {
		failed(err)
		return ctrl.Result{}, err
	}
	if made {
		p.events.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", nameFor(claim))
	}
	return ctrl.Result{}, nil
}

func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) (made bool, err error) {
	err = p.client.Get(ctx, types.NamespacedName{Name: nameFor(claim)}, &corev1.PersistentVolume{})
	if err == nil {
		return false, nil
	}
	if !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("observe volume %s: %w", nameFor(claim), err)
	}
	asked, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	path, err := p.nodes.Make(asked, node.Name, nameFor(claim))
	if err != nil {
		return false, fmt.Errorf("make a folder on node %s: %w", node.Name, err)
	}
	err = p.client.Create(ctx, volumeFor(claim, class, node, path))
	if apierrors.IsAlreadyExists(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("create volume %s: %w", nameFor(claim), err)
	}
	return true, nil
}

// reschedule gives a claim back to the scheduler, whose node is gone.
func (p *provisioner) reschedule(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	next := claim.DeepCopy()
	delete(next.Annotations, volume.AnnSelectedNode)
	err := p.client.Update(ctx, next)
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // changed meanwhile, which queues another pass
	}
	return fmt.Errorf("give claim %s/%s back to the scheduler: %w", claim.Namespace, claim.Name, err)
}

// reconcileVolume ends one volume nobody needs any more.
func (p *provisioner) reconcileVolume(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	v := &corev1.PersistentVolume{}
	if err := p.client.Get(ctx, req.NamespacedName, v); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	switch judge(v) {
	case keep:
		return ctrl.Result{}, nil
	case deleteIt:
		if err := p.erase(ctx, v); err != nil {
			p.events.Event(v, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
			return ctrl.Result{}, err
		}
	}
	return ctrl.Result{}, p.drop(ctx, v)
}

// erase deletes a volume's folder. On a machine that has left the cluster it stays.
func (p *provisioner) erase(ctx context.Context, v *corev1.PersistentVolume) error {
	if !controllerutil.ContainsFinalizer(v, finalizer) {
		return nil // done already; the object goes
	}
	node, path, err := folderOf(v)
	if err != nil {
		return err
	}
	err = p.client.Get(ctx, types.NamespacedName{Name: node}, &corev1.Node{})
	if apierrors.IsNotFound(err) {
		p.events.Eventf(v, corev1.EventTypeWarning, "VolumeLeftBehind", "node %s is no longer part of the cluster: %s stays on its disk", node, path)
		return nil
	}
	if err != nil {
		return fmt.Errorf("observe node %s: %w", node, err)
	}
	asked, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	if err := p.nodes.Remove(asked, node, v.Name); err != nil {
		return fmt.Errorf("delete %s on node %s: %w", path, node, err)
	}
	return nil
}

// drop lets a volume's object go. A crash between the two writes leaves one whose folder is gone, which the next pass
// deletes.
func (p *provisioner) drop(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.DeletionTimestamp == nil {
		if err := p.client.Delete(ctx, v.DeepCopy(), client.Preconditions{UID: &v.UID}); err != nil {
			return ignoreOld(err, "delete volume "+v.Name)
		}
	}
	fresh := &corev1.PersistentVolume{}
	if err := p.client.Get(ctx, client.ObjectKeyFromObject(v), fresh); err != nil {
		return client.IgnoreNotFound(err)
	}
	if !controllerutil.RemoveFinalizer(fresh, finalizer) {
		return nil
	}
	return ignoreOld(p.client.Update(ctx, fresh), "let volume "+v.Name+" go")
}

// ignoreOld passes over what only says that our view was old: the newer object queues its own pass.
func ignoreOld(err error, act string) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("%s: %w", act, err)
}

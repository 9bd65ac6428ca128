// Package storagemigration rewrites stored objects, so that all are kept the way the API server would write them today.
//
// In:       StorageVersionMigrations, from a cache of its own.
// Out:      every object of the resource they name written once more, unchanged (KEP-4192); how that went.
// Promise:  no object is changed or brought back; what somebody else writes meanwhile is as good as written by us.
// Not here: which version or key the API server writes with (appliance/apiserver).
package storagemigration

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// page is how many objects are asked for at once.
const page = 500

// kinds is what discovery knows.
type kinds interface {
	ServerPreferredResources() ([]*metav1.APIResourceList, error)
}

// Reconciler settles migrations, one at a time: each may keep the datastore busy.
type Reconciler struct {
	client     client.Client
	migrations client.Reader
	kinds      kinds
	objects    metadata.Interface
	clock      clock.PassiveClock
}

// catchUp is how long a resource that is not served may take to be: whoever asks for a migration may just have made the
// custom kind (upstream's controller gives the same minute).
const catchUp = time.Minute

// untilServed is when to look again for a resource that is not served, by the age of the migration; 0 is never.
func untilServed(age time.Duration) time.Duration {
	return min(max(catchUp-age, 0), 5*time.Second)
}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	objects, err := metadata.NewForConfigAndClient(metadata.ConfigFor(mgr.GetConfig()), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a metadata client: %w", err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a discovery client: %w", err)
	}
	own, err := cache.New(mgr.GetConfig(), cache.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("make the cache of storage migrations: %w", err)
	}
	if err := mgr.Add(own); err != nil {
		return fmt.Errorf("add the cache of storage migrations: %w", err)
	}
	r := &Reconciler{client: mgr.GetClient(), migrations: own, kinds: kinds, objects: objects, clock: steady}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("storageversionmigration").
		WatchesRawSource(source.Kind[client.Object](own, &storagemigrationv1.StorageVersionMigration{}, &handler.EnqueueRequestForObject{})).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the controller of storage migrations: %w", err)
	}
	return nil
}

// Reconcile takes one migration to its end. After a crash it begins again, which costs time and nothing else.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	m := &storagemigrationv1.StorageVersionMigration{}
	err := r.migrations.Get(ctx, req.NamespacedName, m)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe storage migration %s: %w", req.Name, err)
	}
	if ended(m) || m.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	resource, found, err := r.find(m.Spec.Resource)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("look for the resource of storage migration %s: %w", req.Name, err)
	}
	if wait := untilServed(r.clock.Since(m.CreationTimestamp.Time)); !found && wait > 0 {
		return ctrl.Result{RequeueAfter: wait}, nil
	}
	if !found {
		return ctrl.Result{}, r.tell(ctx, m, storagemigrationv1.MigrationFailed, fmt.Sprintf("resource %s is not served", schema.GroupResource(m.Spec.Resource)), "")
	}
	if !meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationRunning)) {
		// What is written from now on is written as it should be; its version tells people from when on.
		first, err := r.objects.Resource(resource).List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return ctrl.Result{}, fmt.Errorf("list %s: %w", resource, err)
		}
		return ctrl.Result{}, r.tell(ctx, m, storagemigrationv1.MigrationRunning, "", first.ResourceVersion)
	}
	failure, err := r.rewriteAll(ctx, resource)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("storage migration %s: %w", req.Name, err) // the next try goes through all again
	}
	if failure != "" {
		return ctrl.Result{}, r.tell(ctx, m, storagemigrationv1.MigrationFailed, failure, "")
	}
	return ctrl.Result{}, r.tell(ctx, m, storagemigrationv1.MigrationSucceeded, "", "")
}

// find is the version of a resource the API server prefers.
func (r *Reconciler) find(wanted metav1.GroupResource) (schema.GroupVersionResource, bool, error) {
	lists, err := r.kinds.ServerPreferredResources()
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil || gv.Group != wanted.Group {
			continue
		}
		for _, resource := range list.APIResources {
			if resource.Name == wanted.Resource {
				return gv.WithResource(resource.Name), true, nil
			}
		}
	}
	if failed, partly := discovery.GroupDiscoveryFailedErrorGroups(err); partly && !concerns(failed, wanted.Group) {
		err = nil
	}
	return schema.GroupVersionResource{}, false, err
}

// concerns says whether one of the versions that could not be asked for is of a group.
func concerns(failed map[schema.GroupVersion]error, group string) bool {
	for version := range failed {
		if version.Group == group {
			return true
		}
	}
	return false
}

// rewriteAll writes every object of a resource. failure is what no further try would mend.
func (r *Reconciler) rewriteAll(ctx context.Context, resource schema.GroupVersionResource) (failure string, err error) {
	options := metav1.ListOptions{Limit: page}
	for {
		list, err := r.objects.Resource(resource).List(ctx, options)
		if err != nil {
			return "", fmt.Errorf("list %s: %w", resource, err)
		}
		for i := range list.Items {
			object := &list.Items[i]
			err := r.rewrite(ctx, resource, object)
			if permanent(err) {
				return fmt.Sprintf("%s %s/%s cannot be written: %v", resource.Resource, object.Namespace, object.Name, err), nil
			}
			if err != nil {
				return "", fmt.Errorf("rewrite %s %s/%s: %w", resource.Resource, object.Namespace, object.Name, err)
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return "", nil
		}
	}
}

// rewrite writes one object unchanged: the API server compares what it would store with what it has stored.
func (r *Reconciler) rewrite(ctx context.Context, resource schema.GroupVersionResource, object *metav1.PartialObjectMetadata) error {
	// With UID and version the patch can neither create an object nor undo what somebody wrote.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": object.UID, "resourceVersion": object.ResourceVersion}})
	if err != nil {
		return err
	}
	_, err = r.objects.Resource(resource).Namespace(object.Namespace).Patch(ctx, object.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "storage-version-migrator-controller"})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or written by somebody else since
	}
	return err
}

// permanent says of an error that the API server would give the same answer again.
func permanent(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsBadRequest(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// tell writes where a migration is.
func (r *Reconciler) tell(ctx context.Context, m *storagemigrationv1.StorageVersionMigration, now storagemigrationv1.MigrationConditionType, message, version string) error {
	next := m.DeepCopy()
	next.Status.Conditions = conditions(m.Status.Conditions, now, message, metav1.NewTime(r.clock.Now()))
	if next.Status.ResourceVersion == "" {
		next.Status.ResourceVersion = version
	}
	err := r.client.Status().Update(ctx, next)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // our view was old; the newer object queues its own pass
		return fmt.Errorf("update status of storage migration %s: %w", m.Name, err)
	}
	return nil
}

var reasons = map[storagemigrationv1.MigrationConditionType]string{
	storagemigrationv1.MigrationRunning:   "StorageVersionMigrationInProgress",
	storagemigrationv1.MigrationSucceeded: "StorageVersionMigrationSucceeded",
	storagemigrationv1.MigrationFailed:    "StorageVersionMigrationFailed",
}

// conditions say that a migration is in one state, and if that is its end, that it runs no more.
func conditions(have []metav1.Condition, state storagemigrationv1.MigrationConditionType, message string, now metav1.Time) []metav1.Condition {
	next := append([]metav1.Condition(nil), have...)
	set := func(kind storagemigrationv1.MigrationConditionType, status metav1.ConditionStatus, message string) {
		meta.SetStatusCondition(&next, metav1.Condition{Type: string(kind), Status: status, Reason: reasons[state], Message: message, LastTransitionTime: now})
	}
	if state != storagemigrationv1.MigrationRunning {
		set(storagemigrationv1.MigrationRunning, metav1.ConditionFalse, "")
	}
	set(state, metav1.ConditionTrue, message)
	return next
}

func ended(m *storagemigrationv1.StorageVersionMigration) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationSucceeded)) ||
		meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationFailed))
}

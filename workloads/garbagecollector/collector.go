// Package garbagecollector deletes what its owners left behind.
//
// In:       the metadata of every object of every kind, from watches that keep nothing but who owns whom.
// Out:      dependents deleted or given up as the deletion of their owners asked; finalizers removed when that is done.
// Promise:  nothing is deleted on the word of a watch: owners are looked up, and deletes carry UID and version.
// Not here: what an owner's deletion asks for (the API server turns propagation policies into finalizers).
package garbagecollector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/lru"
)

const (
	// workers is small: nearly all their time is spent waiting for the API server.
	workers = 4
	// rememberAbsent bounds what is known of owners that are gone. A UID never comes back, so entries stay true.
	rememberAbsent = 500
)

// Collector works on what its graph makes worth looking at.
type Collector struct {
	graph   *graph
	objects metadata.Interface
	served  served
	events  record.EventRecorder
	log     *slog.Logger
	absent  *lru.Cache // of object
	queue   workqueue.TypedRateLimitingInterface[work]
}

// New returns a Collector with an empty graph.
func New(objects metadata.Interface, recorder record.EventRecorder, log *slog.Logger) *Collector {
	c := &Collector{
		objects: objects, events: recorder, log: log.With("component", "garbagecollector"), absent: lru.New(rememberAbsent),
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[work]()),
	}
	c.graph = newGraph(c.queue.Add)
	return c
}

// run works until ctx ends.
func (c *Collector) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown()
	wg.Wait()
}

func (c *Collector) next(ctx context.Context) bool {
	w, shut := c.queue.Get()
	if shut {
		return false
	}
	defer c.queue.Done(w)
	err := c.do(ctx, w)
	if err == nil {
		c.queue.Forget(w)
		return true
	}
	if ctx.Err() == nil {
		c.queue.AddRateLimited(w)
		if !apierrors.IsConflict(err) && !errors.Is(err, errUnknownKind) {
			c.log.Warn("retrying", "uid", w.uid, "err", err)
		}
	}
	return true
}

func (c *Collector) do(ctx context.Context, w work) error {
	v, known := c.graph.view(w.uid)
	if !known {
		return nil
	}
	switch w.act {
	case orphan:
		return c.orphan(ctx, v)
	case warn:
		c.warn(v)
		return nil
	}
	return c.check(ctx, v)
}

// check decides whether an object should go.
func (c *Collector) check(ctx context.Context, v view) error {
	if v.deleting && !v.foreground {
		return nil // on its way
	}
	live, err := c.get(ctx, v.object)
	if err != nil {
		return err
	}
	if live == nil {
		c.absent.Add(v.object, nil)
		c.graph.remove(v.UID)
		return nil
	}
	if v.foreground {
		return c.finishForeground(ctx, v, live)
	}
	if live.DeletionTimestamp != nil || len(live.OwnerReferences) == 0 {
		return nil
	}
	owners, err := c.lookUp(ctx, live)
	if err != nil {
		return err
	}
	if owners == nil {
		return nil
	}
	verdict := judge(live, owners, len(v.children) > 0, v.waiting)
	switch {
	case verdict.delete != nil:
		if verdict.free {
			if err := c.unblock(ctx, v, live); err != nil {
				return err
			}
			if live, err = c.get(ctx, v.object); err != nil || live == nil {
				return err
			}
		}
		return c.remove(ctx, v.object, live, *verdict.delete)
	case len(verdict.drop) > 0:
		return c.patch(ctx, v.object, live, map[string]any{"ownerReferences": without(live.OwnerReferences, verdict.drop)})
	}
	return nil
}

// lookUp asks the API server about each owner an object names. No answer (nil) means: leave the object alone, it
// is of the cluster and names an owner inside a namespace, which no lookup can find.
func (c *Collector) lookUp(ctx context.Context, o *metav1.PartialObjectMetadata) (map[types.UID]standing, error) {
	owners := map[types.UID]standing{}
	for _, ref := range o.OwnerReferences {
		id := object{UID: ref.UID, Kind: gvkOf(ref), Namespace: o.Namespace, Name: ref.Name}
		if _, gone := c.absent.Get(id); gone {
			owners[ref.UID] = absent
			continue
		}
		kind, err := c.served.find(id.Kind.GroupKind())
		if err != nil {
			return nil, fmt.Errorf("find owner %s of %s/%s: %w", id, o.Namespace, o.Name, err)
		}
		if kind.namespaced && o.Namespace == "" {
			return nil, nil
		}
		owner, err := c.get(ctx, id)
		if err != nil {
			return nil, err
		}
		switch {
		case owner == nil:
			c.absent.Add(id, nil)
			owners[ref.UID] = absent
		case owner.DeletionTimestamp != nil && has(owner, metav1.FinalizerDeleteDependents):
			owners[ref.UID] = waiting
		default:
			owners[ref.UID] = solid
		}
	}
	return owners, nil
}

// finishForeground lets an object go when none of its dependents holds it up any more.
func (c *Collector) finishForeground(ctx context.Context, v view, live *metav1.PartialObjectMetadata) error {
	if !v.blocked {
		return c.dropFinalizer(ctx, v.object, live, metav1.FinalizerDeleteDependents)
	}
	for _, uid := range v.blocking {
		c.queue.Add(work{uid, check})
	}
	return nil
}

// orphan gives an object's dependents up, then lets it go.
func (c *Collector) orphan(ctx context.Context, v view) error {
	var errs []error
	for _, child := range v.children {
		live, err := c.get(ctx, child)
		if err == nil && live != nil {
			if kept := without(live.OwnerReferences, []types.UID{v.UID}); len(kept) != len(live.OwnerReferences) {
				err = c.patch(ctx, child, live, map[string]any{"ownerReferences": kept})
			}
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("give up the dependents of %s: %w", v.object, err)
	}
	live, err := c.get(ctx, v.object)
	if err != nil || live == nil {
		return err
	}
	return c.dropFinalizer(ctx, v.object, live, metav1.FinalizerOrphanDependents)
}

// unblock breaks a circle: an object that waits for an owner, while dependents of its own wait for theirs.
func (c *Collector) unblock(ctx context.Context, v view, live *metav1.PartialObjectMetadata) error {
	refs := make([]metav1.OwnerReference, len(live.OwnerReferences))
	for i, ref := range live.OwnerReferences {
		no := false
		ref.BlockOwnerDeletion = &no
		refs[i] = ref
	}
	return c.patch(ctx, v.object, live, map[string]any{"ownerReferences": refs})
}

func (c *Collector) warn(v view) {
	for _, ref := range v.refs {
		owner, known := c.graph.view(ref.UID)
		if !known || owner.virtual || owner.Namespace == "" || owner.Namespace == v.Namespace {
			continue
		}
		about := &corev1.ObjectReference{
			APIVersion: v.Kind.GroupVersion().String(), Kind: v.Kind.Kind, Namespace: v.Namespace, Name: v.Name, UID: v.UID,
		}
		c.events.Eventf(about, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
			ref.APIVersion, ref.Kind, v.Namespace, ref.Name, ref.UID, v.Namespace)
	}
}

func has(o *metav1.PartialObjectMetadata, finalizer string) bool {
	return slices.Contains(o.Finalizers, finalizer)
}

// get reads an object as it is now; nil when it, with this UID, is not there.
func (c *Collector) get(ctx context.Context, id object) (*metav1.PartialObjectMetadata, error) {
	resource, err := c.resource(id)
	if err != nil {
		return nil, err
	}
	live, err := resource.Get(ctx, id.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || (err == nil && live.UID != id.UID) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", id, err)
	}
	return live, nil
}

func (c *Collector) remove(ctx context.Context, id object, live *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	resource, err := c.resource(id)
	if err != nil {
		return err
	}
	err = resource.Delete(ctx, id.Name, metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	c.log.Debug("deleted", "object", id.String(), "policy", policy)
	return nil
}

func (c *Collector) dropFinalizer(ctx context.Context, id object, live *metav1.PartialObjectMetadata, finalizer string) error {
	kept := []string{}
	for _, f := range live.Finalizers {
		if f != finalizer {
			kept = append(kept, f)
		}
	}
	if len(kept) == len(live.Finalizers) {
		return nil
	}
	return c.patch(ctx, id, live, map[string]any{"finalizers": kept})
}

// patch changes metadata of the object as it was read, and of no later version of it.
func (c *Collector) patch(ctx context.Context, id object, live *metav1.PartialObjectMetadata, metadata map[string]any) error {
	resource, err := c.resource(id)
	if err != nil {
		return err
	}
	metadata["uid"], metadata["resourceVersion"] = live.UID, live.ResourceVersion
	body, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return fmt.Errorf("encode a patch of %s: %w", id, err)
	}
	_, err = resource.Patch(ctx, id.Name, types.MergePatchType, body, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("patch %s: %w", id, err)
	}
	return nil
}

func (c *Collector) resource(id object) (metadata.ResourceInterface, error) {
	kind, err := c.served.find(id.Kind.GroupKind())
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", id, err)
	}
	if kind.namespaced {
		return c.objects.Resource(kind.GroupVersionResource).Namespace(id.Namespace), nil
	}
	return c.objects.Resource(kind.GroupVersionResource), nil
}

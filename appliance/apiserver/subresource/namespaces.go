package subresource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Finalize lets the namespace controller say that the content of a namespace is gone.
func Finalize(_ *resource.Env, storage *resource.Storage) (rest.Storage, error) {
	finalizers := partOf(storage, func(ns, old *corev1.Namespace) {
		left := ns.Spec.Finalizers
		ns.Spec, ns.Status = old.Spec, old.Status
		ns.Spec.Finalizers = left
	}, func(ns, _ *corev1.Namespace) field.ErrorList { return kinds.ValidateFinalizers(ns) })
	return struct{ writer }{finalizers}, nil // written, never read
}

type writer interface {
	rest.Storage
	rest.Updater
}

// Namespaces is the Wrap of the namespaces' row: a deleted namespace first stops taking objects, and goes when the
// finalizer that stands for its content is removed.
func Namespaces(_ *resource.Env, storage *resource.Storage) (rest.Storage, error) {
	storage.DeleteDuringUpdate(func(ctx context.Context, key string, obj, existing runtime.Object) bool {
		return len(obj.(*corev1.Namespace).Spec.Finalizers) == 0 && registry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
	})
	return &namespaces{readWriter: storage, store: storage}, nil
}

// readWriter is all of a storage but deleting: namespaces are deleted one by one.
type readWriter interface {
	rest.Storage
	rest.Scoper
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.CreaterUpdater
	rest.Getter
	rest.Lister
	rest.Watcher
	rest.ResetFieldsStrategy
}

type namespaces struct {
	readWriter
	store *resource.Storage
}

var (
	_ rest.GracefulDeleter            = &namespaces{}
	_ rest.MayReturnFullObjectDeleter = &namespaces{}
)

// DeleteReturnsDeletedObject because the client learns from it that the namespace is ending.
func (n *namespaces) DeleteReturnsDeletedObject() bool { return true }

// Delete starts the end of a namespace, or completes it when nothing is left to wait for.
func (n *namespaces) Delete(ctx context.Context, name string, admit rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := n.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	preconditions := &storage.Preconditions{UID: &ns.UID}
	if p := options.Preconditions; p != nil {
		if p.UID != nil {
			preconditions.UID = p.UID
		}
		preconditions.ResourceVersion = p.ResourceVersion
	}
	if !ns.DeletionTimestamp.IsZero() {
		if len(ns.Spec.Finalizers) > 0 {
			return ns, false, nil
		}
		return n.store.Delete(ctx, name, admit, options)
	}
	ending, err := change(ctx, n.store.Store, name, preconditions, dryrun.IsDryRun(options.DryRun), func(ns *corev1.Namespace) error {
		if admit != nil {
			if err := admit(ctx, ns); err != nil {
				return err
			}
		}
		if ns.DeletionTimestamp.IsZero() {
			now := metav1.Now()
			ns.DeletionTimestamp = &now
		}
		ns.Status.Phase = corev1.NamespaceTerminating
		finalizeDependents(ns, options)
		return nil
	})
	if err != nil {
		err = interpret(err, corev1.Resource("namespaces"), name)
		if apierrors.ReasonForError(err) == metav1.StatusReasonUnknown {
			err = fmt.Errorf("delete namespace %s: %w", name, err)
		}
		return nil, false, err
	}
	return ending, false, nil
}

// finalizeDependents keeps what a client says about objects owned by the namespace itself.
func finalizeDependents(ns *corev1.Namespace, options *metav1.DeleteOptions) {
	add := func(finalizer string, wanted bool) {
		kept := make([]string, 0, len(ns.Finalizers)+1)
		for _, f := range ns.Finalizers {
			if f != finalizer {
				kept = append(kept, f)
			}
		}
		if wanted {
			kept = append(kept, finalizer)
		}
		ns.Finalizers = kept
	}
	policy := options.PropagationPolicy
	if policy == nil && options.OrphanDependents == nil {
		return
	}
	add(metav1.FinalizerOrphanDependents, policy != nil && *policy == metav1.DeletePropagationOrphan || options.OrphanDependents != nil && *options.OrphanDependents)
	add(metav1.FinalizerDeleteDependents, policy != nil && *policy == metav1.DeletePropagationForeground)
}

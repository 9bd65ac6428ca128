// Package subresource serves the paths below objects that do more than store: bind a pod, evict it, talk to its
// containers, make tokens, approve certificates, finish a namespace.
//
// In:       requests on pods/binding, pods/log, serviceaccounts/token and their kind; the store of the object.
// Out:      changes to the one part of the object each may change; streams to node agents, pods and services.
// Promise:  a decision that depends on stored state is written with the version it was made from, or made again.
// Not here: status and scale, which many kinds have (resource).
package subresource

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// part serves updates of one part of an object; the rest comes from what is stored.
type part struct{ store *registry.Store }

var _ rest.Patcher = &part{}

// partOf makes a part's storage. Prepare takes over from old what the part may not change.
func partOf[T runtime.Object](s *resource.Storage, prepare func(obj, old T), validate func(obj, old T) field.ErrorList) *part {
	store := *s.Store
	store.UpdateStrategy = &partStrategy[T]{wholeStrategy: s.UpdateStrategy.(wholeStrategy), prepare: prepare, validate: validate}
	store.ResetFieldsStrategy = nil
	return &part{store: &store}
}

func (p *part) New() runtime.Object { return p.store.New() }

// Destroy does nothing: the store is the main resource's.
func (p *part) Destroy() {}

func (p *part) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return p.store.Get(ctx, name, options)
}

// Update never creates.
func (p *part) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return p.store.Update(ctx, name, resource.Blame(info), create, update, false, options)
}

// ConvertToTable lets kubectl print what it patched.
func (p *part) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return p.store.ConvertToTable(ctx, object, options)
}

// GetResetFields says that the path takes ownership of what it writes and resets nothing else by itself.
func (p *part) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set { return nil }

// wholeStrategy is what stays the same for a part: names, and what the type declares of itself.
type wholeStrategy interface {
	rest.RESTUpdateStrategy
	rest.DeclarativeValidationStrategy
}

type partStrategy[T runtime.Object] struct {
	wholeStrategy
	prepare  func(obj, old T)
	validate func(obj, old T) field.ErrorList
}

func (s *partStrategy[T]) AllowCreateOnUpdate(context.Context) bool { return false }

func (s *partStrategy[T]) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	s.prepare(obj.(T), old.(T))
}

func (s *partStrategy[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return s.validate(obj.(T), old.(T))
}

func (s *partStrategy[T]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// change rewrites a stored object until nobody wrote it in between.
func change[T runtime.Object](ctx context.Context, s *registry.Store, name string, preconditions *storage.Preconditions, dry bool, f func(T) error) (T, error) {
	var none T
	key, err := s.KeyFunc(ctx, name)
	if err != nil {
		return none, err
	}
	out := s.NewFunc()
	err = s.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
		typed, ok := obj.(T)
		if !ok {
			return nil, fmt.Errorf("change %s: expected a %T, found a %T", name, none, obj)
		}
		return obj, f(typed)
	}), dry, nil)
	if err != nil {
		return none, err
	}
	return out.(T), nil
}

// interpret words a storage error as the API does.
func interpret(err error, resource schema.GroupResource, name string) error {
	return storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, resource, name), resource, name)
}

package resource

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Storage serves a stored kind. It is the library's store with the names of the row.
type Storage struct {
	*registry.Store
	Row *Row

	status *StatusStorage
}

var (
	_ rest.StandardStorage    = &Storage{}
	_ rest.ShortNamesProvider = &Storage{}
	_ rest.CategoriesProvider = &Storage{}
	_ rest.Patcher            = &StatusStorage{}
)

// ShortNames for kubectl.
func (s *Storage) ShortNames() []string { return s.Row.Short }

// Categories for kubectl.
func (s *Storage) Categories() []string { return s.Row.Categories }

// Update takes the client's word for what the client sent.
func (s *Storage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, force bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.Store.Update(ctx, name, Blame(info), create, update, force, options)
}

// DeleteDuringUpdate sets when an update, of the object or of its status, completes a deletion.
func (s *Storage) DeleteDuringUpdate(when func(ctx context.Context, key string, obj, existing runtime.Object) bool) {
	s.ShouldDeleteDuringUpdate = when
	if s.status != nil {
		s.status.store.ShouldDeleteDuringUpdate = when
	}
}

// Status is the storage of the same objects that writes status alone; nil without the subresource.
func (s *Storage) Status() *StatusStorage { return s.status }

// newStorage makes the store of a row, and starts its watch cache.
func newStorage(env *Env, row *Row) (*Storage, error) {
	main := &strategy{ObjectTyper: env.Scheme, scheme: env.Scheme, NameGenerator: names.SimpleNameGenerator, row: row, layout: layoutOf(row.Object)}
	if row.Status && main.layout.status < 0 {
		return nil, fmt.Errorf("row %s: %s has no status", row.GroupResource(), row.Kind())
	}
	singular := row.GroupResource()
	singular.Resource = row.Singular()
	store := &registry.Store{
		NewFunc:                   maker(row.Object),
		NewListFunc:               maker(row.List),
		DefaultQualifiedResource:  row.GroupResource(),
		SingularQualifiedResource: singular,
		CreateStrategy:            main,
		UpdateStrategy:            main,
		DeleteStrategy:            main,
		ResetFieldsStrategy:       main,
		TableConvertor:            row.Table,
		ReturnDeletedObject:       row.ReturnDeleted,
	}
	if row.Hooks.gracefulDelete != nil {
		store.DeleteStrategy = &gracefulStrategy{main}
	}
	if store.TableConvertor == nil {
		store.TableConvertor = rest.NewDefaultTableConvertor(row.GroupResource())
	}
	if row.TTL > 0 {
		seconds := uint64(row.TTL.Seconds())
		store.TTLFunc = func(_ runtime.Object, existing uint64, update bool) (uint64, error) {
			if update {
				return existing, nil
			}
			return seconds, nil
		}
	}
	options := &generic.StoreOptions{RESTOptions: env.RESTOptions, AttrFunc: attributes(row)}
	if row.Index != "" {
		options.TriggerFunc = map[string]storage.IndexerFunc{row.Index: func(obj runtime.Object) string {
			_, set, err := options.AttrFunc(obj)
			if err != nil {
				return ""
			}
			return set[row.Index]
		}}
	}
	if err := store.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("complete storage of %s: %w", row.GroupResource(), err)
	}
	s := &Storage{Store: store, Row: row}
	if row.Status {
		status := *store
		only := &statusStrategy{main}
		status.UpdateStrategy, status.ResetFieldsStrategy = only, only
		s.status = &StatusStorage{store: &status}
	}
	return s, nil
}

// attributes are what label and field selectors see.
func attributes(row *Row) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		m := accessor(obj)
		set := fields.Set{}
		if f := row.Hooks.fields; f != nil {
			set = f(obj)
		}
		set["metadata.name"] = m.GetName()
		if row.Namespaced {
			set["metadata.namespace"] = m.GetNamespace()
		}
		return m.GetLabels(), set, nil
	}
}

// StatusStorage writes the status of stored objects and nothing else of them.
type StatusStorage struct{ store *registry.Store }

// New makes an empty object.
func (s *StatusStorage) New() runtime.Object { return s.store.New() }

// Destroy does nothing: the store is the main resource's.
func (s *StatusStorage) Destroy() {}

// Get reads the whole object, which is what a patch starts from.
func (s *StatusStorage) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return s.store.Get(ctx, name, options)
}

// Update never creates.
func (s *StatusStorage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.store.Update(ctx, name, Blame(info), create, update, false, options)
}

// GetResetFields is for server-side apply.
func (s *StatusStorage) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.store.GetResetFields()
}

// ConvertToTable lets kubectl print what it patched.
func (s *StatusStorage) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return s.store.ConvertToTable(ctx, object, options)
}

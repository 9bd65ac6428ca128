package resource

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Row is one line of the API table: a kind, its names, and what is particular about it.
type Row struct {
	// In is the group and version clients name the kind by; AlsoIn are further ones that show the same objects,
	// through the scheme's conversions.
	In     schema.GroupVersion
	AlsoIn []schema.GroupVersion

	Object runtime.Object // an empty one: &corev1.Pod{}
	List   runtime.Object // an empty list; nil for kinds that cannot be listed

	Plural     string
	Short      []string
	Categories []string
	Namespaced bool

	// Hooks is what Erase makes of a Hooks[T].
	Hooks ErasedHooks

	Status bool // has /status, written apart from the rest
	// StatusAtCreate keeps the status of an object that is created: agents register nodes together with theirs.
	StatusAtCreate bool
	Generation     bool // metadata.generation counts changes of everything but metadata and status
	Scale          ScaleFunc

	// Subresources by the path below the object's name: "log", "binding", "token". They see the complete store.
	Subresources map[string]SubresourceFunc

	// Wrap replaces what serves the main resource, for kinds whose verbs do more than storing.
	Wrap func(env *Env, storage *Storage) (rest.Storage, error)

	// Virtual serves a kind that is not stored, such as a review; everything that is about storing is ignored then.
	Virtual func(env *Env) (rest.Storage, error)

	Table rest.TableConvertor // columns for kubectl get; nil: name and age

	// Index names the selectable field watches are spread by; nearly every node watches by it.
	Index string
	// TTL is how long objects live unless they are written again; 0: for ever.
	TTL time.Duration
	// OrphanDependents is the garbage collection of clients that say nothing, kept for very old kinds.
	OrphanDependents bool
	// ReturnDeleted answers a deletion with the object instead of a status, as clients know it of some kinds.
	ReturnDeleted bool
}

// SubresourceFunc makes the storage behind one path below an object.
type SubresourceFunc func(env *Env, storage *Storage) (rest.Storage, error)

// GroupResource names the row in errors, keys and permissions.
func (r *Row) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.In.Group, Resource: r.Plural}
}

// Kind is the name of the Go type, as everywhere in the Kubernetes API.
func (r *Row) Kind() string { return reflect.TypeOf(r.Object).Elem().Name() }

// Singular is the kind in lower case.
func (r *Row) Singular() string { return strings.ToLower(r.Kind()) }

// Check reports what makes a row impossible, so that a test finds it rather than a start.
func (r *Row) Check() error {
	if r.Object == nil || r.Plural == "" || r.In.Version == "" {
		return fmt.Errorf("row %q needs a group-version, an object and a plural name", r.Plural)
	}
	if r.Virtual == nil && r.List == nil {
		return fmt.Errorf("row %s is stored, so it needs a list type", r.GroupResource())
	}
	if t := r.Hooks.object; t != nil && t != reflect.TypeOf(r.Object) {
		return fmt.Errorf("row %s has hooks for %s", r.GroupResource(), t)
	}
	return nil
}

// maker returns a function that makes empty objects of the prototype's type.
func maker(prototype runtime.Object) func() runtime.Object {
	t := reflect.TypeOf(prototype).Elem()
	return func() runtime.Object { return reflect.New(t).Interface().(runtime.Object) }
}

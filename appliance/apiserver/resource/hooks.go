// Package resource turns one row of the API table into REST storage.
//
// In:       a Row: names, scope, types, hooks, columns, subresources.
// Out:      a registry store with its status and scale storages.
// Promise:  adding a kind is adding a row and its hooks.
// Not here: the rows (appliance/apiserver/table), a kind's rules (appliance/apiserver/kinds).
package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Hooks are what a kind adds to the behaviour every resource shares. Each may be nil. Defaults are not here:
// they belong to the scheme, so that decoding applies them (kinds.RegisterDefaults).
//
// The shared behaviour already does: name and metadata validation, status kept on spec writes and the other
// way round when the row has a status, generation set to 1 and raised when the spec differs.
type Hooks[T runtime.Object] struct {
	// PrepareCreate clears what a client may not set and fills what the server decides.
	PrepareCreate func(ctx context.Context, obj T)
	// PrepareUpdate does the same on an update of the main resource.
	PrepareUpdate func(ctx context.Context, obj, old T)
	// PrepareStatus does the same on an update of status.
	PrepareStatus func(ctx context.Context, obj, old T)

	Validate       func(ctx context.Context, obj T) field.ErrorList
	ValidateUpdate func(ctx context.Context, obj, old T) field.ErrorList // instead of Validate on updates
	ValidateStatus func(ctx context.Context, obj, old T) field.ErrorList
	// ValidateName reports what is wrong with a name; nil means a DNS subdomain.
	ValidateName func(name string, prefix bool) []string
	// LaxMetadata leaves metadata to what the library asks of every object, of names that they fit into a path.
	LaxMetadata bool

	Warnings func(ctx context.Context, obj T) []string // create and update

	// GracefulDelete sets options.GracePeriodSeconds and says whether the object stays until that time passes.
	GracefulDelete func(ctx context.Context, obj T, options *metav1.DeleteOptions) bool

	// Fields are the selectable ones beside metadata.name and metadata.namespace.
	Fields func(obj T) fields.Set

	AllowCreateOnUpdate bool // PUT to a name that is not there creates it
	NeedResourceVersion bool // an update without resourceVersion is refused
}

package resource

import (
	"context"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ErasedHooks are Hooks[T] without the T, so that rows of all kinds fit into one table. The zero value adds nothing.
type ErasedHooks struct {
	object reflect.Type

	prepareCreate  func(ctx context.Context, obj runtime.Object)
	prepareUpdate  func(ctx context.Context, obj, old runtime.Object)
	prepareStatus  func(ctx context.Context, obj, old runtime.Object)
	validate       func(ctx context.Context, obj runtime.Object) field.ErrorList
	validateUpdate func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	validateStatus func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	validateName   func(name string, prefix bool) []string
	warnings       func(ctx context.Context, obj runtime.Object) []string
	gracefulDelete func(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool
	fields         func(obj runtime.Object) fields.Set

	laxMetadata         bool
	allowCreateOnUpdate bool
	needResourceVersion bool
}

// Erase forgets the type of a kind's hooks. Hooks that are nil stay nil.
func Erase[T runtime.Object](h Hooks[T]) ErasedHooks {
	e := ErasedHooks{
		object:              reflect.TypeFor[T](),
		validateName:        h.ValidateName,
		laxMetadata:         h.LaxMetadata,
		allowCreateOnUpdate: h.AllowCreateOnUpdate,
		needResourceVersion: h.NeedResourceVersion,
		prepareUpdate:       erasePrepare(h.PrepareUpdate),
		prepareStatus:       erasePrepare(h.PrepareStatus),
		validateUpdate:      eraseValidate(h.ValidateUpdate),
		validateStatus:      eraseValidate(h.ValidateStatus),
	}
	if f := h.PrepareCreate; f != nil {
		e.prepareCreate = func(ctx context.Context, obj runtime.Object) { f(ctx, obj.(T)) }
	}
	if f := h.Validate; f != nil {
		e.validate = func(ctx context.Context, obj runtime.Object) field.ErrorList { return f(ctx, obj.(T)) }
	}
	if f := h.Warnings; f != nil {
		e.warnings = func(ctx context.Context, obj runtime.Object) []string { return f(ctx, obj.(T)) }
	}
	if f := h.GracefulDelete; f != nil {
		e.gracefulDelete = func(ctx context.Context, obj runtime.Object, o *metav1.DeleteOptions) bool {
			return f(ctx, obj.(T), o)
		}
	}
	if f := h.Fields; f != nil {
		e.fields = func(obj runtime.Object) fields.Set { return f(obj.(T)) }
	}
	return e
}

func erasePrepare[T runtime.Object](f func(ctx context.Context, obj, old T)) func(context.Context, runtime.Object, runtime.Object) {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, obj, old runtime.Object) { f(ctx, obj.(T), old.(T)) }
}

func eraseValidate[T runtime.Object](f func(ctx context.Context, obj, old T) field.ErrorList) func(context.Context, runtime.Object, runtime.Object) field.ErrorList {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, obj, old runtime.Object) field.ErrorList { return f(ctx, obj.(T), old.(T)) }
}

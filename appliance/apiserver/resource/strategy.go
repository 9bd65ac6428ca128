package resource

import (
	"context"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/operation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"knarr.dev/knarr/appliance/apiserver/declared"
)

// strategy is the behaviour every stored kind shares, with a row's hooks called where they have something to add.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	scheme *runtime.Scheme
	row    *Row
	layout layout
}

var (
	_ rest.RESTCreateUpdateStrategy        = &strategy{}
	_ rest.GarbageCollectionDeleteStrategy = &strategy{}
	_ rest.ResetFieldsStrategy             = &strategy{}
	_ rest.DeclarativeValidationStrategy   = &strategy{}
	_ rest.RESTGracefulDeleteStrategy      = &gracefulStrategy{}
	_ rest.UpdateResetFieldsStrategy       = &statusStrategy{}
)

func (s *strategy) NamespaceScoped() bool                    { return s.row.Namespaced }
func (s *strategy) Canonicalize(runtime.Object)              {}
func (s *strategy) AllowCreateOnUpdate(context.Context) bool { return s.row.Hooks.allowCreateOnUpdate }
func (s *strategy) AllowUnconditionalUpdate(context.Context) bool {
	return !s.row.Hooks.needResourceVersion
}

func (s *strategy) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.row.OrphanDependents {
		return rest.OrphanDependents
	}
	return rest.DeleteDependents
}

func (s *strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	if s.row.Status && !s.row.StatusAtCreate {
		s.layout.clearStatus(obj)
	}
	if s.row.Generation {
		accessor(obj).SetGeneration(1)
	}
	if f := s.row.Hooks.prepareCreate; f != nil {
		f(ctx, obj)
	}
}

func (s *strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	if s.row.Status {
		s.layout.copyStatus(obj, old)
	}
	if f := s.row.Hooks.prepareUpdate; f != nil {
		f(ctx, obj, old)
	}
	if s.row.Generation && !s.layout.sameContent(obj, old) {
		accessor(obj).SetGeneration(accessor(old).GetGeneration() + 1)
	}
}

func (s *strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	var errs field.ErrorList
	if !s.row.Hooks.laxMetadata {
		name := s.row.Hooks.validateName
		if name == nil {
			name = apivalidation.NameIsDNSSubdomain
		}
		errs = apivalidation.ValidateObjectMetaAccessor(accessor(obj), s.row.Namespaced, name, field.NewPath("metadata"))
		errs = append(errs, newFinalizers(accessor(obj).GetFinalizers(), nil)...)
	}
	if f := s.row.Hooks.validate; f != nil {
		errs = append(errs, f(ctx, obj)...)
	}
	return errs
}

// ValidateUpdate leaves most of metadata to the library, which has checked it before.
func (s *strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	var errs field.ErrorList
	if !s.row.Hooks.laxMetadata {
		errs = newFinalizers(accessor(obj).GetFinalizers(), accessor(old).GetFinalizers())
	}
	if f := s.row.Hooks.validateUpdate; f != nil {
		return append(errs, f(ctx, obj, old)...)
	}
	if f := s.row.Hooks.validate; f != nil {
		return append(errs, f(ctx, obj)...)
	}
	return errs
}

// newFinalizers wants a domain before each finalizer that was not there before, but for Kubernetes' own three: nobody
// would know whose it is.
func newFinalizers(now, before []string) field.ErrorList {
	var errs field.ErrorList
	for i, name := range now {
		own := name == metav1.FinalizerOrphanDependents || name == metav1.FinalizerDeleteDependents || name == string(corev1.FinalizerKubernetes)
		if own || strings.Contains(name, "/") || slices.Contains(before, name) {
			continue
		}
		errs = append(errs, field.Invalid(field.NewPath("metadata", "finalizers").Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}

// ValidateDeclaratively adds what the type declares of itself.
func (s *strategy) ValidateDeclaratively(ctx context.Context, obj, old runtime.Object, found field.ErrorList, _ operation.Type, _ rest.DeclarativeValidationConfig) field.ErrorList {
	return declared.Check(ctx, s.scheme, obj, old, found)
}

// DeclarativeValidationConfig is for the library's own implementation.
func (s *strategy) DeclarativeValidationConfig(context.Context, runtime.Object, runtime.Object) rest.DeclarativeValidationConfig {
	return rest.DeclarativeValidationConfig{}
}

func (s *strategy) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	if f := s.row.Hooks.warnings; f != nil {
		return f(ctx, obj)
	}
	return nil
}

// WarningsOnUpdate spares those who change something else: the author of the content was warned.
func (s *strategy) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	if s.row.Hooks.warnings == nil || s.layout.sameContent(obj, old) {
		return nil
	}
	return s.WarningsOnCreate(ctx, obj)
}

// GetResetFields tells server-side apply what this strategy overwrites, so that nobody comes to own it.
func (s *strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.row.Status {
		return nil
	}
	return s.perVersion(fieldpath.NewSet(fieldpath.MakePathOrDie("status")))
}

func (s *strategy) perVersion(set *fieldpath.Set) map[fieldpath.APIVersion]*fieldpath.Set {
	sets := map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.row.In.String()): set}
	for _, gv := range s.row.AlsoIn {
		sets[fieldpath.APIVersion(gv.String())] = set
	}
	return sets
}

// gracefulStrategy is a type of its own because the library asks for the method, not for its answer.
type gracefulStrategy struct{ *strategy }

func (s *gracefulStrategy) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.row.Hooks.gracefulDelete(ctx, obj, options)
}

// statusStrategy takes the status of an update and the rest of what is stored. Metadata comes from the
// update, because clients annotate objects together with their status.
type statusStrategy struct{ *strategy }

func (s *statusStrategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (s *statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	s.layout.copyContent(obj, old)
	if f := s.row.Hooks.prepareStatus; f != nil {
		f(ctx, obj, old)
	}
}

func (s *statusStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if f := s.row.Hooks.validateStatus; f != nil {
		return f(ctx, obj, old)
	}
	return nil
}

func (s *statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s *statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet()
	for _, name := range s.layout.contentNames {
		set.Insert(fieldpath.MakePathOrDie(name))
	}
	return s.perVersion(set)
}

// layout is where an API type keeps its status and its content: all that is neither type, metadata nor status.
type layout struct {
	status       int // field index; -1: none
	content      []int
	contentNames []string // as in JSON
}

func layoutOf(prototype runtime.Object) layout {
	t := reflect.TypeOf(prototype).Elem()
	l := layout{status: -1}
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case f.Anonymous: // TypeMeta, ObjectMeta
		case f.Name == "Status":
			l.status = i
		default:
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			l.content = append(l.content, i)
			l.contentNames = append(l.contentNames, name)
		}
	}
	return l
}

func (l layout) clearStatus(obj runtime.Object) {
	reflect.ValueOf(obj).Elem().Field(l.status).SetZero()
}

func (l layout) copyStatus(to, from runtime.Object) {
	reflect.ValueOf(to).Elem().Field(l.status).Set(reflect.ValueOf(from).Elem().Field(l.status))
}

func (l layout) copyContent(to, from runtime.Object) {
	dst, src := reflect.ValueOf(to).Elem(), reflect.ValueOf(from).Elem()
	for _, i := range l.content {
		dst.Field(i).Set(src.Field(i))
	}
}

func (l layout) sameContent(a, b runtime.Object) bool {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	for _, i := range l.content {
		if !apiequality.Semantic.DeepEqual(va.Field(i).Interface(), vb.Field(i).Interface()) {
			return false
		}
	}
	return true
}

// accessor of a kind in the table: all of them have metadata, or the table's test fails.
func accessor(obj runtime.Object) metav1.Object {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	return m
}

package resource

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Scaled are the places of an object that its /scale shows.
type Scaled struct {
	Replicas **int32 // spec.replicas, which an update sets
	Current  int32   // status.replicas
	Selector string
}

// ScaleFunc finds them in an object.
type ScaleFunc func(obj runtime.Object) (Scaled, error)

// ScaleOf makes a row's Scale of a function on the kind's own type.
func ScaleOf[T runtime.Object](find func(obj T) (Scaled, error)) ScaleFunc {
	return func(obj runtime.Object) (Scaled, error) { return find(obj.(T)) }
}

// scaleStorage serves /scale: the object seen as a autoscaling/v1 Scale.
type scaleStorage struct{ from *Storage }

var (
	_ rest.Patcher                  = &scaleStorage{}
	_ rest.GroupVersionKindProvider = &scaleStorage{}
)

func (s *scaleStorage) New() runtime.Object { return &autoscalingv1.Scale{} }
func (s *scaleStorage) Destroy()            {}

// GroupVersionKind is the same whatever kind is scaled.
func (s *scaleStorage) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (s *scaleStorage) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.from.Store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return s.scale(obj)
}

func (s *scaleStorage) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	scaled := &scaledInfo{UpdatedObjectInfo: info, storage: s, name: name}
	obj, _, err := s.from.Store.Update(ctx, name, Blame(scaled), s.validateCreate(create), s.validateUpdate(update), false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := s.scale(obj)
	return scale, false, err
}

// ConvertToTable shows a scale like any object.
func (s *scaleStorage) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(s.from.Row.GroupResource()).ConvertToTable(ctx, object, options)
}

// validateCreate and validateUpdate show admission the scale rather than the object.
func (s *scaleStorage) validateCreate(f rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		scale, err := s.scale(obj)
		if err != nil {
			return err
		}
		return f(ctx, scale)
	}
}

func (s *scaleStorage) validateUpdate(f rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		scale, err := s.scale(obj)
		if err != nil {
			return err
		}
		before, err := s.scale(old)
		if err != nil {
			return err
		}
		return f(ctx, scale, before)
	}
}

func (s *scaleStorage) scale(obj runtime.Object) (*autoscalingv1.Scale, error) {
	found, err := s.from.Row.Scale(obj)
	if err != nil {
		return nil, fmt.Errorf("scale of %s: %w", s.from.Row.GroupResource(), err)
	}
	m := accessor(obj)
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name:              m.GetName(),
			Namespace:         m.GetNamespace(),
			UID:               m.GetUID(),
			ResourceVersion:   m.GetResourceVersion(),
			CreationTimestamp: m.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: found.Current, Selector: found.Selector},
	}
	if *found.Replicas != nil {
		scale.Spec.Replicas = **found.Replicas
	}
	return scale, nil
}

// paths says where the scaled field is in each version, for the ownership of fields.
func (s *scaleStorage) paths() managedfields.ResourcePathMappings {
	paths := managedfields.ResourcePathMappings{s.from.Row.In.String(): fieldpath.MakePathOrDie("spec", "replicas")}
	for _, gv := range s.from.Row.AlsoIn {
		paths[gv.String()] = fieldpath.MakePathOrDie("spec", "replicas")
	}
	return paths
}

// scaledInfo turns an update of a scale into one of the object.
type scaledInfo struct {
	rest.UpdatedObjectInfo
	storage *scaleStorage
	name    string
}

func (i *scaledInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj := old.DeepCopyObject()
	m := accessor(obj)
	if m.GetResourceVersion() == "" {
		return nil, apierrors.NewNotFound(i.storage.from.Row.GroupResource(), i.name)
	}
	owners := managedfields.NewScaleHandler(m.GetManagedFields(), i.storage.from.Row.In, i.storage.paths())
	shown, err := owners.ToSubresource()
	if err != nil {
		return nil, fmt.Errorf("owners of the scale of %s: %w", i.name, err)
	}
	before, err := i.storage.scale(obj)
	if err != nil {
		return nil, err
	}
	before.ManagedFields = shown
	updated, err := i.UpdatedObjectInfo.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a Scale, got %T", updated))
	}
	if errs := validateScale(scale); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), i.name, errs)
	}
	// A scale of another object, or of an older state of this one, must not be applied.
	if scale.ResourceVersion != "" && scale.ResourceVersion != m.GetResourceVersion() {
		return nil, apierrors.NewConflict(i.storage.from.Row.GroupResource(), i.name, fmt.Errorf("the scale was read at version %s, the object is at %s; read it again", scale.ResourceVersion, m.GetResourceVersion()))
	}
	if scale.UID != "" && scale.UID != m.GetUID() {
		return nil, apierrors.NewConflict(i.storage.from.Row.GroupResource(), i.name, fmt.Errorf("the scale is of object %s, this one is %s", scale.UID, m.GetUID()))
	}
	found, err := i.storage.from.Row.Scale(obj)
	if err != nil {
		return nil, err
	}
	replicas := scale.Spec.Replicas
	*found.Replicas = &replicas
	managed, err := owners.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, fmt.Errorf("owners of %s: %w", i.name, err)
	}
	m.SetManagedFields(managed)
	return obj, nil
}

func validateScale(scale *autoscalingv1.Scale) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&scale.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	return append(errs, apivalidation.ValidateNonnegativeField(int64(scale.Spec.Replicas), field.NewPath("spec", "replicas"))...)
}

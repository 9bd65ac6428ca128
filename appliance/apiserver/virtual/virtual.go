// Package virtual serves kinds that are questions rather than objects: what is posted is answered and forgotten.
//
// In:       reviews of tokens and permissions, bindings of pods, looks at components.
// Out:      the same object with its status filled in.
// Promise:  nothing here is stored; a review answers as the server would decide on a request at the same moment.
// Not here: deciding (appliance/apiserver/authn, authz).
package virtual

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// question is the storage of a kind one can only post.
type question[T any] struct {
	namespaced bool
	answer     func(ctx context.Context, question *T) error
}

var _ rest.Creater = &question[int]{}

func (q *question[T]) New() runtime.Object     { return any(new(T)).(runtime.Object) }
func (q *question[T]) Destroy()                {}
func (q *question[T]) NamespaceScoped() bool   { return q.namespaced }
func (q *question[T]) GetSingularName() string { return strings.ToLower(reflect.TypeFor[T]().Name()) }

func (q *question[T]) Create(ctx context.Context, obj runtime.Object, admit rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	asked, ok := any(obj).(*T)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a %s, got %T", reflect.TypeFor[T]().Name(), obj))
	}
	if q.namespaced {
		accessor, err := meta.Accessor(obj)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		namespace := genericapirequest.NamespaceValue(ctx)
		if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(namespace, accessor); err != nil {
			return nil, err
		}
	}
	if admit != nil {
		if err := admit(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := q.answer(ctx, asked); err != nil {
		return nil, err
	}
	return obj, nil
}

package subresource

import (
	"context"
	"errors"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Bounds of a token's life in seconds.
const (
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32
)

// Token makes tokens of a service account.
func Token(env *resource.Env, accounts *resource.Storage) (rest.Storage, error) {
	return &token{env: env, accounts: accounts}, nil
}

type token struct {
	env      *resource.Env
	accounts *resource.Storage
}

var (
	_ rest.NamedCreater             = &token{}
	_ rest.GroupVersionKindProvider = &token{}
)

func (t *token) New() runtime.Object { return &authenticationv1.TokenRequest{} }

// Destroy does nothing: the store is the service accounts'.
func (t *token) Destroy() {}

func (t *token) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

func (t *token) Create(ctx context.Context, name string, obj runtime.Object, admit rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	request, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest object: %T", obj))
	}
	if t.env.Tokens == nil {
		return nil, apierrors.NewServiceUnavailable("this server issues no service account tokens")
	}
	found, err := t.accounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	account := found.(*corev1.ServiceAccount)
	if request.Name != "" && request.Name != name {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("service account name (%s) does not match the name of the token request (%s)", name, request.Name))
	}
	if namespace := genericapirequest.NamespaceValue(ctx); request.Namespace != "" && request.Namespace != namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the namespace of the provided object does not match the namespace sent on the request (%s, %s)", request.Namespace, namespace))
	}
	request.Name, request.Namespace, request.CreationTimestamp = account.Name, account.Namespace, metav1.Now()
	request.Status = authenticationv1.TokenRequestStatus{}
	if admit != nil {
		if err := admit(ctx, request.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if errs := validateTokenRequest(request); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), "", errs)
	}
	if len(request.Spec.Audiences) == 0 {
		request.Spec.Audiences = t.env.Audiences
	}
	bound, err := t.bind(ctx, account, request.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	if dryrun.IsDryRun(options.DryRun) {
		return request, nil
	}
	signed, expires, err := t.env.Tokens.Issue(ctx, account, bound, request.Spec)
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("sign a token for service account %s/%s: %w", account.Namespace, account.Name, err))
	}
	request.Status = authenticationv1.TokenRequestStatus{Token: signed, ExpirationTimestamp: metav1.Time{Time: expires}}
	return request, nil
}

func validateTokenRequest(r *authenticationv1.TokenRequest) field.ErrorList {
	at := field.NewPath("spec", "expirationSeconds")
	seconds := r.Spec.ExpirationSeconds
	switch {
	case seconds == nil:
		return field.ErrorList{field.Required(at, "")}
	case *seconds < minTokenSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, "may not specify a duration less than 10 minutes")}
	case *seconds > maxTokenSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

// bind finds the object a token shall end with, which must exist and belong to the account.
func (t *token) bind(ctx context.Context, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (*resource.BoundObject, error) {
	if ref == nil {
		return nil, nil
	}
	bound := &resource.BoundObject{Ref: *ref}
	var meta *metav1.ObjectMeta
	switch (schema.GroupVersionKind{Version: ref.APIVersion, Kind: ref.Kind}) {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		pod, err := stored[*corev1.Pod](ctx, t.env, "pods", ref.Name)
		if err != nil {
			return nil, err
		}
		if pod.Spec.ServiceAccountName != account.Name {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		meta = &pod.ObjectMeta
		if pod.Spec.NodeName != "" {
			node, err := stored[*corev1.Node](ctx, t.env, "nodes", pod.Spec.NodeName)
			switch {
			case err == nil:
				bound.Node = &node.ObjectMeta
			case apierrors.IsNotFound(err):
				// A pod may outlive its node; its tokens then name the node without vouching for it.
				bound.Node = &metav1.ObjectMeta{Name: pod.Spec.NodeName}
			default:
				return nil, err
			}
		}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret, err := stored[*corev1.Secret](ctx, t.env, "secrets", ref.Name)
		if err != nil {
			return nil, err
		}
		meta = &secret.ObjectMeta
	case corev1.SchemeGroupVersion.WithKind("Node"):
		node, err := stored[*corev1.Node](ctx, t.env, "nodes", ref.Name)
		if err != nil {
			return nil, err
		}
		meta = &node.ObjectMeta
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)))
	}
	if ref.UID != "" && ref.UID != meta.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Resource: ref.Kind}, ref.Name, differentUID(ref.UID, meta.UID))
	}
	bound.Ref.UID = meta.UID
	return bound, nil
}

func differentUID(asked, found types.UID) error {
	return fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated (%s)", asked, found)
}

// stored reads another object of the request's namespace, or one without a namespace.
func stored[T runtime.Object](ctx context.Context, env *resource.Env, plural, name string) (T, error) {
	var none T
	storage := env.Storage(corev1.Resource(plural))
	if storage == nil {
		return none, errors.New("find the storage of " + plural + ": it is not in the table")
	}
	obj, err := storage.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return none, err
	}
	return obj.(T), nil
}

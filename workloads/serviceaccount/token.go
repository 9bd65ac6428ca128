package serviceaccount

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Signer makes the token a Secret is for. It ends with the Secret or the account, and no sooner.
type Signer interface {
	Sign(account *corev1.ServiceAccount, secret string) (string, error)
}

// ConcernsTokens says whether a Secret could be one for a token: its type is not in its metadata.
func ConcernsTokens(o metav1.Object) bool {
	return o.GetAnnotations()[corev1.ServiceAccountNameKey] != ""
}

// Tokens settles one Secret of type kubernetes.io/service-account-token at a time. People make them for programs
// outside the cluster (https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets).
type Tokens struct {
	client  client.Client
	fresh   client.Reader // a new account may be missing in the cache, and its Secret must not go for that
	secrets client.Reader
	ca      []byte
	signer  Signer
}

// RegisterTokens adds the controller of token Secrets; ca is what their readers know the API server by.
func RegisterTokens(mgr manager.Manager, ca []byte, signer Signer) error {
	// A cache of its own: the shared one would hold every Secret of the cluster.
	own, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}: {Field: fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken))},
		},
	})
	if err != nil {
		return fmt.Errorf("make the cache of token Secrets: %w", err)
	}
	if err := mgr.Add(own); err != nil {
		return fmt.Errorf("add the cache of token Secrets: %w", err)
	}
	r := &Tokens{client: mgr.GetClient(), fresh: mgr.GetAPIReader(), secrets: own, ca: ca, signer: signer}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("serviceaccount-token").
		WatchesRawSource(source.Kind[client.Object](own, &corev1.Secret{}, &handler.EnqueueRequestForObject{})).
		Watches(&corev1.ServiceAccount{}, handler.EnqueueRequestsFromMapFunc(r.secretsOf)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the controller of token Secrets: %w", err)
	}
	return nil
}

// secretsOf are the token Secrets of an account that was made, changed or deleted.
func (r *Tokens) secretsOf(ctx context.Context, account client.Object) []reconcile.Request {
	var secrets corev1.SecretList
	if err := r.secrets.List(ctx, &secrets, client.InNamespace(account.GetNamespace())); err != nil {
		return nil // a cache that has not begun queues every Secret when it does
	}
	var requests []reconcile.Request
	for i := range secrets.Items {
		if secrets.Items[i].Annotations[corev1.ServiceAccountNameKey] == account.GetName() {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&secrets.Items[i])})
		}
	}
	return requests
}

// Reconcile settles one Secret.
func (r *Tokens) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var secret corev1.Secret
	err := r.secrets.Get(ctx, req.NamespacedName, &secret)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, r.forget(ctx, req)
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe secret %s: %w", req, err)
	}
	account, err := r.account(ctx, &secret)
	if err != nil {
		return ctrl.Result{}, err
	}
	switch judge(&secret, account, r.ca) {
	case leave:
		return ctrl.Result{}, nil
	case remove:
		err := r.client.Delete(ctx, &secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
		if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return ctrl.Result{}, fmt.Errorf("delete secret %s, whose service account is gone: %w", req, err)
		}
		return ctrl.Result{}, nil
	}
	full, err := r.filled(&secret, account)
	if err != nil {
		return ctrl.Result{}, err
	}
	err = r.client.Update(ctx, full)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // our view was old; the newer object queues its own pass
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("fill in token secret %s: %w", req, err)
	}
	return ctrl.Result{}, nil
}

// account is whom the Secret names; nil when there is none of that name.
func (r *Tokens) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	key := client.ObjectKey{Namespace: secret.Namespace, Name: secret.Annotations[corev1.ServiceAccountNameKey]}
	var account corev1.ServiceAccount
	err := r.client.Get(ctx, key, &account)
	if uid := secret.Annotations[corev1.ServiceAccountUIDKey]; apierrors.IsNotFound(err) || err == nil && uid != "" && uid != string(account.UID) {
		err = r.fresh.Get(ctx, key, &account)
	}
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("observe service account %s: %w", key, err)
	}
	return &account, nil
}

type verdict int

const (
	leave verdict = iota
	fill
	remove
)

// judge says what is to be done about a Secret, given the account it names, if there is one.
func judge(secret *corev1.Secret, account *corev1.ServiceAccount, ca []byte) verdict {
	if secret.Type != corev1.SecretTypeServiceAccountToken || secret.DeletionTimestamp != nil {
		return leave
	}
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	switch {
	case account == nil || uid != "" && uid != string(account.UID):
		return remove // or whoever has the token would be whoever takes the name next
	case uid == "" || len(secret.Data[corev1.ServiceAccountTokenKey]) == 0,
		!bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], ca),
		string(secret.Data[corev1.ServiceAccountNamespaceKey]) != secret.Namespace:
		return fill
	}
	return leave
}

// filled is the Secret with what its readers need. A token that is there stays: somebody uses it.
func (r *Tokens) filled(secret *corev1.Secret, account *corev1.ServiceAccount) (*corev1.Secret, error) {
	full := secret.DeepCopy()
	full.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
	if full.Data == nil {
		full.Data = map[string][]byte{}
	}
	full.Data[corev1.ServiceAccountRootCAKey] = r.ca
	full.Data[corev1.ServiceAccountNamespaceKey] = []byte(full.Namespace)
	if len(full.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := r.signer.Sign(account, full.Name)
		if err != nil {
			return nil, fmt.Errorf("sign the token of secret %s/%s: %w", full.Namespace, full.Name, err)
		}
		full.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	return full, nil
}

// forget takes a Secret that is gone off the accounts that list it.
func (r *Tokens) forget(ctx context.Context, req ctrl.Request) error {
	var accounts corev1.ServiceAccountList
	if err := r.client.List(ctx, &accounts, client.InNamespace(req.Namespace)); err != nil {
		return fmt.Errorf("list service accounts of %s: %w", req.Namespace, err)
	}
	for i := range accounts.Items {
		names := func(ref corev1.ObjectReference) bool { return ref.Name == req.Name }
		if !slices.ContainsFunc(accounts.Items[i].Secrets, names) {
			continue
		}
		// It may be of another type now.
		if err := r.fresh.Get(ctx, req.NamespacedName, &corev1.Secret{}); !apierrors.IsNotFound(err) {
			return client.IgnoreNotFound(err)
		}
		account := accounts.Items[i].DeepCopy()
		account.Secrets = slices.DeleteFunc(account.Secrets, names)
		if err := r.client.Update(ctx, account); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return fmt.Errorf("take secret %s off service account %s: %w", req, account.Name, err)
		}
	}
	return nil
}

// Package bootstraptoken looks after the tokens machines join with.
//
// In:       Secrets of type bootstrap.kubernetes.io/token; the ConfigMap cluster-info in kube-public, where there is one.
// Out:      expired tokens deleted; in cluster-info one signature of its kubeconfig for every token that may sign
//
//	(KEP-2253 and the documentation of bootstrap tokens), by which a machine that knows the token knows the cluster.
//
// Promise:  a token is deleted in the state its end was read from, or not at all.
// Not here: logging in with a token (appliance/apiserver/authn), making one (bootstrap/token).
package bootstraptoken

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"knarr.dev/knarr/bootstrap/token"
)

// clusterInfo is where a machine that joins finds the cluster.
const clusterInfo = "cluster-info"

// maxWait bounds how long a pass may be off: timers do not see a clock that is set.
const maxWait = 5 * time.Minute

// Concerns says whether an object is one this controller is for.
func Concerns(o metav1.Object) bool {
	return o.GetNamespace() == metav1.NamespaceSystem && strings.HasPrefix(o.GetName(), token.SecretName(""))
}

// Reconciler settles all tokens and cluster-info at once: there are few, and each token's end changes the signatures.
type Reconciler struct {
	client client.Client
	tokens client.Reader
	clock  clock.PassiveClock
}

// everything is the one request there is.
var everything = reconcile.Request{NamespacedName: client.ObjectKey{Namespace: metav1.NamespacePublic, Name: clusterInfo}}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	// A cache of its own: the shared one would hold every Secret and ConfigMap of the cluster.
	own, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Secret{}: {
				Namespaces: map[string]cache.Config{metav1.NamespaceSystem: {}},
				Field:      fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)),
			},
			&corev1.ConfigMap{}: {
				Namespaces: map[string]cache.Config{metav1.NamespacePublic: {}},
				Field:      fields.OneTermEqualSelector("metadata.name", clusterInfo),
			},
		},
	})
	if err != nil {
		return fmt.Errorf("make the cache of bootstrap tokens: %w", err)
	}
	if err := mgr.Add(own); err != nil {
		return fmt.Errorf("add the cache of bootstrap tokens: %w", err)
	}
	one := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{everything} })
	err = ctrl.NewControllerManagedBy(mgr).
		Named("bootstraptoken").
		WatchesRawSource(source.Kind[client.Object](own, &corev1.Secret{}, one)).
		WatchesRawSource(source.Kind[client.Object](own, &corev1.ConfigMap{}, one)).
		Complete(&Reconciler{client: mgr.GetClient(), tokens: own, clock: steady})
	if err != nil {
		return fmt.Errorf("register the controller of bootstrap tokens: %w", err)
	}
	return nil
}

// Reconcile settles all tokens.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var secrets corev1.SecretList
	if err := r.tokens.List(ctx, &secrets, client.InNamespace(metav1.NamespaceSystem)); err != nil {
		return ctrl.Result{}, fmt.Errorf("list bootstrap tokens: %w", err)
	}
	now, again := r.clock.Now(), time.Duration(0)
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		left, ends := remaining(secret, now)
		switch {
		case !ends || secret.DeletionTimestamp != nil:
		case left > 0:
			if again == 0 || left < again {
				again = min(left, maxWait)
			}
		default:
			// The version is part of the condition: a longer life may have been granted since.
			err := r.client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
			if client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
				return ctrl.Result{}, fmt.Errorf("delete expired bootstrap token %s: %w", secret.Name, err)
			}
		}
	}
	return ctrl.Result{RequeueAfter: again}, r.vouch(ctx, signers(secrets.Items, now))
}

// vouch brings the signatures in line with the tokens.
func (r *Reconciler) vouch(ctx context.Context, tokens []*token.Grant) error {
	var info corev1.ConfigMap
	err := r.tokens.Get(ctx, everything.NamespacedName, &info)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("observe configmap %s: %w", everything, err)
	}
	data := sign(info.Data, tokens)
	if data == nil {
		return nil
	}
	info.Data = data
	err = r.client.Update(ctx, &info)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // our view was old; the newer object queues its own pass
	}
	if err != nil {
		return fmt.Errorf("sign configmap %s: %w", everything, err)
	}
	return nil
}

// Package rootca publishes the cluster's certificate authority, to every namespace and as a bundle of the cluster.
//
// In:       namespaces, from the shared cache; ConfigMaps named kube-root-ca.crt; trust bundles; the CA's certificates.
// Out:      that ConfigMap in every namespace that is not going; pods mount it beside their token. One ClusterTrustBundle
//
//	of the signer kubernetes.io/kube-apiserver-serving, which pods may project.
//
// Promise:  an edited or deleted one is put right.
// Not here: the CA itself (bootstrap/pki).
package rootca

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

const (
	name = "kube-root-ca.crt"
	key  = "ca.crt"

	noteKey = "kubernetes.io/description"
	note    = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Reconciler settles one namespace at a time.
type Reconciler struct {
	client    client.Client
	published client.Reader
	ca        string
}

// Register adds the controller to a manager; ca is the PEM of what signs the API server's certificate.
func Register(mgr manager.Manager, ca []byte) error {
	// A cache of its own: the shared one would hold every ConfigMap of the cluster for the sake of this name.
	published, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient:           mgr.GetHTTPClient(),
		Scheme:               mgr.GetScheme(),
		Mapper:               mgr.GetRESTMapper(),
		DefaultFieldSelector: fields.OneTermEqualSelector("metadata.name", name),
	})
	if err != nil {
		return fmt.Errorf("make the cache of published root CAs: %w", err)
	}
	if err := mgr.Add(published); err != nil {
		return fmt.Errorf("add the cache of published root CAs: %w", err)
	}
	r := &Reconciler{client: mgr.GetClient(), published: published, ca: string(ca)}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("rootca").
		For(&corev1.Namespace{}, builder.WithPredicates(created)).
		WatchesRawSource(source.Kind[client.Object](published, &corev1.ConfigMap{}, handler.EnqueueRequestsFromMapFunc(namespaceOf))).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the root CA publisher: %w", err)
	}
	return nil
}

// Reconcile settles one namespace.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var namespace corev1.Namespace
	err := r.client.Get(ctx, req.NamespacedName, &namespace)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe namespace %s: %w", req.Name, err)
	}
	if namespace.DeletionTimestamp != nil || namespace.Status.Phase == corev1.NamespaceTerminating {
		return ctrl.Result{}, nil
	}
	var published corev1.ConfigMap
	err = r.published.Get(ctx, client.ObjectKey{Namespace: req.Name, Name: name}, &published)
	if apierrors.IsNotFound(err) {
		err = r.client.Create(ctx, wanted(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: req.Name, Name: name}}, r.ca))
	} else if err == nil {
		next := wanted(&published, r.ca)
		if next == nil {
			return ctrl.Result{}, nil
		}
		err = r.client.Update(ctx, next)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return ctrl.Result{}, nil // there already, changed meanwhile (which queues another pass), or no longer wanted
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("publish the root CA to namespace %s: %w", req.Name, err)
	}
	return ctrl.Result{}, nil
}

// wanted is the ConfigMap as it should be, or nil when it is.
func wanted(published *corev1.ConfigMap, ca string) *corev1.ConfigMap {
	data := map[string]string{key: ca}
	if maps.Equal(published.Data, data) && len(published.BinaryData) == 0 && published.Annotations[noteKey] == note {
		return nil
	}
	next := published.DeepCopy()
	next.Data, next.BinaryData = data, nil
	metav1.SetMetaDataAnnotation(&next.ObjectMeta, noteKey, note)
	return next
}

var created = predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }, DeleteFunc: func(event.DeleteEvent) bool { return false }}

func namespaceOf(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetNamespace()}}}
}

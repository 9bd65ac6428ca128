package rootca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// servingSigner signs the certificates of API servers (KEP-3257).
const servingSigner = "kubernetes.io/kube-apiserver-serving"

// bundles settles what pods trust an API server by, if they project the bundles of its signer.
type bundles struct {
	client    client.Client
	published client.Reader // bundles of that signer
	ca        string
}

// RegisterBundle adds the publisher of the ClusterTrustBundle of API servers' certificates.
func RegisterBundle(mgr manager.Manager, ca []byte) error {
	published, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient:           mgr.GetHTTPClient(),
		Scheme:               mgr.GetScheme(),
		Mapper:               mgr.GetRESTMapper(),
		DefaultFieldSelector: fields.OneTermEqualSelector("spec.signerName", servingSigner),
	})
	if err != nil {
		return fmt.Errorf("make the cache of trust bundles: %w", err)
	}
	if err := mgr.Add(published); err != nil {
		return fmt.Errorf("add the cache of trust bundles: %w", err)
	}
	all := func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{{}} }
	err = ctrl.NewControllerManagedBy(mgr).
		Named("trustbundle").
		WatchesRawSource(source.Kind[client.Object](published, &certificatesv1.ClusterTrustBundle{}, handler.EnqueueRequestsFromMapFunc(all))).
		WatchesRawSource(source.Func(func(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			queue.Add(reconcile.Request{}) // there may be none
			return nil
		})).
		Complete(&bundles{client: mgr.GetClient(), published: published, ca: string(ca)})
	if err != nil {
		return fmt.Errorf("register the publisher of the API servers' trust bundle: %w", err)
	}
	return nil
}

// Reconcile settles all of them: one bundle, named after what is in it, so that another authority gets another name. The
// others go once it is there.
func (b *bundles) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var list certificatesv1.ClusterTrustBundleList
	if err := b.published.List(ctx, &list); err != nil {
		return ctrl.Result{}, fmt.Errorf("list trust bundles: %w", err)
	}
	want := trustBundle(b.ca)
	var there *certificatesv1.ClusterTrustBundle
	var others []*certificatesv1.ClusterTrustBundle
	for i := range list.Items {
		bundle := &list.Items[i]
		switch {
		case bundle.Name == want.Name:
			there = bundle
		case bundle.DeletionTimestamp == nil:
			others = append(others, bundle)
		}
	}
	var err error
	switch {
	case there == nil:
		err = b.client.Create(ctx, want)
	case there.Spec != want.Spec:
		next := there.DeepCopy()
		next.Spec = want.Spec
		err = b.client.Update(ctx, next)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // our view was old; the newer object queues its own pass
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("publish trust bundle %s: %w", want.Name, err)
	}
	var errs []error
	for _, other := range others {
		if err := b.client.Delete(ctx, other, client.Preconditions{UID: &other.UID}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("delete trust bundle %s: %w", other.Name, err))
		}
	}
	return ctrl.Result{}, errors.Join(errs...)
}

// trustBundle is the bundle of an authority.
func trustBundle(ca string) *certificatesv1.ClusterTrustBundle {
	hash := sha256.Sum256([]byte(ca))
	return &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s:%x", strings.ReplaceAll(servingSigner, "/", ":"), hash[:12])},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: ca},
	}
}

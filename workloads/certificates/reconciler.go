// Package certificates gives nodes and clients the certificates they may have.
//
// In:       CertificateSigningRequests and Nodes, from the shared cache; the authorities' keys.
// Out:      approvals and denials of nodes' requests, certificates for what was approved, old requests deleted.
// Promise:  no certificate says more than its signer is documented to say, whoever approved it.
// Not here: asking for one (bootstrap/join), certificates of the machine that has the keys (bootstrap/pki).
package certificates

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/bootstrap/pki"
)

// Reconciler settles one request at a time.
type Reconciler struct {
	client client.Client // reads from the shared cache
	sign   Signers
	log    *slog.Logger
	now    func() time.Time
}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, signers Signers, steady clock.PassiveClock) error {
	r := &Reconciler{
		client: mgr.GetClient(), sign: signers,
		log: slog.With("component", "certificates"), now: steady.Now,
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("certificates").
		For(&certificatesv1.CertificateSigningRequest{}).
		Watches(&corev1.Node{}, handler.EnqueueRequestsFromMapFunc(r.requestsOf), builder.WithPredicates(addressesChanged)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the signer of certificates: %w", err)
	}
	return nil
}

// addressesChanged passes what can let a serving certificate be approved; a node's heartbeats do not.
var addressesChanged = predicate.Funcs{
	UpdateFunc: func(e event.UpdateEvent) bool {
		return !apiequality.Semantic.DeepEqual(e.ObjectOld.(*corev1.Node).Status.Addresses, e.ObjectNew.(*corev1.Node).Status.Addresses)
	},
	DeleteFunc: func(event.DeleteEvent) bool { return false },
}

// requestsOf are the undecided requests of a node.
func (r *Reconciler) requestsOf(ctx context.Context, node client.Object) []reconcile.Request {
	var all certificatesv1.CertificateSigningRequestList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		r.log.Warn("requests of a node not found; they wait for its next change", "node", node.GetName(), "err", err)
		return nil
	}
	var out []reconcile.Request
	for i := range all.Items {
		if csr := &all.Items[i]; csr.Spec.Username == pki.NodeUserPrefix+node.GetName() && len(csr.Status.Conditions) == 0 {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(csr)})
		}
	}
	return out
}

// Reconcile settles one request: old ones go, decided ones are signed, undecided ones of nodes are decided.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	csr := &certificatesv1.CertificateSigningRequest{}
	if err := r.client.Get(ctx, req.NamespacedName, csr); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	left := remaining(csr, r.now())
	if left <= 0 {
		if err := r.client.Delete(ctx, csr, client.Preconditions{UID: &csr.UID}); client.IgnoreNotFound(err) != nil && !apierrors.IsConflict(err) {
			return ctrl.Result{}, fmt.Errorf("delete old certificate request %s: %w", csr.Name, err)
		}
		return ctrl.Result{}, nil
	}
	next, subresource, err := r.decide(ctx, csr)
	if err != nil || next == nil {
		return ctrl.Result{RequeueAfter: left}, err
	}
	err = r.client.SubResource(subresource).Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // our view was old; the newer object queues its own pass
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("update %s of certificate request %s: %w", subresource, csr.Name, err)
	}
	r.log.Info("certificate request settled", "request", csr.Name, "requestor", csr.Spec.Username, "signer", csr.Spec.SignerName, "outcome", outcome(next))
	return ctrl.Result{RequeueAfter: left}, nil
}

func outcome(csr *certificatesv1.CertificateSigningRequest) string {
	if len(csr.Status.Certificate) > 0 {
		return "Issued"
	}
	last := csr.Status.Conditions[len(csr.Status.Conditions)-1]
	return string(last.Type)
}

// decide returns the request as it should be, and the subresource that changes; nil: nothing to do for us.
func (r *Reconciler) decide(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) (next *certificatesv1.CertificateSigningRequest, subresource string, err error) {
	ca := r.sign.of(csr.Spec.SignerName)
	if ca == nil || len(csr.Status.Certificate) > 0 || has(csr, certificatesv1.CertificateDenied) || has(csr, certificatesv1.CertificateFailed) {
		return nil, "", nil
	}
	request, err := parse(csr)
	if err != nil {
		return with(csr, verdict{certificatesv1.CertificateFailed, "SignerValidationFailure", err.Error()}, r.now()), "status", nil
	}
	if has(csr, certificatesv1.CertificateApproved) {
		return r.issue(csr, request, ca)
	}
	v, err := r.judge(ctx, csr, request)
	if err != nil || v.condition == "" {
		return nil, "", err
	}
	return with(csr, v, r.now()), "approval", nil
}

func (r *Reconciler) issue(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, ca *pki.Pair) (*certificatesv1.CertificateSigningRequest, string, error) {
	if reason := signable(csr.Spec.SignerName, csr.Spec.Usages, request); reason != "" {
		return with(csr, verdict{certificatesv1.CertificateFailed, "SignerValidationFailure", reason}, r.now()), "status", nil
	}
	cert, err := sign(template(&csr.Spec, request, ca.Cert, r.now()), request, ca)
	if err != nil {
		return nil, "", fmt.Errorf("issue certificate for request %s: %w", csr.Name, err)
	}
	next := csr.DeepCopy()
	next.Status.Certificate = cert
	return next, "status", nil
}

// judge observes what a decision needs, and decides.
func (r *Reconciler) judge(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) (verdict, error) {
	if csr.Spec.SignerName == certificatesv1.KubeletServingSignerName {
		node := &corev1.Node{}
		err := r.client.Get(ctx, client.ObjectKey{Name: nodeName(request)}, node)
		if apierrors.IsNotFound(err) {
			node, err = nil, nil
		}
		if err != nil {
			return verdict{}, fmt.Errorf("look up the node of certificate request %s: %w", csr.Name, err)
		}
		return judgeServing(csr, request, node), nil
	}
	asked := inquiry(csr, request)
	if asked == noInquiry {
		return verdict{}, nil
	}
	permitted, err := r.permitted(ctx, csr, asked)
	if err != nil {
		return verdict{}, fmt.Errorf("ask what the author of certificate request %s may do: %w", csr.Name, err)
	}
	alive, err := r.alive(ctx, nodeName(request))
	if err != nil {
		return verdict{}, fmt.Errorf("look for a node of the name in certificate request %s: %w", csr.Name, err)
	}
	return judgeClient(csr, request, permitted, alive), nil
}

func (r *Reconciler) permitted(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, value := range csr.Spec.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: csr.Spec.Username, Groups: csr.Spec.Groups, UID: csr.Spec.UID, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "create", Group: certificatesv1.GroupName, Version: "v1", Resource: "certificatesigningrequests", Subresource: subresource,
		},
	}}
	err := r.client.Create(ctx, review)
	return review.Status.Allowed, err
}

// alive reports whether a node of that name is in the cluster and was heard lately. What counts is how long the control
// plane has not heard it, which workloads/nodelifecycle notes: what the node's own clock says may be years off.
func (r *Reconciler) alive(ctx context.Context, name string) (bool, error) {
	node := &corev1.Node{}
	if err := r.client.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown
	}), nil
}

func has(csr *certificatesv1.CertificateSigningRequest, condition certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == condition })
}

func with(csr *certificatesv1.CertificateSigningRequest, v verdict, now time.Time) *certificatesv1.CertificateSigningRequest {
	next := csr.DeepCopy()
	next.Status.Conditions = append(next.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: v.condition, Status: corev1.ConditionTrue, Reason: v.reason, Message: v.message,
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	})
	return next
}

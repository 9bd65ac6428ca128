package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	ctrlclient "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

// newReconciler has an authorizer that permits everything a joining machine or a node asks for.
func newReconciler(t *testing.T, now time.Time, objects ...ctrlclient.Object) *Reconciler {
	t.Helper()
	keys, err := pki.Ensure(t.TempDir(), pki.Want{NodeName: "server", KubernetesService: netip.MustParseAddr("10.43.0.1"), ClusterDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	cluster := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(objects...).
		WithStatusSubresource(&certificatesv1.CertificateSigningRequest{}).
		WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, c ctrlclient.WithWatch, object ctrlclient.Object, options ...ctrlclient.CreateOption) error {
				if review, ok := object.(*authorizationv1.SubjectAccessReview); ok {
					review.Status.Allowed = true
					return nil
				}
				return c.Create(ctx, object, options...)
			},
			SubResourceUpdate: func(ctx context.Context, c ctrlclient.Client, _ string, object ctrlclient.Object, options ...ctrlclient.SubResourceUpdateOption) error {
				return c.SubResource("status").Update(ctx, object, options...) // the fake knows no approval
			},
		}).Build()
	return &Reconciler{
		client: cluster, log: slog.New(slog.DiscardHandler), now: func() time.Time { return now },
		sign: Signers{Client: keys.ClientCA, Serving: keys.ClusterCA},
	}
}

func stored(t *testing.T, user, signer string, u usages, template x509.CertificateRequest) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := by(user, []string{"system:nodes"}, signer, u)
	csr.Name, csr.CreationTimestamp = "csr", metav1.Now()
	csr.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw})
	return csr
}

func TestReconcile(t *testing.T) {
	now := time.Now()
	alpha := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Address: "192.0.2.7"}}}}
	ready := func(status corev1.ConditionStatus, spoke time.Time) *corev1.Node {
		node := alpha.DeepCopy()
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: status, LastHeartbeatTime: metav1.NewTime(spoke)}}
		return node
	}
	tests := map[string]struct {
		csr     *certificatesv1.CertificateSigningRequest
		objects []ctrlclient.Object
		later   time.Duration
		outcome string // of as many passes as it takes; "" undecided
		signer  func(Signers) *pki.Pair
		deleted bool
	}{
		"a machine that joins gets its certificate": {
			csr:     stored(t, "system:bootstrap:abc123", kubelet, asClient, nodeRequest(nil)),
			outcome: "Issued", signer: func(s Signers) *pki.Pair { return s.Client },
		},
		"a machine with the name of a node that is gone gets it too": {
			csr: stored(t, "system:bootstrap:abc123", kubelet, asClient, nodeRequest(nil)), objects: []ctrlclient.Object{ready(corev1.ConditionUnknown, now)},
			outcome: "Issued", signer: func(s Signers) *pki.Pair { return s.Client },
		},
		"a machine with the name of a live node is denied": {
			csr: stored(t, "system:bootstrap:abc123", kubelet, asClient, nodeRequest(nil)), objects: []ctrlclient.Object{ready(corev1.ConditionTrue, now)},
			outcome: "Denied",
		},
		"so is one with the name of a live node that is not ready": {
			csr: stored(t, "system:bootstrap:abc123", kubelet, asClient, nodeRequest(nil)), objects: []ctrlclient.Object{ready(corev1.ConditionFalse, now)},
			outcome: "Denied",
		},
		"and one with the name of a live node whose clock is a year behind": {
			csr: stored(t, "system:bootstrap:abc123", kubelet, asClient, nodeRequest(nil)), objects: []ctrlclient.Object{ready(corev1.ConditionTrue, now.AddDate(-1, 0, 0))},
			outcome: "Denied",
		},
		"a node's API gets its certificate": {
			csr: stored(t, "system:node:alpha", serving, asServer, servingRequest(nil)), objects: []ctrlclient.Object{alpha},
			outcome: "Issued", signer: func(s Signers) *pki.Pair { return s.Serving },
		},
		"a node that has not registered waits": {csr: stored(t, "system:node:alpha", serving, asServer, servingRequest(nil))},
		"a user waits for a person":            {csr: stored(t, "ann", userSigner, asClient, subject("ann"))},
		"a user whom a person approved gets it": {
			csr:     approved(stored(t, "ann", userSigner, asClient, subject("ann"))),
			outcome: "Issued", signer: func(s Signers) *pki.Pair { return s.Client },
		},
		"a user cannot be approved into all power": {csr: approved(stored(t, "ann", userSigner, asClient, subject("ann", "system:masters"))), outcome: "Failed"},
		"another signer's is left alone":           {csr: approved(stored(t, "ann", "example.com/x", asClient, subject("ann"))), outcome: "Approved"},
		"an old one goes":                          {csr: stored(t, "ann", userSigner, asClient, subject("ann")), later: 25 * time.Hour, deleted: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := newReconciler(t, now.Add(tc.later), append(tc.objects, tc.csr)...)
			key := ctrlclient.ObjectKeyFromObject(tc.csr)
			for range 3 { // decide, sign, and once more, which must change nothing
				if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
					t.Fatal(err)
				}
			}
			got := &certificatesv1.CertificateSigningRequest{}
			err := r.client.Get(t.Context(), key, got)
			if tc.deleted {
				if !apierrors.IsNotFound(err) {
					t.Errorf("still there, %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if tc.outcome == "" {
				if len(got.Status.Conditions) != 0 || len(got.Status.Certificate) != 0 {
					t.Errorf("status %+v; want it undecided", got.Status)
				}
				return
			}
			if o := outcome(got); o != tc.outcome {
				t.Fatalf("outcome %s; want %s (%+v)", o, tc.outcome, got.Status.Conditions)
			}
			if tc.signer == nil {
				return
			}
			certs, err := pki.ParseCerts(got.Status.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := certs[0].Verify(x509.VerifyOptions{Roots: tc.signer(r.sign).Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				t.Error(err)
			}
		})
	}
}

func approved(csr *certificatesv1.CertificateSigningRequest) *certificatesv1.CertificateSigningRequest {
	return with(csr, verdict{certificatesv1.CertificateApproved, "ByHand", "a person said so"}, time.Now())
}

func TestRequestsOf(t *testing.T) {
	waiting := stored(t, "system:node:alpha", serving, asServer, servingRequest(nil))
	decided := approved(stored(t, "system:node:alpha", serving, asServer, servingRequest(nil)))
	decided.Name = "decided"
	others := stored(t, "system:node:beta", serving, asServer, servingRequest(nil))
	others.Name = "others"
	r := newReconciler(t, time.Now(), waiting, decided, others)
	got := r.requestsOf(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}})
	if len(got) != 1 || got[0].Name != "csr" {
		t.Errorf("requestsOf() = %v; want the waiting one", got)
	}
}

func TestAJumpOfTheClockDeletesNoRequest(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			csr := stored(t, "ann", userSigner, asClient, subject("ann"))
			csr.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute))
			r := newReconciler(t, now, csr)
			r.now = steadytest.Jumped(now, by).Now
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: ctrlclient.ObjectKeyFromObject(csr)}); err != nil {
				t.Fatal(err)
			}
			if err := r.client.Get(t.Context(), ctrlclient.ObjectKeyFromObject(csr), csr); err != nil {
				t.Error(err)
			}
		})
	}
}

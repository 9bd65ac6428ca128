package volume

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

var identity = corev1.Volume{Name: "identity", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
	Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{
		SignerName: "example.com/web", KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem",
	}}},
}}}

// signer answers every request as it is made, with what reply writes into its status.
func signer(t *testing.T, client *fake.Clientset, reply func(*certificatesv1.PodCertificateRequest)) (asked *int) {
	t.Helper()
	asked = new(int)
	client.PrependReactor("create", "podcertificaterequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest)
		*asked++
		request.Name = request.GenerateName + string(rune('a'+*asked))
		reply(request)
		return false, nil, nil // stored by the next reactor
	})
	return asked
}

func issued(t *testing.T, begin, end time.Time) func(*certificatesv1.PodCertificateRequest) {
	return func(r *certificatesv1.PodCertificateRequest) {
		request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
		if err != nil {
			t.Fatal(err)
		}
		authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: end}
		der, err := x509.CreateCertificate(rand.Reader, template, template, request.PublicKey, authority)
		if err != nil {
			t.Fatal(err)
		}
		refresh := metav1.NewTime(begin.Add(end.Sub(begin) / 2))
		ends := metav1.NewTime(end)
		r.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions:       []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue}},
			CertificateChain: "a comment\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
			BeginRefreshAt:   &refresh, NotAfter: &ends,
		}
	}
}

func certified() *corev1.Pod {
	pod := podWith(identity)
	pod.Spec.ServiceAccountName = "shopkeeper"
	return pod
}

func whoAndWhere() []runtime.Object {
	return []runtime.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shopkeeper", UID: "account"}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node"}},
	}
}

func TestAPodGetsACertificateOfItsOwn(t *testing.T) {
	m, client := newManager(t, whoAndWhere()...)
	now := time.Now().Truncate(time.Second)
	m.certificates.now = func() time.Time { return now }
	asked := signer(t, client, issued(t, now, now.Add(24*time.Hour)))
	folder := mountAll(t, m, certified())["identity"]

	bundle := read(t, folder, "bundle.pem")
	if _, err := tls.X509KeyPair([]byte(bundle), []byte(bundle)); err != nil {
		t.Errorf("key and certificate of the bundle: %v", err)
	}
	if got := read(t, folder, "key.pem") + read(t, folder, "chain.pem"); got != bundle || strings.Contains(got, "comment") {
		t.Errorf("the bundle is not its parts, or not only PEM:\n%s", got)
	}
	requests, err := client.CertificatesV1().PodCertificateRequests("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(requests.Items) != 1 {
		t.Fatalf("%d requests, %v; want one", len(requests.Items), err)
	}
	if s := requests.Items[0].Spec; s.PodUID != uid || s.ServiceAccountUID != "account" || s.NodeName != "n1" || s.NodeUID != "node" {
		t.Errorf("the request is for %+v", s)
	}

	mountAll(t, m, certified())
	if *asked != 1 || read(t, folder, "bundle.pem") != bundle {
		t.Errorf("asked %d times for a certificate that is fresh", *asked)
	}
	now = now.Add(13 * time.Hour)
	m.refresh(t.Context())
	if *asked != 2 || read(t, folder, "bundle.pem") == bundle {
		t.Errorf("asked %d times; past its half the certificate is replaced", *asked)
	}
}

func TestASignerThatSaysNoIsLeftAloneForAWhile(t *testing.T) {
	m, client := newManager(t, whoAndWhere()...)
	now := time.Now().Truncate(time.Second)
	m.certificates.now = func() time.Time { return now }
	reply := func(r *certificatesv1.PodCertificateRequest) {
		r.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Status: metav1.ConditionTrue, Reason: "UnsupportedKeyType", Message: "use RSA3072"}}
	}
	asked := signer(t, client, func(r *certificatesv1.PodCertificateRequest) { reply(r) })
	for range 2 {
		if _, err := m.Mount(t.Context(), certified()); err == nil || !strings.Contains(err.Error(), "use RSA3072") {
			t.Errorf("Mount() = %v, want the signer's words", err)
		}
	}
	if *asked != 1 {
		t.Errorf("asked %d times", *asked)
	}
	now = now.Add(afterNo)
	reply = issued(t, now, now.Add(24*time.Hour))
	mountAll(t, m, certified())
	if *asked != 2 {
		t.Errorf("asked %d times, want again after a while", *asked)
	}
}

func TestTheFirstCertificateIsWaitedFor(t *testing.T) {
	m, client := newManager(t, whoAndWhere()...)
	now := time.Now().Truncate(time.Second)
	asked := signer(t, client, func(*certificatesv1.PodCertificateRequest) {}) // no answer yet
	client.PrependWatchReactor("podcertificaterequests", func(clienttesting.Action) (bool, watch.Interface, error) {
		stored, err := client.Tracker().Get(certificatesv1.SchemeGroupVersion.WithResource("podcertificaterequests"), "shop", "req-b")
		if err != nil {
			return true, nil, err
		}
		request := stored.(*certificatesv1.PodCertificateRequest)
		issued(t, now, now.Add(24*time.Hour))(request)
		answers := watch.NewFakeWithOptions(watch.FakeOptions{ChannelSize: 1})
		answers.Modify(request)
		return true, answers, nil
	})
	folder := mountAll(t, m, certified())["identity"]
	if bundle := read(t, folder, "bundle.pem"); *asked != 1 || !strings.Contains(bundle, "CERTIFICATE") {
		t.Errorf("asked %d times; the bundle lacks its certificate", *asked)
	}
}

func TestARestartKeepsCertificates(t *testing.T) {
	apart := *identity.DeepCopy()
	apart.Projected.Sources[0].PodCertificate.CredentialBundlePath = ""
	for name, volume := range map[string]corev1.Volume{"in a bundle": identity, "apart": apart} {
		t.Run(name, func(t *testing.T) {
			m, client := newManager(t, whoAndWhere()...)
			now := time.Now().Truncate(time.Second)
			asked := signer(t, client, issued(t, now, now.Add(24*time.Hour)))
			pod := podWith(volume)
			pod.Spec.ServiceAccountName = "shopkeeper"
			chain := read(t, mountAll(t, m, pod)["identity"], "chain.pem")

			restarted := New(m.config) // a new process knows nothing but the volume
			restarted.certificates.now = func() time.Time { return now }
			folder := mountAll(t, restarted, pod)["identity"]
			if *asked != 1 || read(t, folder, "chain.pem") != chain {
				t.Errorf("asked %d times, want no one after a restart", *asked)
			}
			now = now.Add(20 * time.Hour)
			restarted.refresh(t.Context())
			if *asked != 2 || read(t, folder, "chain.pem") == chain {
				t.Errorf("asked %d times, want again before the certificate ends", *asked)
			}
		})
	}
}

func TestACertificateIsKeptWhileItsSignerIsAway(t *testing.T) {
	m, client := newManager(t, whoAndWhere()...)
	now := time.Now().Truncate(time.Second)
	m.certificates.now = func() time.Time { return now }
	signer(t, client, issued(t, now, now.Add(24*time.Hour)))
	folder := mountAll(t, m, certified())["identity"]
	bundle := read(t, folder, "bundle.pem")
	client.PrependReactor("create", "podcertificaterequests", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("away")
	})
	now = now.Add(13 * time.Hour)
	m.refresh(t.Context())
	if read(t, folder, "bundle.pem") != bundle {
		t.Error("the certificate went with its signer")
	}
}

func TestAnOptionalBundleThatIsMissingTrustsNobody(t *testing.T) {
	m, _ := newManager(t)
	name, optional := "missing", true
	pod := podWith(corev1.Volume{Name: "trust", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{Name: &name, Path: "anchors.pem", Optional: &optional}}},
	}}})
	if got := read(t, mountAll(t, m, pod)["trust"], "anchors.pem"); got != "" {
		t.Errorf("trusts %q", got)
	}
}

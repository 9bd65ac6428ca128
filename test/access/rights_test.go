package access_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/knarr/bootstrap/pki"
)

// namespace of one test.
func namespace(t *testing.T, name string) string {
	t.Helper()
	_, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	_, err = admin.CoreV1().ServiceAccounts(name).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		must(t, err)
	}
	return name
}

func runPod(t *testing.T, namespace, name, node string, volumes ...corev1.Volume) *corev1.Pod {
	t.Helper()
	pod, err := admin.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "default", Volumes: volumes,
			Containers: []corev1.Container{{Name: "c", Image: "example.com/none"}},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	return pod
}

func whoAmI(ctx context.Context, client kubernetes.Interface) (*authenticationv1.UserInfo, error) {
	self, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return &self.Status.UserInfo, nil
}

func TestServiceAccountToken(t *testing.T) {
	ns := namespace(t, "tokens")
	pod := runPod(t, ns, "web", "somewhere")
	issued, err := admin.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: "web", UID: pod.UID,
		}},
	}, metav1.CreateOptions{})
	must(t, err)
	config := server.Anonymous()
	config.BearerToken = issued.Status.Token
	client := clientOf(t, config)
	user, err := whoAmI(t.Context(), client)
	must(t, err)
	if user.Username != "system:serviceaccount:tokens:default" || user.Extra["authentication.kubernetes.io/pod-name"][0] != "web" {
		t.Errorf("logged in as %+v", user)
	}
	review, err := admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: issued.Status.Token, Audiences: []string{"somebody-else"}},
	}, metav1.CreateOptions{})
	must(t, err)
	if review.Status.Authenticated {
		t.Error("the token counts for an audience it was not made for")
	}
	var none int64
	must(t, admin.CoreV1().Pods(ns).Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: &none}))
	eventually(t, "the token ends with its pod", func() error {
		if _, err := whoAmI(t.Context(), client); apierrors.IsUnauthorized(err) {
			return nil
		}
		return errors.New("it still works")
	})
}

func TestIssuerIsPublished(t *testing.T) {
	for _, path := range []string{"/.well-known/openid-configuration", "/openid/v1/jwks"} {
		client := as(t, "system:serviceaccount:default:default", "system:serviceaccounts", "system:authenticated")
		eventually(t, path, func() error { return client.RESTClient().Get().AbsPath(path).Do(t.Context()).Error() })
		if err := clientOf(t, server.Anonymous()).RESTClient().Get().AbsPath(path).Do(t.Context()).Error(); err == nil {
			t.Errorf("%s is open to everybody", path)
		}
	}
}

func TestNodeReadsWhatItsPodsNeed(t *testing.T) {
	ns := namespace(t, "needs")
	for _, name := range []string{"needed", "other"} {
		_, err := admin.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		must(t, err)
	}
	node := as(t, "system:node:reader", "system:nodes", "system:authenticated")
	_, err := node.CoreV1().Secrets(ns).Get(t.Context(), "needed", metav1.GetOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("before the pod is there: %v; want it forbidden", err)
	}
	runPod(t, ns, "web", "reader", corev1.Volume{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "needed"}}})
	_, err = node.CoreV1().Secrets(ns).Get(t.Context(), "needed", metav1.GetOptions{}) // at once: the agent does not wait either
	must(t, err)
	watch, err := node.CoreV1().Secrets(ns).Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=needed"})
	must(t, err)
	watch.Stop()
	_, err = node.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=reader"})
	must(t, err)
	_, err = node.DiscoveryV1().EndpointSlices("").List(t.Context(), metav1.ListOptions{})
	must(t, err)
	forbidden := map[string]error{}
	_, forbidden["a secret no pod names"] = node.CoreV1().Secrets(ns).Get(t.Context(), "other", metav1.GetOptions{})
	_, forbidden["all secrets"] = node.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
	_, forbidden["all pods"] = node.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	_, forbidden["another's pod"] = as(t, "system:node:else", "system:nodes").CoreV1().Pods(ns).Get(t.Context(), "web", metav1.GetOptions{})
	forbidden["deleting a node"] = node.CoreV1().Nodes().Delete(t.Context(), "reader", metav1.DeleteOptions{})
	_, forbidden["another node"] = node.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "else"}}, metav1.CreateOptions{})
	_, forbidden["a pod of its own"] = node.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: corev1.PodSpec{NodeName: "reader", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	for what, err := range forbidden {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v; want it forbidden", what, err)
		}
	}
}

func TestNodesSeeAllPodsWhileThereAreNetworkPolicies(t *testing.T) {
	ns := namespace(t, "policies")
	node := as(t, "system:node:guard", "system:nodes", "system:authenticated")
	all := func() error {
		_, err := node.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := all(); !apierrors.IsForbidden(err) {
		t.Errorf("without a policy: %v; want it forbidden", err)
	}
	policies := admin.NetworkingV1().NetworkPolicies(ns)
	_, err := policies.Create(t.Context(), &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}, metav1.CreateOptions{})
	must(t, err)
	must(t, all()) // at once: pods wait for their policies
	must(t, policies.Delete(t.Context(), "deny", metav1.DeleteOptions{}))
	eventually(t, "all pods are forbidden again", func() error {
		if err := all(); !apierrors.IsForbidden(err) {
			return fmt.Errorf("without a policy: %v; want it forbidden", err)
		}
		return nil
	})
}

func TestNobodyGivesMoreThanTheyHave(t *testing.T) {
	ns := namespace(t, "escalation")
	binding := func(name, role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "ann"}},
		}
	}
	for _, role := range []string{"system:aggregate-to-admin", "system:aggregate-to-view"} {
		_, err := admin.RbacV1().RoleBindings(ns).Create(t.Context(), binding(role, role), metav1.CreateOptions{})
		must(t, err)
	}
	ann := as(t, "ann")
	role := func(name, resource string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}},
		}}
	}
	eventually(t, "a role within her own", func() error {
		_, err := ann.RbacV1().Roles(ns).Create(t.Context(), role("own", "pods"), metav1.CreateOptions{})
		return err
	})
	_, err := ann.RbacV1().RoleBindings(ns).Create(t.Context(), binding("view", "system:aggregate-to-view"), metav1.CreateOptions{})
	must(t, err)
	if _, err := ann.RbacV1().Roles(ns).Create(t.Context(), role("more", "secrets"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a role beyond her own: %v; want it forbidden", err)
	}
	if _, err := ann.RbacV1().RoleBindings(ns).Create(t.Context(), binding("all", "cluster-admin"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a binding to cluster-admin: %v; want it forbidden", err)
	}
	rules, err := ann.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns},
	}, metav1.CreateOptions{})
	must(t, err)
	if len(rules.Status.ResourceRules) == 0 || rules.Status.Incomplete {
		t.Errorf("her rules: %+v", rules.Status)
	}
}

func TestUserWithACertificate(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "ann", Organization: []string{"staff"}}}, key)
	must(t, err)
	csr, err := admin.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "ann"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}),
			SignerName: certificatesv1.KubeAPIServerClientSignerName, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	must(t, err)
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	_, err = admin.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), "ann", csr, metav1.UpdateOptions{})
	must(t, err)
	eventually(t, "the certificate", func() error {
		csr, err = admin.CertificatesV1().CertificateSigningRequests().Get(t.Context(), "ann", metav1.GetOptions{})
		if err == nil && len(csr.Status.Certificate) == 0 {
			return errors.New("not issued")
		}
		return err
	})
	keyPEM, err := pki.MarshalKey(key)
	must(t, err)
	config := server.Anonymous()
	config.TLSClientConfig = rest.TLSClientConfig{CAData: server.PKI.ClusterCA.CertPEM, CertData: csr.Status.Certificate, KeyData: keyPEM}
	user, err := whoAmI(t.Context(), clientOf(t, config))
	must(t, err)
	if user.Username != "ann" {
		t.Errorf("logged in as %s", user.Username)
	}
}

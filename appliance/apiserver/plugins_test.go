package apiserver_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

// refused says what an answer should have been, unless it is Forbidden with the given words.
func refused(err error, words string) error {
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), words) {
		return fmt.Errorf("answer: %w; want Forbidden: %s", errOrNone(err), words)
	}
	return nil
}

func errOrNone(err error) error {
	if err == nil {
		return errors.New("accepted")
	}
	return err
}

// pluginCase sends a plugin what it is there for and says what is wrong with the answer.
type pluginCase = func(ctx context.Context, c *kubernetes.Clientset, ns string) error

var (
	forReal = metav1.CreateOptions{}
	try     = metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
)

func claim(class *string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: apiresource.MustParse("1Gi")}},
	}}
}

// allPluginCases begin with the name of the plugin they are for; README.md lists what is tested where.
func allPluginCases() map[string]pluginCase {
	all := map[string]pluginCase{}
	for _, cases := range []map[string]pluginCase{pluginCases(), podPluginCases(), storagePluginCases(), certificatePluginCases(), policyPluginCases()} {
		maps.Copy(all, cases)
	}
	return all
}

// TestPlugins sends each admission plugin what it is there for.
func TestPlugins(t *testing.T) {
	for name, run := range allPluginCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, ns := inNamespace(t)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := run(ctx, client, ns); err != nil {
				t.Error(err)
			}
		})
	}
}

// named is a test in a row of README.md, after its folder.
var named = regexp.MustCompile("`(?:([a-z/]+): )?(Test[A-Za-z]+)`")

// TestWhatIsTestedWhere finds every test that README.md names.
func TestWhatIsTestedWhere(t *testing.T) {
	content, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(content), "## What is tested where\n")
	section, _, _ = strings.Cut(section, "\n## ")
	rows := 0
	for line := range strings.Lines(section) {
		what, tests, isRow := strings.Cut(strings.TrimPrefix(line, "| `"), "` | ")
		if !isRow {
			continue
		}
		rows++
		found := named.FindAllStringSubmatch(tests, -1)
		if len(found) == 0 {
			t.Errorf("%s names no test", what)
		}
		for _, test := range found {
			folder, name := test[1], test[2]
			if name == "TestPlugins" {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(allPluginCases())), func(c string) bool { return strings.HasPrefix(c, what+" ") }) {
					t.Errorf("TestPlugins has no case of %s", what)
				}
				continue
			}
			if !declares(t, filepath.Join(".", folder), name) {
				t.Errorf("%s: there is no %s in %q", what, name, folder)
			}
		}
	}
	if rows == 0 {
		t.Error("README.md does not say what is tested where")
	}
}

// declares looks for a test among the files of a folder.
func declares(t *testing.T, folder, test string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte("\nfunc "+test+"(t *testing.T)")) {
			return true
		}
	}
	return false
}

func pluginCases() map[string]pluginCase {
	return map[string]pluginCase{
		"NamespaceLifecycle keeps the system's namespaces": func(ctx context.Context, c *kubernetes.Clientset, _ string) error {
			return refused(c.CoreV1().Namespaces().Delete(ctx, "kube-system", metav1.DeleteOptions{}), "this namespace may not be deleted")
		},
		"LimitRanger completes containers": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			limit := corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("1")}
			if _, err := c.CoreV1().LimitRanges(ns).Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: limit}}}}, forReal); err != nil {
				return err
			}
			p, err := c.CoreV1().Pods(ns).Create(ctx, pod("web"), forReal)
			if err == nil && p.Spec.Containers[0].Resources.Requests.Cpu().String() != "1" {
				err = fmt.Errorf("resources %v", p.Spec.Containers[0].Resources)
			}
			return err
		},
		"ServiceAccount refuses accounts that are not there": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			p := pod("web")
			p.Spec.ServiceAccountName = "nobody"
			_, err := c.CoreV1().Pods(ns).Create(ctx, p, forReal)
			return refused(err, "error looking up service account")
		},
		"TaintNodesByCondition keeps pods from new nodes": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			n, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns}}, forReal)
			if err == nil && !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady }) {
				err = fmt.Errorf("taints %v", n.Spec.Taints)
			}
			return err
		},
		"PodSecurity enforces what the namespace is labelled with": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if _, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`), metav1.PatchOptions{}); err != nil {
				return err
			}
			return soon(ctx, func() error { // it reads namespaces from a cache
				_, err := c.CoreV1().Pods(ns).Create(ctx, pod("web"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				return refused(err, `violates PodSecurity "restricted:latest"`)
			})
		},
		"DefaultStorageClass completes claims": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: ns, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}, Provisioner: "example.com/a"}
			if _, err := c.StorageV1().StorageClasses().Create(ctx, class, forReal); err != nil {
				return err
			}
			defer func() { _ = c.StorageV1().StorageClasses().Delete(ctx, ns, metav1.DeleteOptions{}) }()
			return soon(ctx, func() error {
				got, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(nil), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				if err == nil && (ptr.Deref(got.Spec.StorageClassName, "") != ns || !slices.Contains(got.Finalizers, "kubernetes.io/pvc-protection")) {
					err = fmt.Errorf("class %v, finalizers %v", got.Spec.StorageClassName, got.Finalizers)
				}
				return err
			})
		},
		"PersistentVolumeClaimResize lets bound claims grow alone": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			got, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(ptr.To("fixed")), forReal)
			if err != nil {
				return err
			}
			got.Status.Phase = corev1.ClaimBound
			if got, err = c.CoreV1().PersistentVolumeClaims(ns).UpdateStatus(ctx, got, metav1.UpdateOptions{}); err != nil {
				return err
			}
			got.Spec.Resources.Requests[corev1.ResourceStorage] = apiresource.MustParse("2Gi")
			_, err = c.CoreV1().PersistentVolumeClaims(ns).Update(ctx, got, metav1.UpdateOptions{})
			return refused(err, "only dynamically provisioned pvc can be resized")
		},
		"RuntimeClass adds what its pods cost": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, Handler: "vm", Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}},
				Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{corev1.ResourceMemory: apiresource.MustParse("64Mi")}}}
			if _, err := c.NodeV1().RuntimeClasses().Create(ctx, class, forReal); err != nil {
				return err
			}
			p := pod("web")
			p.Spec.RuntimeClassName = &ns
			got, err := c.CoreV1().Pods(ns).Create(ctx, p, forReal)
			if err == nil && (got.Spec.Overhead.Memory().String() != "64Mi" || got.Spec.NodeSelector["vm"] != "yes") {
				err = fmt.Errorf("overhead %v, node selector %v", got.Spec.Overhead, got.Spec.NodeSelector)
			}
			return err
		},
		"CertificateSubjectRestriction refuses new administrators": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			_, err := c.CertificatesV1().CertificateSigningRequests().Create(ctx, request(ns, certificatesv1.KubeAPIServerClientSignerName, "system:masters"), forReal)
			return refused(err, "system:masters")
		},
		"CertificateApproval asks for the signer": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			csr, err := c.CertificatesV1().CertificateSigningRequests().Create(ctx, request(ns, "example.com/signer", "a"), forReal)
			if err != nil {
				return err
			}
			role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ns}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"update"}, APIGroups: []string{certificatesv1.GroupName}, Resources: []string{"certificatesigningrequests/approval", "certificatesigningrequests/status"}}}}
			if _, err := c.RbacV1().ClusterRoles().Create(ctx, role, forReal); err != nil {
				return err
			}
			binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: ns}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: ns}, Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: ns}}}
			if _, err := c.RbacV1().ClusterRoleBindings().Create(ctx, binding, forReal); err != nil {
				return err
			}
			config := server.Admin()
			config.Impersonate = rest.ImpersonationConfig{UserName: ns}
			somebody, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "a", Message: "a"}}
			return soon(ctx, func() error {
				_, err = somebody.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, ns, csr, metav1.UpdateOptions{})
				return refused(err, `user not permitted to approve for signerName "example.com/signer"`)
			})
		},
		"DefaultIngressClass completes ingresses": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			class := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: ns, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}}, Spec: networkingv1.IngressClassSpec{Controller: "example.com/a"}}
			if _, err := c.NetworkingV1().IngressClasses().Create(ctx, class, forReal); err != nil {
				return err
			}
			defer func() { _ = c.NetworkingV1().IngressClasses().Delete(ctx, ns, metav1.DeleteOptions{}) }()
			ingress := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}
			return soon(ctx, func() error {
				got, err := c.NetworkingV1().Ingresses(ns).Create(ctx, ingress, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				if err == nil && ptr.Deref(got.Spec.IngressClassName, "") != ns {
					err = fmt.Errorf("class %v", got.Spec.IngressClassName)
				}
				return err
			})
		},
		"PodTopologyLabels tells pods where they are": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}, forReal); err != nil {
				return err
			}
			if _, err := c.CoreV1().Pods(ns).Create(ctx, pod("web"), forReal); err != nil {
				return err
			}
			if err := c.CoreV1().Pods(ns).Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Target: corev1.ObjectReference{Kind: "Node", Name: ns}}, forReal); err != nil {
				return err
			}
			got, err := c.CoreV1().Pods(ns).Get(ctx, "web", metav1.GetOptions{})
			if err == nil && got.Labels[corev1.LabelTopologyZone] != "z1" {
				err = fmt.Errorf("labels %v", got.Labels)
			}
			return err
		},
		"DeviceAdminAccess wants a namespace of administrators": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "a", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AdminAccess: ptr.To(true)}}}}}}
			_, err := c.ResourceV1().ResourceClaims(ns).Create(ctx, claim, forReal)
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.devices.requests[0].exactly.adminAccess: Forbidden") {
				return fmt.Errorf("without the label: %w", errOrNone(err))
			}
			if _, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"resource.kubernetes.io/admin-access":"true"}}}`), metav1.PatchOptions{}); err != nil {
				return err
			}
			return soon(ctx, func() error {
				_, err := c.ResourceV1().ResourceClaims(ns).Create(ctx, claim, forReal)
				return err
			})
		},
		"ResourceQuota counts": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			hard := corev1.ResourceList{"count/secrets": apiresource.MustParse("1")}
			quota, err := c.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, forReal)
			if err != nil {
				return err
			}
			quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"count/secrets": apiresource.MustParse("0")}}
			if _, err := c.CoreV1().ResourceQuotas(ns).UpdateStatus(ctx, quota, metav1.UpdateOptions{}); err != nil {
				return err
			}
			return soon(ctx, func() error {
				_, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}}, forReal)
				return refused(err, "exceeded quota: one")
			})
		},
		"ValidatingAdmissionPolicy refuses": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
				MatchConstraints: matches("secrets"), Validations: []admissionregistrationv1.Validation{{Expression: "object.metadata.name != 'bad'", Message: "bad name"}},
			}}
			if _, err := c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, policy, forReal); err != nil {
				return err
			}
			binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
				PolicyName: ns, ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny}, MatchResources: in(ns),
			}}
			if _, err := c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, binding, forReal); err != nil {
				return err
			}
			return soon(ctx, func() error {
				_, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bad"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "bad name") {
					return errOrNone(err)
				}
				return nil
			})
		},
		"MutatingAdmissionPolicy changes": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			policy := &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
				MatchConstraints: matches("secrets"), ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
				Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: `Object{metadata: Object.metadata{labels: {"by": "policy"}}}`}}},
			}}
			if _, err := c.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, policy, forReal); err != nil {
				return err
			}
			binding := &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: ns, MatchResources: in(ns)}}
			if _, err := c.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, binding, forReal); err != nil {
				return err
			}
			return soon(ctx, func() error {
				got, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				if err == nil && got.Labels["by"] != "policy" {
					err = fmt.Errorf("labels %v", got.Labels)
				}
				return err
			})
		},
	}
}

// soon tries again what plugins learn from caches.
func soon(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func matches(resource string) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: creating(resource)}}}
}

func creating(resource string) admissionregistrationv1.RuleWithOperations {
	return admissionregistrationv1.RuleWithOperations{
		Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
		Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{resource}},
	}
}

func in(namespace string) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{NamespaceSelector: only(namespace)}
}

func only(namespace string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}}
}

func request(name, signer, organization string) *certificatesv1.CertificateSigningRequest {
	_, key, _ := ed25519.GenerateKey(nil)
	der, _ := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a", Organization: []string{organization}}}, key)
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	}}
}

// TestWebhooks asks a webhook that answers, refuses, changes its mind when asked again, or never answers.
func TestWebhooks(t *testing.T) {
	const slow, no, label, saw = "/slow", "/no", "/label", "/saw"
	hang := make(chan struct{})
	hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &review)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		switch r.URL.Path {
		case slow:
			<-hang
		case no:
			review.Response.Allowed, review.Response.Result = false, &metav1.Status{Message: "because I say so"}
		case label:
			patch := admissionv1.PatchTypeJSONPatch
			review.Response.PatchType, review.Response.Patch = &patch, []byte(`[{"op":"add","path":"/metadata/labels","value":{"by":"webhook"}}]`)
		case saw: // says so when the other one came first
			patch := admissionv1.PatchTypeJSONPatch
			if bytes.Contains(review.Request.Object.Raw, []byte(`"by":"webhook"`)) {
				review.Response.PatchType, review.Response.Patch = &patch, []byte(`[{"op":"add","path":"/metadata/labels/saw","value":"it"}]`)
			}
		}
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(func() { close(hang); hook.Close() })
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
	tests := map[string]struct {
		path     string
		failure  admissionregistrationv1.FailurePolicyType
		when     string // a match condition
		mutating bool
		again    admissionregistrationv1.ReinvocationPolicyType // of one that is asked first and looks for what this one does
		want     func(*corev1.Secret, error) error
	}{
		"one that refuses is heard":                  {path: no, failure: admissionregistrationv1.Ignore, want: func(_ *corev1.Secret, err error) error { return saysNo(err, "because I say so") }},
		"one that never answers fails the request":   {path: slow, failure: admissionregistrationv1.Fail, want: func(_ *corev1.Secret, err error) error { return saysNo(err, "failed calling webhook") }},
		"or is ignored, if it may be":                {path: slow, failure: admissionregistrationv1.Ignore, want: func(_ *corev1.Secret, err error) error { return err }},
		"one is not asked what it is not about":      {path: no, failure: admissionregistrationv1.Fail, when: "object.metadata.name == 'other'", want: func(_ *corev1.Secret, err error) error { return err }},
		"a condition that can't be evaluated counts": {path: no, failure: admissionregistrationv1.Fail, when: "object.nothing == 'other'", want: func(_ *corev1.Secret, err error) error { return errWanted(err) }},
		"one may change the object": {path: label, failure: admissionregistrationv1.Fail, mutating: true, want: func(got *corev1.Secret, err error) error {
			if err == nil && got.Labels["by"] != "webhook" {
				err = fmt.Errorf("labels %v", got.Labels)
			}
			return err
		}},
		"one that wants to is asked again when another changed the object": {path: label, failure: admissionregistrationv1.Fail, mutating: true, again: admissionregistrationv1.IfNeededReinvocationPolicy,
			want: labelled("webhook", "it")},
		"one that does not want to is asked once": {path: label, failure: admissionregistrationv1.Fail, mutating: true, again: admissionregistrationv1.NeverReinvocationPolicy,
			want: labelled("webhook", "")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, ns := inNamespace(t)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			var conditions []admissionregistrationv1.MatchCondition
			if tc.when != "" {
				conditions = []admissionregistrationv1.MatchCondition{{Name: "when", Expression: tc.when}}
			}
			config := admissionregistrationv1.WebhookClientConfig{URL: ptr.To(hook.URL + tc.path), CABundle: authority}
			none, versions := ptr.To(admissionregistrationv1.SideEffectClassNone), []string{"v1"}
			// A marker webhook of the same object tells when the caches have it.
			if tc.mutating {
				hooks := []admissionregistrationv1.MutatingWebhook{{Name: "a.example.com", ClientConfig: config, FailurePolicy: &tc.failure, SideEffects: none, AdmissionReviewVersions: versions,
					TimeoutSeconds: ptr.To[int32](1), NamespaceSelector: only(ns), Rules: []admissionregistrationv1.RuleWithOperations{creating("secrets")}}}
				if tc.again != "" {
					first := hooks[0]
					first.Name, first.ClientConfig.URL, first.ReinvocationPolicy = "first.example.com", ptr.To(hook.URL+saw), &tc.again
					hooks = slices.Insert(hooks, 0, first)
				}
				_, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.MutatingWebhookConfiguration{
					ObjectMeta: metav1.ObjectMeta{Name: ns},
					Webhooks:   hooks,
				}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
			} else {
				marker := admissionregistrationv1.ValidatingWebhook{Name: "marker.example.com", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To(hook.URL + no), CABundle: authority},
					SideEffects: none, AdmissionReviewVersions: versions, NamespaceSelector: only(ns), Rules: []admissionregistrationv1.RuleWithOperations{creating("configmaps")}}
				_, err := client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionregistrationv1.ValidatingWebhookConfiguration{
					ObjectMeta: metav1.ObjectMeta{Name: ns},
					Webhooks: []admissionregistrationv1.ValidatingWebhook{marker, {Name: "a.example.com", ClientConfig: config, FailurePolicy: &tc.failure, SideEffects: none, AdmissionReviewVersions: versions,
						TimeoutSeconds: ptr.To[int32](1), NamespaceSelector: only(ns), Rules: []admissionregistrationv1.RuleWithOperations{creating("secrets")}, MatchConditions: conditions}},
				}, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if err := soon(ctx, func() error {
					_, err := client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "m-"}}, metav1.CreateOptions{})
					return saysNo(err, "because I say so")
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := soon(ctx, func() error {
				return tc.want(client.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}}, metav1.CreateOptions{}))
			}); err != nil {
				t.Error(err)
			}
		})
	}
}

// labelled wants the labels two webhooks may have left.
func labelled(by, saw string) func(*corev1.Secret, error) error {
	return func(got *corev1.Secret, err error) error {
		if err == nil && (got.Labels["by"] != by || got.Labels["saw"] != saw) {
			err = fmt.Errorf("labels %v; want by %q, saw %q", got.Labels, by, saw)
		}
		return err
	}
}

func saysNo(err error, words string) error {
	if err == nil || !strings.Contains(err.Error(), words) {
		return fmt.Errorf("answer: %w; want %q", errOrNone(err), words)
	}
	return nil
}

func errWanted(err error) error {
	if err == nil {
		return errors.New("accepted")
	}
	return nil
}

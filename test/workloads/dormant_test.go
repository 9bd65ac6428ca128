package workloads_test

import (
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestTokensVouchForTheClusterUntilTheyExpire(t *testing.T) {
	create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-public", Name: "cluster-info"}, Data: map[string]string{"kubeconfig": "config"}})
	token := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-signing": "true"},
	}
	create(t, token)
	signed := func(want bool) {
		t.Helper()
		eventually(t, &corev1.ConfigMap{}, "kube-public", "cluster-info", "a signature", func(c *corev1.ConfigMap) bool {
			return (c.Data["jws-kubeconfig-abcdef"] != "") == want
		})
	}
	signed(true)
	token.StringData = map[string]string{"expiration": "2020-01-01T00:00:00Z"}
	if err := api.Update(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &corev1.Secret{}, token.Namespace, token.Name)
	signed(false)
}

func TestAServiceRangeStaysWhileItIsUsed(t *testing.T) {
	ns := newNamespace(t, "ranges")
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.99.0.0/28"}}}
	create(t, more)
	ready := func(want metav1.ConditionStatus) {
		t.Helper()
		eventually(t, &networkingv1.ServiceCIDR{}, "", "more", "ready "+string(want), func(c *networkingv1.ServiceCIDR) bool {
			return meta.IsStatusConditionPresentAndEqual(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady, want)
		})
	}
	ready(metav1.ConditionTrue)
	web := newService(ns, "web")
	web.Spec.ClusterIP = "10.99.0.7"
	create(t, web)
	if err := api.Delete(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	ready(metav1.ConditionFalse)
	other := newService(ns, "other")
	other.Spec.ClusterIP = "10.99.0.8"
	if err := api.Create(t.Context(), other); !apierrors.IsInvalid(err) {
		t.Errorf("an address of a range that is going: %v", err)
	}
	if err := api.Delete(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &networkingv1.ServiceCIDR{}, "", "more")
}

func TestClaimsAreMadeFromTemplatesAndGoWithTheirPods(t *testing.T) {
	ns := newNamespace(t, "devices")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}, Spec: corev1.PodSpec{
		SchedulerName:  "nobody",
		ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("big")}},
		Containers:     []corev1.Container{{Name: "c", Image: "runs", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu"}}}}},
	}}
	create(t, pod)
	create(t, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "big"}, Spec: resourcev1.ResourceClaimTemplateSpec{
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}}}}},
	}})
	var name string
	eventually(t, &corev1.Pod{}, ns, "web", "the name of its claim", func(p *corev1.Pod) bool {
		if len(p.Status.ResourceClaimStatuses) == 1 {
			name = *p.Status.ResourceClaimStatuses[0].ResourceClaimName
		}
		return name != ""
	})
	claim := &resourcev1.ResourceClaim{}
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, claim); err != nil || !metav1.IsControlledBy(claim, pod) {
		t.Fatalf("the pod's claim: %v, %+v", err, claim.OwnerReferences)
	}
	before := pod.DeepCopy()
	pod.Status.Phase = corev1.PodFailed
	if err := api.Status().Patch(t.Context(), pod, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, claim, ns, name)
}

func TestAStorageMigrationRewritesEveryObject(t *testing.T) {
	ns := newNamespace(t, "migration")
	create(t, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "kept"}, Data: map[string]string{"a": "b"}})
	for name, resource := range map[string]metav1.GroupResource{"known": {Resource: "configmaps"}, "soon": {Group: "stories.example.com", Resource: "tales"}} {
		create(t, &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: resource}})
	}
	ends := func(name string, with storagemigrationv1.MigrationConditionType) {
		t.Helper()
		eventually(t, &storagemigrationv1.StorageVersionMigration{}, "", name, string(with), func(m *storagemigrationv1.StorageVersionMigration) bool {
			return meta.IsStatusConditionTrue(m.Status.Conditions, string(with))
		})
	}
	ends("known", storagemigrationv1.MigrationSucceeded)
	create(t, &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": "tales.stories.example.com"},
		"spec": map[string]any{
			"group": "stories.example.com", "scope": "Namespaced", "names": map[string]any{"plural": "tales", "singular": "tale", "kind": "Tale", "listKind": "TaleList"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true, "schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object"}}}},
		},
	}})
	ends("soon", storagemigrationv1.MigrationSucceeded)
	kept := &corev1.ConfigMap{}
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "kept"}, kept); err != nil || kept.Data["a"] != "b" {
		t.Errorf("what was migrated: %v, %v", err, kept.Data)
	}
}

func TestPoliciesAreToldWhatTheirExpressionsMiss(t *testing.T) {
	create(t, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "typed"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
			RuleWithOperations: admissionregistrationv1.RuleWithOperations{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
			},
		}}},
		Validations: []admissionregistrationv1.Validation{{Expression: "object.spec.replicas > 1"}, {Expression: "object.spec.replicants > 1"}},
	}})
	eventually(t, &admissionregistrationv1.ValidatingAdmissionPolicy{}, "", "typed", "a warning", func(p *admissionregistrationv1.ValidatingAdmissionPolicy) bool {
		if p.Status.TypeChecking == nil {
			return false
		}
		warnings := p.Status.TypeChecking.ExpressionWarnings
		return p.Status.ObservedGeneration == p.Generation && len(warnings) == 1 && warnings[0].FieldRef == "spec.validations[1].expression" && strings.Contains(warnings[0].Warning, "replicants")
	})
}

func TestLoadBalancersGetAddressesOfThePool(t *testing.T) {
	ns := newNamespace(t, "balanced")
	balanced := func(name string) *corev1.Service {
		s := newService(ns, name)
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		return s
	}
	others := balanced("others")
	others.Spec.LoadBalancerClass = ptr.To("example.com/other")
	a, b := balanced("a"), balanced("b")
	for _, s := range []*corev1.Service{others, a, b} {
		create(t, s)
	}
	seen := map[string]bool{}
	for _, s := range []*corev1.Service{a, b} {
		eventually(t, &corev1.Service{}, ns, s.Name, "an address", func(s *corev1.Service) bool {
			if len(s.Status.LoadBalancer.Ingress) == 1 {
				seen[s.Status.LoadBalancer.Ingress[0].IP] = true
			}
			return len(s.Status.LoadBalancer.Ingress) == 1
		})
	}
	if len(seen) != 2 {
		t.Errorf("addresses %v", seen)
	}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(others), others); err != nil || len(others.Status.LoadBalancer.Ingress) != 0 {
		t.Errorf("a service of another class: %v, %v", err, others.Status.LoadBalancer)
	}
	if err := api.Delete(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &corev1.Service{}, ns, "a") // with its finalizer
}

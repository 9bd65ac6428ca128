package apiserver_test

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver"
	"knarr.dev/knarr/appliance/apiserver/servertest"
)

// admissionConfig is what an operator may say about plugins.
const admissionConfig = `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, warn: restricted, audit: restricted}
    exemptions: {namespaces: [free], usernames: [trusted], runtimeClasses: [vm]}
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources:
    - {resource: podtemplates, matchContains: [count/podtemplates]}
`

// TestAnotherConfiguration runs a server with what the usual one has nothing of: two address families, an admission configuration.
func TestAnotherConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "admission.yaml")
	if err := os.WriteFile(file, []byte(admissionConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	own, err := servertest.Start(dir, func(c *apiserver.Config) {
		c.AdmissionConfig = file
		c.EnablePlugins = []string{"AlwaysPullImages", "DenyServiceExternalIPs"}
		c.DisablePlugins = []string{"DefaultTolerationSeconds"}
		c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
	}()
	t.Run("pod security", func(t *testing.T) { podSecurityByFile(t, own) })
	t.Run("quotas that are needed", func(t *testing.T) {
		object := &corev1.PodTemplate{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Template: corev1.PodTemplateSpec{Spec: pod("").Spec}}
		_, err := clientFor(t, own.Admin()).CoreV1().PodTemplates("default").Create(within(t), object, forReal)
		if err := refused(err, "insufficient quota to consume: count/podtemplates"); err != nil {
			t.Error(err)
		}
	})
	t.Run("plugins turned on and off", func(t *testing.T) { pluginsTurnedOnAndOff(t, clientFor(t, own.Admin())) })
	t.Run("two address families", func(t *testing.T) { servicesOfTwoFamilies(t, clientFor(t, own.Admin())) })
}

func podSecurityByFile(t *testing.T, own *servertest.Server) {
	heard := &heardWarnings{}
	config := own.Admin()
	config.WarningHandler = heard
	administrator := clientFor(t, config)
	config = own.Admin()
	config.Impersonate.UserName, config.Impersonate.Groups = "trusted", []string{"system:masters"}
	trusted := clientFor(t, config)
	ctx := within(t)
	for _, namespace := range []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "usual"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "free"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "labelled", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "privileged"}}},
	} {
		if _, err := administrator.CoreV1().Namespaces().Create(ctx, namespace, forReal); err != nil {
			t.Fatal(err)
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := administrator.CoreV1().ServiceAccounts(namespace.Name).Create(ctx, account, forReal); err != nil {
			t.Fatal(err)
		}
	}
	privileged := pod("web")
	privileged.Spec.HostNetwork = true
	tests := map[string]struct {
		client    *kubernetes.Clientset
		namespace string
		pod       *corev1.Pod
		refused   string
	}{
		"the default level is kept to":                {client: administrator, namespace: "usual", pod: privileged, refused: `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`},
		"what keeps to it passes":                     {client: administrator, namespace: "usual", pod: pod("web")},
		"a namespace may be exempt":                   {client: administrator, namespace: "free", pod: privileged},
		"so may a user":                               {client: trusted, namespace: "usual", pod: privileged},
		"a label says more than the default":          {client: administrator, namespace: "labelled", pod: privileged},
		"a user who is not exempt is not free of all": {client: trusted, namespace: "free", pod: privileged},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := tc.client.CoreV1().Pods(tc.namespace).Create(ctx, tc.pod, try)
			if tc.refused == "" && err != nil {
				t.Error(err)
			}
			if tc.refused != "" {
				if err := refused(err, tc.refused); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if err := heard.about(`would violate PodSecurity "restricted:latest"`); err != nil {
		t.Error(err)
	}
}

func pluginsTurnedOnAndOff(t *testing.T, client *kubernetes.Clientset) {
	ctx := within(t)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := client.CoreV1().ServiceAccounts("default").Create(ctx, account, forReal); err != nil {
		t.Fatal(err)
	}
	web := pod("web")
	web.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
	switch got, err := client.CoreV1().Pods("default").Create(ctx, web, try); {
	case err != nil:
		t.Error(err)
	case got.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways:
		t.Errorf("AlwaysPullImages left %q", got.Spec.Containers[0].ImagePullPolicy)
	case len(got.Spec.Tolerations) > 0:
		t.Errorf("DefaultTolerationSeconds is off, and the pod tolerates %v", got.Spec.Tolerations)
	}
	svc := service("external")
	svc.Spec.ExternalIPs = []string{"192.0.2.1"}
	_, err := client.CoreV1().Services("default").Create(ctx, svc, forReal)
	if err := refused(err, "Use of external IPs is denied by admission control"); err != nil {
		t.Error(err)
	}
}

// servicesOfTwoFamilies follows services from one family to two and back (KEP-563).
func servicesOfTwoFamilies(t *testing.T, client *kubernetes.Clientset) {
	ctx := within(t)
	services := client.CoreV1().Services("default")
	both := service("both")
	both.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	got, err := services.Create(ctx, both, forReal)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}) || len(got.Spec.ClusterIPs) != 2 || got.Spec.ClusterIP != got.Spec.ClusterIPs[0] {
		t.Fatalf("families %v, addresses %v", got.Spec.IPFamilies, got.Spec.ClusterIPs)
	}
	for i, prefix := range []string{"10.43.0.0/16", "fd43::/112"} {
		if ip, err := netip.ParseAddr(got.Spec.ClusterIPs[i]); err != nil || !netip.MustParsePrefix(prefix).Contains(ip) {
			t.Errorf("address %q is not of %s", got.Spec.ClusterIPs[i], prefix)
		}
	}
	second := got.Spec.ClusterIPs[1]
	reserved := func() error {
		_, err := client.NetworkingV1().IPAddresses().Get(ctx, second, metav1.GetOptions{})
		return err
	}
	if err := reserved(); err != nil {
		t.Errorf("the second address: %v", err)
	}

	single := []byte(`{"spec":{"ipFamilyPolicy":"SingleStack"}}`)
	if got, err = services.Patch(ctx, "both", types.MergePatchType, single, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(got.Spec.ClusterIPs) != 1 || len(got.Spec.IPFamilies) != 1 {
		t.Errorf("a single-stack service has families %v, addresses %v", got.Spec.IPFamilies, got.Spec.ClusterIPs)
	}
	if err := reserved(); !apierrors.IsNotFound(err) {
		t.Errorf("the address it gave up: %v, want NotFound", err)
	}

	// A client that knows nothing of families replaces it; a later one asks for both again.
	plain := service("both")
	plain.ResourceVersion = got.ResourceVersion
	if got, err = services.Update(ctx, plain, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	require := []byte(`{"spec":{"ipFamilyPolicy":"RequireDualStack"}}`)
	was := got.Spec.ClusterIP
	if got, err = services.Patch(ctx, "both", types.MergePatchType, require, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if len(got.Spec.ClusterIPs) != 2 || got.Spec.ClusterIPs[0] != was {
		t.Errorf("addresses %v; the first should still be %s", got.Spec.ClusterIPs, was)
	}
	plain = service("both")
	plain.ResourceVersion = got.ResourceVersion
	if again, err := services.Update(ctx, plain, metav1.UpdateOptions{}); err != nil {
		t.Errorf("replaced by one who names no addresses: %v", err)
	} else if !slices.Equal(again.Spec.ClusterIPs, got.Spec.ClusterIPs) || *again.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack {
		t.Errorf("addresses %v, policy %s; want %v as before", again.Spec.ClusterIPs, *again.Spec.IPFamilyPolicy, got.Spec.ClusterIPs)
	}

	sixth := service("sixth")
	sixth.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
	if got, err := services.Create(ctx, sixth, forReal); err != nil || !strings.HasPrefix(got.Spec.ClusterIP, "fd43::") {
		t.Errorf("a service of the second family alone: %v, %q", err, got.Spec.ClusterIP)
	}
}

// TestServicesOfOneFamily is what becomes of wishes for two where there is one.
func TestServicesOfOneFamily(t *testing.T) {
	t.Parallel()
	client, ns := inNamespace(t)
	tests := map[string]struct {
		policy corev1.IPFamilyPolicy
		wrong  string
	}{
		"who prefers two gets one":       {policy: corev1.IPFamilyPolicyPreferDualStack},
		"who requires two is refused":    {policy: corev1.IPFamilyPolicyRequireDualStack, wrong: `spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		"who wants one gets exactly one": {policy: corev1.IPFamilyPolicySingleStack},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			svc := service("web")
			svc.Spec.IPFamilyPolicy = &tc.policy
			got, err := client.CoreV1().Services(ns).Create(context.Background(), svc, try)
			switch {
			case tc.wrong != "":
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("answer: %v, want %q", err, tc.wrong)
				}
			case err != nil:
				t.Error(err)
			case len(got.Spec.ClusterIPs) != 1 || *got.Spec.IPFamilyPolicy != tc.policy:
				t.Errorf("addresses %v, policy %s", got.Spec.ClusterIPs, *got.Spec.IPFamilyPolicy)
			}
		})
	}
}

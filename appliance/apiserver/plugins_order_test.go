package apiserver

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/server/options"

	"knarr.dev/knarr/appliance/apiserver/admission"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// TestPluginsComeInTheOrderOfKubernetes lists them as Kubernetes v1.37 does, with ours that are part of storing there.
func TestPluginsComeInTheOrderOfKubernetes(t *testing.T) {
	plugins, err := admission.Plugins(&resource.Env{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, plugin := range plugins {
		names = append(names, plugin.Name)
	}
	want := []string{
		"NamespaceLifecycle", "RBACEscalation", "LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "PodSecurity", "Priority",
		"DefaultTolerationSeconds", "DefaultStorageClass", "StorageObjectInUseProtection", "PersistentVolumeClaimResize", "RuntimeClass",
		"CertificateApproval", "CertificateSigning", "PodCertificateSigning", "ClusterTrustBundleAttest", "CertificateSubjectRestriction",
		"DefaultIngressClass", "PodTopologyLabels", "DeviceAdminAccess",
		"MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook", "ResourceQuota",
	}
	if diff := cmp.Diff(want, pluginOrder(options.NewAdmissionOptions().RecommendedPluginOrder, names)); diff != "" {
		t.Errorf("order (-Kubernetes +knarr):\n%s", diff)
	}
}

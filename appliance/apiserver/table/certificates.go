package table

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/subresource"
)

func certificates() []resource.Row {
	v1 := certificatesv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &certificatesv1.CertificateSigningRequest{}, List: &certificatesv1.CertificateSigningRequestList{}, Plural: "certificatesigningrequests", Hooks: resource.Erase(kinds.CertificateSigningRequest), Table: printing.CertificateSigningRequests(), Short: []string{"csr"}, Status: true, Subresources: map[string]resource.SubresourceFunc{"approval": subresource.Approval}},
		{In: v1, Object: &certificatesv1.ClusterTrustBundle{}, List: &certificatesv1.ClusterTrustBundleList{}, Plural: "clustertrustbundles", Table: printing.TrustBundles(), Hooks: resource.Erase(kinds.ClusterTrustBundle)},
		{In: v1, Object: &certificatesv1.PodCertificateRequest{}, List: &certificatesv1.PodCertificateRequestList{}, Plural: "podcertificaterequests", Table: printing.PodCertificates(), Hooks: resource.Erase(kinds.PodCertificateRequest), Namespaced: true, Status: true, TTL: 15 * time.Minute},
	}
}

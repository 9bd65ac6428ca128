package noderestriction

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/authz/node"
)

// pods on nodes are nearly all the plugin looks up.
type pods struct {
	node.Objects
	all []*corev1.Pod
}

func (p pods) PodsOn(_ context.Context, node string, _ bool) ([]*corev1.Pod, error) {
	var out []*corev1.Pod
	for _, pod := range p.all {
		if pod.Spec.NodeName == node {
			out = append(out, pod)
		}
	}
	return out, nil
}

// Account and Node have UIDs that tell what they are.
func (p pods) Account(_ context.Context, _, name string) (*corev1.ServiceAccount, error) {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("account-" + name)}}, nil
}

func (p pods) Node(_ context.Context, name string) (*corev1.Node, error) {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("node-" + name)}}, nil
}

func podOn(node, name string, change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: node},
	}
	if change != nil {
		change(pod)
	}
	return pod
}

func mirror(change func(*corev1.Pod)) *corev1.Pod {
	return podOn("alpha", "static", func(pod *corev1.Pod) {
		pod.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "alpha", UID: "n", Controller: ptr.To(true)}}
		if change != nil {
			change(pod)
		}
	})
}

func nodeWith(name string, change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if change != nil {
		change(n)
	}
	return n
}

func labelled(key, value string) *corev1.Node {
	return nodeWith("alpha", func(n *corev1.Node) { n.Labels = map[string]string{key: value} })
}

func tokenFor(pod string, uid types.UID, audiences ...string) *authenticationv1.TokenRequest {
	return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: audiences, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: uid},
	}}
}

func podCertificateFor(node types.NodeName, pod string, uid types.UID, account string) *certificatesv1.PodCertificateRequest {
	return &certificatesv1.PodCertificateRequest{Spec: certificatesv1.PodCertificateRequestSpec{
		NodeName: node, NodeUID: types.UID("node-" + node), PodName: pod, PodUID: uid, ServiceAccountName: account, ServiceAccountUID: types.UID("account-" + account),
	}}
}

func podCertificateWith(change func(*certificatesv1.PodCertificateRequestSpec)) *certificatesv1.PodCertificateRequest {
	request := podCertificateFor("alpha", "web", "web", "")
	change(&request.Spec)
	return request
}

func claim(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"}}
	change(c)
	return c
}

func certificateFor(t *testing.T, signer, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}),
	}}
}

func TestValidate(t *testing.T) {
	const (
		create = admission.Create
		update = admission.Update
		remove = admission.Delete
	)
	slice := func(node *string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{NodeName: node}}
	}
	lease := func(name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-node-lease"}}
	}
	grown := func(c *corev1.PersistentVolumeClaim) {
		c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}
	}
	tests := map[string]struct {
		user        *user.DefaultInfo // nil: node alpha
		operation   admission.Operation
		resource    string // resource[/subresource][.group]
		namespace   string
		name        string
		object, old runtime.Object
		err         string
	}{
		"a user is not restricted": {user: &user.DefaultInfo{Name: "ann"}, operation: create, resource: "pods", object: podOn("beta", "x", nil)},

		"makes a mirror pod":              {operation: create, resource: "pods", object: mirror(nil)},
		"makes no other pod":              {operation: create, resource: "pods", object: podOn("alpha", "x", nil), err: "may only create mirror pods"},
		"makes no mirror on another node": {operation: create, resource: "pods", object: mirror(func(p *corev1.Pod) { p.Spec.NodeName = "beta" }), err: "may only create pods on itself"},
		"makes no mirror nobody owns":     {operation: create, resource: "pods", object: mirror(func(p *corev1.Pod) { p.OwnerReferences = nil }), err: "that it owns"},
		"makes no mirror another node owns": {operation: create, resource: "pods", object: mirror(func(p *corev1.Pod) {
			p.OwnerReferences[0].Name = "beta"
		}), err: "that it owns"},
		"makes no mirror with an account": {operation: create, resource: "pods", object: mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "admin" }), err: "service account"},
		"makes no mirror with a secret": {operation: create, resource: "pods", object: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "x"}}}}
		}), err: "secrets or config maps"},
		"makes no mirror with a claim": {operation: create, resource: "pods", object: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "x"}}}}
		}), err: "claims"},
		"makes a mirror with an empty folder": {operation: create, resource: "pods", object: mirror(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		})},
		"deletes its pod":         {operation: remove, resource: "pods", old: podOn("alpha", "x", nil)},
		"deletes no other's pod":  {operation: remove, resource: "pods", old: podOn("beta", "x", nil), err: "may only delete pods on itself"},
		"updates no pod":          {operation: update, resource: "pods", object: podOn("alpha", "x", nil), old: podOn("alpha", "x", nil), err: "may only create and delete"},
		"binds no pod":            {operation: create, resource: "pods/binding", err: "may not write pods/binding"},
		"reports a status":        {operation: update, resource: "pods/status", object: podOn("alpha", "x", nil), old: podOn("alpha", "x", nil)},
		"reports no other's":      {operation: update, resource: "pods/status", object: podOn("alpha", "x", nil), old: podOn("beta", "x", nil), err: "on itself"},
		"reports none unbound":    {operation: update, resource: "pods/status", object: podOn("alpha", "x", nil), old: podOn("", "x", nil), err: "on itself"},
		"changes no pod's labels": {operation: update, resource: "pods/status", object: podOn("alpha", "x", func(p *corev1.Pod) { p.Labels = nil }), old: podOn("alpha", "x", nil), err: "labels"},
		"evicts its pod":          {operation: create, resource: "pods/eviction", namespace: "shop", name: "web", object: &policyv1.Eviction{}},
		"evicts no other's pod":   {operation: create, resource: "pods/eviction", namespace: "shop", name: "other", object: &policyv1.Eviction{}, err: "may only evict pods on itself"},

		"registers":                       {operation: create, resource: "nodes", object: nodeWith("alpha", nil)},
		"registers with taints":           {operation: create, resource: "nodes", object: nodeWith("alpha", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}} })},
		"registers no other":              {operation: create, resource: "nodes", object: nodeWith("beta", nil), err: "its own node"},
		"labels its zone":                 {operation: create, resource: "nodes", object: labelled("topology.kubernetes.io/zone", "a")},
		"labels its host name":            {operation: create, resource: "nodes", object: labelled("kubernetes.io/hostname", "alpha")},
		"labels in a kubelet's space":     {operation: create, resource: "nodes", object: labelled("node.kubernetes.io/disk", "fast")},
		"labels in a space of its own":    {operation: create, resource: "nodes", object: labelled("example.com/disk", "fast")},
		"labels without a space":          {operation: create, resource: "nodes", object: labelled("disk", "fast")},
		"labels no restriction":           {operation: create, resource: "nodes", object: labelled("node-restriction.kubernetes.io/team", "a"), err: "node-restriction.kubernetes.io/team"},
		"labels no restriction below it":  {operation: create, resource: "nodes", object: labelled("x.node-restriction.kubernetes.io/team", "a"), err: "may not set these labels"},
		"labels no role":                  {operation: create, resource: "nodes", object: labelled("node-role.kubernetes.io/control-plane", ""), err: "may not set these labels"},
		"keeps a role others gave":        {operation: update, resource: "nodes", object: labelled("node-role.kubernetes.io/x", ""), old: labelled("node-role.kubernetes.io/x", "")},
		"takes no role away":              {operation: update, resource: "nodes", object: nodeWith("alpha", nil), old: labelled("node-role.kubernetes.io/x", ""), err: "may not set these labels"},
		"reports its status":              {operation: update, resource: "nodes/status", object: nodeWith("alpha", nil), old: nodeWith("alpha", nil)},
		"changes no taints":               {operation: update, resource: "nodes", object: nodeWith("alpha", nil), old: nodeWith("alpha", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}} }), err: "taints"},
		"gets a token for its pod":        {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: tokenFor("web", "web")},
		"gets one for the API server":     {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: tokenFor("web", "web", "api")},
		"gets one the pod asks for":       {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: tokenFor("web", "web", "vault")},
		"gets none the pod does not name": {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: tokenFor("web", "web", "bank"), err: `audience "bank"`},
		"gets none for another's pod":     {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: tokenFor("other", "other"), err: "for pods on itself"},
		"gets none for a pod replaced":    {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: tokenFor("web", "old"), err: "took that name"},
		"gets none unbound":               {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: &authenticationv1.TokenRequest{}, err: "bound to a pod"},
		"gets none without a uid":         {operation: create, resource: "serviceaccounts/token", namespace: "shop", name: "web", object: tokenFor("web", ""), err: "bound to a pod"},

		"makes its lease":           {operation: create, resource: "leases.coordination.k8s.io", namespace: "kube-node-lease", object: lease("alpha")},
		"makes no other's lease":    {operation: create, resource: "leases.coordination.k8s.io", namespace: "kube-node-lease", object: lease("beta"), err: "its own lease"},
		"makes no lease elsewhere":  {operation: create, resource: "leases.coordination.k8s.io", namespace: "kube-system", object: lease("alpha"), err: "its own lease"},
		"makes its CSINode":         {operation: create, resource: "csinodes.storage.k8s.io", object: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "alpha"}}},
		"makes no other's CSINode":  {operation: create, resource: "csinodes.storage.k8s.io", object: &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "beta"}}, err: "its own CSINode"},
		"makes a slice of itself":   {operation: create, resource: "resourceslices.resource.k8s.io", object: slice(ptr.To("alpha"))},
		"makes no slice of others":  {operation: create, resource: "resourceslices.resource.k8s.io", object: slice(ptr.To("beta")), err: "of itself"},
		"makes no slice of all":     {operation: create, resource: "resourceslices.resource.k8s.io", object: slice(nil), err: "of itself"},
		"reports a volume's growth": {operation: update, resource: "persistentvolumeclaims/status", object: claim(grown), old: claim(func(*corev1.PersistentVolumeClaim) {})},
		"changes nothing else of a claim": {operation: update, resource: "persistentvolumeclaims/status", object: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "x" }),
			old: claim(func(*corev1.PersistentVolumeClaim) {}), err: "capacity and conditions"},

		"asks for its certificate":          {operation: create, resource: "certificatesigningrequests.certificates.k8s.io", object: certificateFor(t, certificatesv1.KubeletServingSignerName, "system:node:alpha")},
		"asks for no other's":               {operation: create, resource: "certificatesigningrequests.certificates.k8s.io", object: certificateFor(t, certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:beta"), err: "system:node:alpha"},
		"asks signers for its pods":         {operation: create, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop", object: podCertificateFor("alpha", "web", "web", "")},
		"asks signers for no other pod":     {operation: create, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop", object: podCertificateFor("alpha", "other", "other", ""), err: "pods on itself"},
		"asks signers for no other node's":  {operation: create, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop", object: podCertificateFor("beta", "web", "web", ""), err: "pods on itself"},
		"asks signers for no pod of before": {operation: create, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop", object: podCertificateFor("alpha", "web", "old", ""), err: "another took that name"},
		"asks signers in no other's name":   {operation: create, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop", object: podCertificateFor("alpha", "web", "web", "boss"), err: "which pod web does not run as"},
		"asks signers for no account of before": {operation: create, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop",
			object: podCertificateWith(func(s *certificatesv1.PodCertificateRequestSpec) { s.ServiceAccountUID = "old" }), err: "service account , but another took that name"},
		"asks signers for no node of before": {operation: create, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop",
			object: podCertificateWith(func(s *certificatesv1.PodCertificateRequestSpec) { s.NodeUID = "old" }), err: "a node of its name that is gone"},
		"answers for no signer":       {operation: update, resource: "podcertificaterequests.certificates.k8s.io", namespace: "shop", object: podCertificateFor("alpha", "web", "web", ""), err: "may only create"},
		"asks other signers anything": {operation: create, resource: "certificatesigningrequests.certificates.k8s.io", object: certificateFor(t, "example.com/x", "system:node:beta")},
	}
	plugin := New(pods{all: []*corev1.Pod{
		podOn("alpha", "web", func(pod *corev1.Pod) {
			pod.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}}},
			}}}}
		}),
		podOn("beta", "other", nil),
	}}, []string{"api"})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			u := tc.user
			if u == nil {
				u = &user.DefaultInfo{Name: "system:node:alpha", Groups: []string{"system:nodes"}}
			}
			resource, group, _ := strings.Cut(tc.resource, ".")
			resource, subresource, _ := strings.Cut(resource, "/")
			err := plugin.Validate(t.Context(), admission.NewAttributesRecord(tc.object, tc.old, schema.GroupVersionKind{}, tc.namespace, tc.name,
				schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}, subresource, tc.operation, nil, false, u), nil)
			if tc.err == "" && err != nil || tc.err != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("Validate() = %v; want %q", err, tc.err)
			}
		})
	}
}

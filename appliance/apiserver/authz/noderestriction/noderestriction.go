// Package noderestriction refuses what a node may not put into the objects it may write.
//
// In:       writes by system:node:NAME, with the object before and after.
// Out:      nothing, or a refusal that says what a node may do instead.
// Promise:  a node changes itself, its lease and the pods on it, and labels that decide where pods run are not its own to set.
// Not here: which objects a node may reach at all (appliance/apiserver/authz/node).
package noderestriction

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"knarr.dev/knarr/appliance/apiserver/authz/node"
	"knarr.dev/knarr/bootstrap/pki"
)

// PluginName is how the API server's list of admission plugins calls Plugin.
const PluginName = "NodeRestriction"

// Objects are what runs on nodes, and who: signers believe what a request says of both.
type Objects interface {
	node.Objects
	Account(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// Plugin checks objects as they would be stored, after everything that could still change them.
type Plugin struct {
	objects   Objects
	audiences []string
}

var _ admission.ValidationInterface = (*Plugin)(nil)

// New looks pods up where a request names one without bringing it along. audiences are the API server's own, for which
// every pod may have a token.
func New(objects Objects, audiences []string) *Plugin {
	return &Plugin{objects: objects, audiences: audiences}
}

// Factory registers the plugin.
func (p *Plugin) Factory() admission.Factory {
	return func(io.Reader) (admission.Interface, error) { return p, nil }
}

// Handles says which writes the plugin wants to see.
func (p *Plugin) Handles(operation admission.Operation) bool { return operation != admission.Connect }

// Validate refuses what is not a node's to write.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name, ok := node.Name(a.GetUserInfo())
	if !ok {
		return nil
	}
	w := write{
		node: name, audiences: p.audiences,
		name: a.GetName(), namespace: a.GetNamespace(), operation: a.GetOperation(), object: a.GetObject(), old: a.GetOldObject(),
	}
	resource := a.GetResource().GroupResource().String()
	if a.GetSubresource() != "" {
		resource = a.GetResource().Resource + "/" + a.GetSubresource()
	}
	w.account = func(name string) (*corev1.ServiceAccount, error) { return p.objects.Account(ctx, w.namespace, name) }
	w.itsNode = func() (*corev1.Node, error) { return p.objects.Node(ctx, w.node) }
	w.onThisNode = func(namespace, name string) (*corev1.Pod, error) {
		pods, err := p.objects.PodsOn(ctx, w.node, true)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(pods, func(pod *corev1.Pod) bool { return pod.Namespace == namespace && pod.Name == name })
		if i < 0 {
			return nil, nil
		}
		return pods[i], nil
	}
	reason, err := w.judge(resource)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("check a write of node %s: %w", name, err))
	}
	if reason == "" {
		return nil
	}
	return admission.NewForbidden(a, fmt.Errorf("node %q %s", name, reason))
}

// write is what a node wants to store.
type write struct {
	node            string
	audiences       []string
	namespace, name string // of the request; a new object may bring its name itself
	operation       admission.Operation
	object, old     runtime.Object
	onThisNode      func(namespace, name string) (*corev1.Pod, error)
	account         func(name string) (*corev1.ServiceAccount, error)
	itsNode         func() (*corev1.Node, error)
}

// judge returns why a write is refused, "" when it is not.
func (w *write) judge(resource string) (reason string, err error) {
	switch resource {
	case "pods":
		return w.pod(), nil
	case "pods/status":
		return w.podStatus(), nil
	case "pods/eviction":
		return w.eviction()
	case "pods/binding", "pods/ephemeralcontainers", "pods/resize":
		return "may not write " + resource, nil
	case "persistentvolumeclaims/status":
		return w.claimStatus(), nil
	case "nodes", "nodes/status":
		return w.itself(), nil
	case "serviceaccounts/token":
		return w.token()
	case "leases.coordination.k8s.io":
		return w.lease(), nil
	case "csinodes.storage.k8s.io":
		return w.csiNode(), nil
	case "resourceslices.resource.k8s.io":
		return w.slice(), nil
	case "certificatesigningrequests.certificates.k8s.io":
		return w.request(), nil
	case "podcertificaterequests.certificates.k8s.io":
		return w.podCertificate()
	}
	return "", nil
}

// pod: a node shows the API what it runs of its own accord, and removes what has ended. It does not make work.
func (w *write) pod() string {
	if w.operation == admission.Delete {
		return w.boundHere(w.old, "may only delete pods")
	}
	pod, ok := w.object.(*corev1.Pod)
	if w.operation != admission.Create || !ok {
		return "may only create and delete pods"
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; !mirror {
		return fmt.Sprintf("may only create mirror pods, which have the annotation %s", corev1.MirrorPodAnnotationKey)
	}
	owner := metav1.GetControllerOf(pod)
	switch {
	case pod.Spec.NodeName != w.node:
		return "may only create pods on itself"
	case len(pod.OwnerReferences) != 1 || owner == nil || owner.Kind != "Node" || owner.Name != w.node:
		return "may only create pods that it owns as their controller"
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return "may not create pods that keep it from being deleted"
	case pod.Spec.ServiceAccountName != "":
		return "may not create pods with a service account"
	case len(node.Claims(pod)) > 0 || len(pod.Spec.ResourceClaims) > 0:
		return "may not create pods with claims"
	case node.NamesObjects(pod):
		return "may not create pods with secrets or config maps"
	}
	return ""
}

// boundHere refuses pods of other nodes.
func (w *write) boundHere(object runtime.Object, what string) string {
	if pod, ok := object.(*corev1.Pod); ok && pod.Spec.NodeName == w.node {
		return ""
	}
	return what + " on itself"
}

func (w *write) podStatus() string {
	if reason := w.boundHere(w.old, "may only update the status of pods"); reason != "" {
		return reason
	}
	before, after := w.old.(*corev1.Pod), w.object
	pod, ok := after.(*corev1.Pod)
	switch {
	case !ok:
		return "may only write pods into the status of pods"
	case !maps.Equal(before.Labels, pod.Labels):
		return "may not change labels through a pod's status"
	case !apiequality.Semantic.DeepEqual(before.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses):
		return "may not change the resource claims of a pod"
	}
	return ""
}

func (w *write) eviction() (string, error) {
	name := w.name
	if eviction, ok := w.object.(*policyv1.Eviction); ok && name == "" {
		name = eviction.Name
	}
	pod, err := w.onThisNode(w.namespace, name)
	if err != nil {
		return "", err
	}
	if pod == nil {
		return "may only evict pods on itself", nil
	}
	return "", nil
}

// claimStatus: a node reports how far a volume has grown, nothing else.
func (w *write) claimStatus() string {
	before, okBefore := w.old.(*corev1.PersistentVolumeClaim)
	after, okAfter := w.object.(*corev1.PersistentVolumeClaim)
	if !okBefore || !okAfter {
		return "may only update the status of claims"
	}
	// Compared with everything it may change made the same.
	before, after = before.DeepCopy(), after.DeepCopy()
	for _, claim := range []*corev1.PersistentVolumeClaim{before, after} {
		claim.ResourceVersion, claim.ManagedFields, claim.Generation = "", nil, 0
		claim.Status.Capacity, claim.Status.Conditions, claim.Status.AllocatedResourceStatuses = nil, nil, nil
		claim.Status.ModifyVolumeStatus = nil
	}
	if !apiequality.Semantic.DeepEqual(before, after) {
		return "may only change capacity and conditions of a claim"
	}
	return ""
}

// itself: a node describes itself, but where pods may run is decided by labels and taints others rely on.
func (w *write) itself() string {
	n, ok := w.object.(*corev1.Node)
	if w.operation == admission.Delete {
		n, ok = w.old.(*corev1.Node)
	}
	if !ok || n.Name != w.node {
		return "may only write its own node"
	}
	old, _ := w.old.(*corev1.Node)
	if old == nil {
		old = &corev1.Node{}
	}
	if labels := foreignLabels(old.Labels, n.Labels); len(labels) > 0 && w.operation != admission.Delete {
		return fmt.Sprintf("may not set these labels of its node: %s", strings.Join(labels, ", "))
	}
	if w.operation != admission.Update {
		return ""
	}
	switch {
	case !apiequality.Semantic.DeepEqual(old.Spec.Taints, n.Spec.Taints):
		return "may not change the taints of its node"
	case !apiequality.Semantic.DeepEqual(old.OwnerReferences, n.OwnerReferences):
		return "may not change the owners of its node"
	}
	return ""
}

// foreignLabels are the changed ones that belong to Kubernetes and are not among those a node sets.
func foreignLabels(before, after map[string]string) []string {
	var foreign []string
	for key := range maps.Keys(union(before, after)) {
		old, had := before[key]
		value, has := after[key]
		if had == has && old == value {
			continue
		}
		namespace, _, qualified := strings.Cut(key, "/")
		if !qualified {
			continue
		}
		restricted := within(namespace, "node-restriction.kubernetes.io")
		reserved := within(namespace, "kubernetes.io") || within(namespace, "k8s.io")
		if restricted || reserved && !kubeletapis.IsKubeletLabel(key) {
			foreign = append(foreign, key)
		}
	}
	slices.Sort(foreign)
	return foreign
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return all
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

// token: a node gets tokens for the pods it runs, for the audiences those name.
func (w *write) token() (string, error) {
	request, ok := w.object.(*authenticationv1.TokenRequest)
	if !ok {
		return "may only request tokens", nil
	}
	ref := request.Spec.BoundObjectRef
	if ref == nil || ref.Kind != "Pod" || ref.APIVersion != "v1" || ref.Name == "" || ref.UID == "" {
		return "may only request tokens bound to a pod by name and uid", nil
	}
	pod, err := w.onThisNode(w.namespace, ref.Name)
	if err != nil {
		return "", err
	}
	switch {
	case pod == nil:
		return "may only request tokens for pods on itself", nil
	case pod.UID != ref.UID:
		return fmt.Sprintf("requested a token for pod %s, but another took that name", ref.Name), nil
	}
	for _, audience := range request.Spec.Audiences {
		if !slices.Contains(w.audiences, audience) && !asksFor(pod, audience) {
			return fmt.Sprintf("may not request a token for audience %q, which pod %s does not name", audience, ref.Name), nil
		}
	}
	return "", nil
}

// asksFor reports whether a pod's volumes want a token for an audience. What a CSI driver wants is written in its
// CSIDriver, so a pod with such volumes may get any.
func asksFor(pod *corev1.Pod, audience string) bool {
	for _, v := range pod.Spec.Volumes {
		if v.CSI != nil || v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return true
		}
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if source.ServiceAccountToken != nil && source.ServiceAccountToken.Audience == audience {
				return true
			}
		}
	}
	return false
}

// podCertificate: a node asks signers for the pods it runs, as whom they run.
func (w *write) podCertificate() (string, error) {
	request, ok := w.object.(*certificatesv1.PodCertificateRequest)
	if w.operation != admission.Create || !ok {
		return "may only create requests for certificates of pods", nil
	}
	pod, err := w.onThisNode(w.namespace, request.Spec.PodName)
	if err != nil {
		return "", err
	}
	switch {
	case string(request.Spec.NodeName) != w.node || pod == nil:
		return "may only request certificates for pods on itself", nil
	case pod.UID != request.Spec.PodUID:
		return fmt.Sprintf("requested a certificate for pod %s, but another took that name", pod.Name), nil
	case pod.Spec.ServiceAccountName != request.Spec.ServiceAccountName:
		return fmt.Sprintf("may not request a certificate for service account %s, which pod %s does not run as", request.Spec.ServiceAccountName, pod.Name), nil
	case pod.Annotations[corev1.MirrorPodAnnotationKey] != "":
		return "may not request certificates for mirror pods", nil
	}
	account, err := w.account(request.Spec.ServiceAccountName)
	if err != nil {
		return "", err
	}
	itself, err := w.itsNode()
	switch {
	case err != nil:
		return "", err
	case account.UID != request.Spec.ServiceAccountUID:
		return fmt.Sprintf("requested a certificate for service account %s, but another took that name", account.Name), nil
	case itself.UID != request.Spec.NodeUID:
		return "requested a certificate for a node of its name that is gone", nil
	}
	return "", nil
}

func (w *write) lease() string {
	name := w.name
	if lease, ok := w.object.(*coordinationv1.Lease); ok {
		name = lease.Name
	}
	if w.namespace != corev1.NamespaceNodeLease || name != w.node {
		return fmt.Sprintf("may only write its own lease in %s", corev1.NamespaceNodeLease)
	}
	return ""
}

func (w *write) csiNode() string {
	name := w.name
	if csi, ok := w.object.(*storagev1.CSINode); ok {
		name = csi.Name
	}
	if name != w.node {
		return "may only write its own CSINode"
	}
	return ""
}

func (w *write) slice() string {
	for _, object := range []runtime.Object{w.object, w.old} {
		slice, ok := object.(*resourcev1.ResourceSlice)
		if ok && (slice.Spec.NodeName == nil || *slice.Spec.NodeName != w.node) {
			return "may only write resource slices of itself"
		}
	}
	return ""
}

// request: a node asks for certificates in its own name only.
func (w *write) request() string {
	request, ok := w.object.(*certificatesv1.CertificateSigningRequest)
	if !ok || request.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName && request.Spec.SignerName != certificatesv1.KubeletServingSignerName {
		return ""
	}
	block, _ := pem.Decode(request.Spec.Request)
	if block == nil {
		return "sent a request that is not PEM"
	}
	parsed, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return "sent a request that cannot be read"
	}
	if parsed.Subject.CommonName != pki.NodeUserPrefix+w.node {
		return fmt.Sprintf("may only request certificates for %s%s", pki.NodeUserPrefix, w.node)
	}
	return ""
}

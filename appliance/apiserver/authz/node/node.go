// Package node decides what a node may read and write: what its own pods need, and nothing of other nodes.
//
// In:       requests of system:node:NAME in group system:nodes, and the pods on that node.
// Out:      allow, or no opinion, so that bindings can add to it (netstack's reads are granted that way).
// Promise:  a stolen node certificate opens the secrets of that node's pods, not those of the cluster.
// Not here: what a node may put into the objects it may write (appliance/apiserver/authz/noderestriction).
package node

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/appliance/apiserver/authz/rbac"
	"knarr.dev/knarr/bootstrap/pki"
)

// Name returns the node a user is, if it is one.
func Name(u user.Info) (node string, ok bool) {
	if u == nil || !slices.Contains(u.GetGroups(), pki.NodesGroup) {
		return "", false
	}
	node, ok = strings.CutPrefix(u.GetName(), pki.NodeUserPrefix)
	return node, ok && node != ""
}

// Authorizer decides about nodes.
type Authorizer struct {
	authorizer.AuthorizerFunc
	objects Objects
}

// New decides by what runs on a node.
func New(objects Objects) *Authorizer {
	a := &Authorizer{objects: objects}
	a.AuthorizerFunc = a.decide
	return a
}

const core = corev1.GroupName

// Rules are what every node may do, whichever it is.
var Rules = []rbacv1.PolicyRule{
	{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"tokenreviews"}, Verbs: []string{"create"}},
	{APIGroups: []string{"authorization.k8s.io"}, Resources: []string{"subjectaccessreviews", "localsubjectaccessreviews"}, Verbs: []string{"create"}},
	{APIGroups: []string{core}, Resources: []string{"services"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{core, "events.k8s.io"}, Resources: []string{"events"}, Verbs: []string{"create", "update", "patch"}},
	{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"certificatesigningrequests"}, Verbs: []string{"create", "get", "list", "watch"}},
	{APIGroups: []string{"certificates.k8s.io"}, Resources: []string{"clustertrustbundles"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{"node.k8s.io"}, Resources: []string{"runtimeclasses"}, Verbs: []string{"get", "list", "watch"}},
	{APIGroups: []string{"storage.k8s.io"}, Resources: []string{"csidrivers"}, Verbs: []string{"get", "list", "watch"}},
	// Which pods and which node is for noderestriction, which sees the objects.
	{APIGroups: []string{core}, Resources: []string{"nodes"}, Verbs: []string{"create"}},
	{APIGroups: []string{core}, Resources: []string{"pods"}, Verbs: []string{"create", "delete"}},
	{APIGroups: []string{core}, Resources: []string{"pods/status"}, Verbs: []string{"update", "patch"}},
	{APIGroups: []string{core}, Resources: []string{"pods/eviction"}, Verbs: []string{"create"}},
	{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceslices"}, Verbs: []string{"create", "update", "patch", "delete"}},
}

func (a *Authorizer) decide(ctx context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	node, ok := Name(request.GetUser())
	if !ok || !request.IsResourceRequest() {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if slices.ContainsFunc(Rules, func(rule rbacv1.PolicyRule) bool { return rbac.Allows(&rule, request) }) || own(node, request) {
		return authorizer.DecisionAllow, "", nil
	}
	related := relation(request)
	if related == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	// A pod that was bound a moment ago is missing in an old look: then the answer is worth a fresh one.
	for _, fresh := range []bool{false, true} {
		found, err := related(ctx, a.objects, node, fresh)
		if err != nil {
			return authorizer.DecisionNoOpinion, "", fmt.Errorf("relate node %s to %s %s: %w", node, request.GetResource(), request.GetName(), err)
		}
		if found {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, fmt.Sprintf("no relationship found between node %q and this object", node), nil
}

// own reports whether a request is for what belongs to the node by its name.
func own(node string, request authorizer.Attributes) bool {
	verb, named := request.GetVerb(), request.GetName() == node
	switch what(request) {
	case "nodes":
		return named && slices.Contains([]string{"get", "list", "watch", "update", "patch"}, verb)
	case "nodes/status":
		return named && (verb == "update" || verb == "patch")
	case "pods":
		return (verb == "list" || verb == "watch") && selects(request, "spec.nodeName", node)
	case "leases.coordination.k8s.io":
		if request.GetNamespace() != corev1.NamespaceNodeLease {
			return false
		}
		// The name of a new object is in its body, which noderestriction sees.
		return verb == "create" || named && slices.Contains([]string{"get", "update", "patch", "delete"}, verb)
	case "csinodes.storage.k8s.io":
		return verb == "create" || named && slices.Contains([]string{"get", "update", "patch", "delete"}, verb)
	case "podcertificaterequests.certificates.k8s.io":
		// For which pod is in the body, which noderestriction sees.
		return verb == "create" || (verb == "list" || verb == "watch") && selects(request, "spec.nodeName", node)
	case "resourceslices.resource.k8s.io":
		return slices.Contains([]string{"get", "list", "watch", "deletecollection"}, verb) && selects(request, "spec.nodeName", node)
	}
	return false
}

// what is resource[/subresource][.group].
func what(request authorizer.Attributes) string {
	name := request.GetResource()
	if request.GetSubresource() != "" {
		name += "/" + request.GetSubresource()
	}
	if request.GetAPIGroup() != core {
		name += "." + request.GetAPIGroup()
	}
	return name
}

// selects reports whether a request is narrowed to one value of a field.
func selects(request authorizer.Attributes, field, value string) bool {
	requirements, err := request.GetFieldSelector()
	if err != nil {
		return false // what cannot be read narrows nothing
	}
	for _, r := range requirements {
		if r.Field == field && r.Value == value && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) {
			return true
		}
	}
	return false
}

// related tells whether a node needs an object.
type related func(ctx context.Context, objects Objects, node string, fresh bool) (bool, error)

// relation is how the object of a request would have to be related to the node; nil: in no way.
func relation(request authorizer.Attributes) related {
	verb, namespace, name := request.GetVerb(), request.GetNamespace(), request.GetName()
	if name == "" {
		if what(request) == "pods" && (verb == "list" || verb == "watch") {
			return whilePolicies
		}
		return nil
	}
	reads := verb == "get" || verb == "list" || verb == "watch"
	inPods := func(uses func(*corev1.Pod) bool) related { return inPods(namespace, uses) }
	switch what(request) {
	case "pods":
		if verb == "get" {
			return inPods(func(pod *corev1.Pod) bool { return pod.Name == name })
		}
	case "configmaps":
		if reads {
			return inPods(func(pod *corev1.Pod) bool { return usesConfigMap(pod, name) })
		}
	case "secrets":
		if reads {
			return either(
				inPods(func(pod *corev1.Pod) bool { return usesSecret(pod, name) }),
				inVolumes(func(volume *corev1.PersistentVolume) bool {
					return slices.Contains(volumeSecrets(volume), corev1.SecretReference{Namespace: namespace, Name: name})
				}),
			)
		}
	case "serviceaccounts":
		if verb == "get" {
			return inPods(func(pod *corev1.Pod) bool { return pod.Spec.ServiceAccountName == name })
		}
	case "serviceaccounts/token":
		if verb == "create" {
			return inPods(func(pod *corev1.Pod) bool { return pod.Spec.ServiceAccountName == name })
		}
	case "persistentvolumeclaims":
		if verb == "get" {
			return inPods(func(pod *corev1.Pod) bool { return slices.Contains(Claims(pod), name) })
		}
	case "persistentvolumeclaims/status":
		if verb == "get" || verb == "update" || verb == "patch" {
			return inPods(func(pod *corev1.Pod) bool { return slices.Contains(Claims(pod), name) })
		}
	case "persistentvolumes":
		if verb == "get" {
			return inVolumes(func(volume *corev1.PersistentVolume) bool { return volume.Name == name })
		}
	case "volumeattachments.storage.k8s.io":
		if verb == "get" {
			return attachedTo(name)
		}
	case "resourceclaims.resource.k8s.io":
		if verb == "get" {
			return inPods(func(pod *corev1.Pod) bool { return usesResourceClaim(pod, name) })
		}
	}
	return nil
}

// whilePolicies lets a node see the pods of others as long as there are network policies, which are about pods
// anywhere and are enforced on every node. A cluster without them tells its nodes less.
func whilePolicies(ctx context.Context, objects Objects, _ string, fresh bool) (bool, error) {
	return objects.AnyNetworkPolicy(ctx, fresh)
}

func either(first, second related) related {
	return func(ctx context.Context, objects Objects, node string, fresh bool) (bool, error) {
		found, err := first(ctx, objects, node, fresh)
		if found || err != nil {
			return found, err
		}
		return second(ctx, objects, node, fresh)
	}
}

func inPods(namespace string, uses func(*corev1.Pod) bool) related {
	return func(ctx context.Context, objects Objects, node string, fresh bool) (bool, error) {
		pods, err := objects.PodsOn(ctx, node, fresh)
		if err != nil {
			return false, err
		}
		return slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return pod.Namespace == namespace && uses(pod) }), nil
	}
}

// inVolumes asks about the persistent volumes that the claims of the node's pods are bound to.
func inVolumes(uses func(*corev1.PersistentVolume) bool) related {
	return func(ctx context.Context, objects Objects, node string, fresh bool) (bool, error) {
		pods, err := objects.PodsOn(ctx, node, fresh)
		if err != nil {
			return false, err
		}
		for _, pod := range pods {
			for _, name := range Claims(pod) {
				volume, err := boundVolume(ctx, objects, pod.Namespace, name)
				if err != nil {
					return false, err
				}
				if volume != nil && uses(volume) {
					return true, nil
				}
			}
		}
		return false, nil
	}
}

// boundVolume is the volume of a claim, if both say so: a claim's author must not choose whose volume it reads.
func boundVolume(ctx context.Context, objects Objects, namespace, name string) (*corev1.PersistentVolume, error) {
	claim, err := objects.Claim(ctx, namespace, name)
	if apierrors.IsNotFound(err) || err == nil && claim.Spec.VolumeName == "" {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	volume, err := objects.Volume(ctx, claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.Namespace != namespace || ref.Name != name || ref.UID != "" && ref.UID != claim.UID {
		return nil, nil
	}
	return volume, nil
}

func attachedTo(name string) related {
	return func(ctx context.Context, objects Objects, node string, _ bool) (bool, error) {
		attachment, err := objects.Attachment(ctx, name)
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && attachment.Spec.NodeName == node, err
	}
}

package baseline

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"knarr.dev/knarr/appliance/apiserver/authz/node"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/bootstrap/token"
)

// The API groups rules name.
const (
	core           = ""
	apps           = "apps"
	authentication = "authentication.k8s.io"
	authorization  = "authorization.k8s.io"
	autoscaling    = "autoscaling"
	batch          = "batch"
	certificates   = "certificates.k8s.io"
	coordination   = "coordination.k8s.io"
	discovery      = "discovery.k8s.io"
	events         = "events.k8s.io"
	extensions     = "extensions"
	metrics        = "metrics.k8s.io"
	networking     = "networking.k8s.io"
	policy         = "policy"
	rbacGroup      = rbacv1.GroupName
	resources      = "resource.k8s.io"
	storage        = "storage.k8s.io"
)

type verbs []string

var (
	read      = verbs{"get", "list", "watch"}
	write     = verbs{"create", "delete", "deletecollection", "patch", "update"}
	readWrite = slices.Concat(read, write)
)

// on is a rule for resources of one group.
func (v verbs) on(group string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: v, APIGroups: []string{group}, Resources: resources}
}

// named narrows a rule to objects of those names.
func named(rule rbacv1.PolicyRule, names ...string) rbacv1.PolicyRule {
	rule.ResourceNames = names
	return rule
}

func urls(paths ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: verbs{"get"}, NonResourceURLs: paths}
}

const aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"

// clusterRole names a role and its rules; the labels make it part of others.
func clusterRole(name string, rules []rbacv1.PolicyRule, partOf ...string) *rbacv1.ClusterRole {
	role := &rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
	for _, whole := range partOf {
		role.Labels[aggregateTo+whole] = "true"
	}
	return role
}

// whole is a role that workloads/clusterrole fills with the rules of its parts.
func whole(name string, partOf ...string) *rbacv1.ClusterRole {
	role := clusterRole(name, nil, partOf...)
	role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{aggregateTo + name: "true"}},
	}}
	return role
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:   namespace,
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

// clusterRoles are the ones manifests and people count on, under their usual names. Roles of upstream's single
// controllers are not among them: ours share the API server's own identity.
func clusterRoles() []*rbacv1.ClusterRole {
	type rules = []rbacv1.PolicyRule
	discoveryPaths := []string{"/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"}
	health := []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}
	reportEvents := []rbacv1.PolicyRule{verbs{"create", "patch", "update"}.on(core, "events"), verbs{"create", "patch", "update"}.on(events, "events")}
	delegate := []rbacv1.PolicyRule{verbs{"create"}.on(authentication, "tokenreviews"), verbs{"create"}.on(authorization, "subjectaccessreviews")}

	return []*rbacv1.ClusterRole{
		// People.
		clusterRole("cluster-admin", rules{
			verbs{"*"}.on("*", "*"),
			{Verbs: verbs{"*"}, NonResourceURLs: []string{"*"}},
		}),
		whole("admin"),
		whole("edit", "admin"),
		whole("view", "edit"),
		clusterRole("system:aggregate-to-admin", adminRules(), "admin"),
		clusterRole("system:aggregate-to-edit", editRules(), "edit"),
		clusterRole("system:aggregate-to-view", viewRules(), "view"),

		// Whoever knows the server.
		clusterRole("system:basic-user", rules{
			verbs{"create"}.on(authorization, "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			verbs{"create"}.on(authentication, "selfsubjectreviews"),
		}),
		clusterRole("system:discovery", rules{urls(discoveryPaths...)}),
		clusterRole("system:public-info-viewer", rules{urls(health...)}),
		clusterRole("system:service-account-issuer-discovery", rules{urls("/.well-known/openid-configuration", "/.well-known/openid-configuration/", "/openid/v1/jwks", "/openid/v1/jwks/")}),
		clusterRole("system:cluster-trust-bundle-discovery", rules{read.on(certificates, "clustertrustbundles")}),
		clusterRole("system:monitoring", rules{urls("/healthz", "/healthz/*", "/livez", "/livez/*", "/metrics", "/metrics/slis", "/readyz", "/readyz/*", "/flagz", "/statusz")}),

		// Servers that ask ours.
		clusterRole("system:auth-delegator", delegate),

		// Nodes and what reaches them.
		clusterRole("system:node", node.Rules),
		clusterRole("system:node-bootstrapper", rules{verbs{"create", "get", "list", "watch"}.on(certificates, "certificatesigningrequests")}),
		clusterRole("system:node-problem-detector", append(rules{
			verbs{"get"}.on(core, "nodes"),
			verbs{"patch"}.on(core, "nodes/status"),
		}, reportEvents...)),
		clusterRole("system:node-proxier", append(rules{
			verbs{"list", "watch"}.on(core, "endpoints", "services"),
			verbs{"get", "list", "watch"}.on(core, "nodes"),
			verbs{"list", "watch"}.on(discovery, "endpointslices"),
			verbs{"list", "watch"}.on(networking, "servicecidrs"),
		}, reportEvents...)),
		clusterRole("system:kubelet-api-admin", rules{
			read.on(core, "nodes"),
			verbs{"proxy"}.on(core, "nodes"),
			verbs{"*"}.on(core, "nodes/configz", "nodes/healthz", "nodes/log", "nodes/metrics", "nodes/pods", "nodes/proxy", "nodes/stats"),
		}),
		// The reads of our service network, which runs with the node's identity. Network policies are about pods
		// anywhere; authz/node lets nodes read them all while there is a policy.
		clusterRole("knarr:node-network", rules{
			read.on(core, "endpoints", "namespaces", "nodes", "services"),
			read.on(discovery, "endpointslices"),
			read.on(networking, "networkpolicies", "servicecidrs"),
		}),

		// Certificates: which requests are granted without asking anybody, and who may grant which.
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:nodeclient", rules{verbs{"create"}.on(certificates, "certificatesigningrequests/nodeclient")}),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", rules{verbs{"create"}.on(certificates, "certificatesigningrequests/selfnodeclient")}),
		approver("kube-apiserver-client-approver", "kubernetes.io/kube-apiserver-client"),
		approver("kube-apiserver-client-kubelet-approver", "kubernetes.io/kube-apiserver-client-kubelet"),
		approver("kubelet-serving-approver", "kubernetes.io/kubelet-serving"),
		approver("legacy-unknown-approver", "kubernetes.io/legacy-unknown"),

		// Components that other people's manifests still run beside ours.
		clusterRole("system:heapster", rules{
			read.on(core, "events", "namespaces", "nodes", "pods"),
			read.on(extensions, "deployments"),
		}),
		clusterRole("system:kube-controller-manager", slices.Concat(reportEvents, delegate, rules{
			verbs{"create"}.on(coordination, "leases"),
			named(verbs{"get", "update"}.on(coordination, "leases"), "kube-controller-manager"),
			verbs{"create"}.on(core, "secrets", "serviceaccounts", "serviceaccounts/token"),
			verbs{"delete"}.on(core, "secrets"),
			verbs{"get"}.on(core, "configmaps", "namespaces", "secrets", "serviceaccounts"),
			verbs{"update"}.on(core, "secrets", "serviceaccounts"),
			verbs{"list", "watch"}.on("*", "*"),
		})),
		clusterRole("system:kube-dns", rules{
			verbs{"list", "watch"}.on(core, "endpoints", "services"),
			verbs{"list", "watch"}.on(discovery, "endpointslices"),
		}),
		clusterRole("system:kube-scheduler", slices.Concat(reportEvents, delegate, rules{
			verbs{"create"}.on(coordination, "leases"),
			named(verbs{"get", "list", "update", "watch"}.on(coordination, "leases"), "kube-scheduler"),
			verbs{"get", "list", "watch"}.on(core, "nodes"),
			verbs{"delete", "get", "list", "watch"}.on(core, "pods"),
			verbs{"create"}.on(core, "bindings", "pods/binding"),
			verbs{"patch", "update"}.on(core, "pods/status"),
			read.on(core, "namespaces", "persistentvolumeclaims", "persistentvolumes", "replicationcontrollers", "services"),
			read.on(apps, "replicasets", "statefulsets"),
			read.on(policy, "poddisruptionbudgets"),
			read.on(storage, "csidrivers", "csinodes", "csistoragecapacities", "storageclasses", "volumeattachments"),
			read.on(resources, "deviceclasses", "resourceslices"),
			verbs{"get", "list", "patch", "update", "watch"}.on(resources, "resourceclaims", "resourceclaims/status"),
		})),
		clusterRole("system:volume-scheduler", rules{
			verbs{"get", "list", "patch", "update", "watch"}.on(core, "persistentvolumeclaims", "persistentvolumes"),
			read.on(storage, "storageclasses"),
		}),
		clusterRole("system:persistent-volume-provisioner", append(rules{
			verbs{"create", "delete", "get", "list", "watch"}.on(core, "persistentvolumes"),
			verbs{"get", "list", "update", "watch"}.on(core, "persistentvolumeclaims"),
			read.on(storage, "storageclasses"),
			verbs{"watch"}.on(core, "events"),
		}, reportEvents...)),
	}
}

func approver(name, signer string) *rbacv1.ClusterRole {
	return clusterRole("system:certificates.k8s.io:"+name, []rbacv1.PolicyRule{
		named(verbs{"approve"}.on(certificates, "signers"), signer),
	})
}

// viewRules read what is in a namespace, apart from secrets and roles: those would let a reader become more.
func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		read.on(core, "bindings", "configmaps", "endpoints", "events", "limitranges", "namespaces", "namespaces/status",
			"persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "pods/log", "pods/status",
			"replicationcontrollers", "replicationcontrollers/scale", "replicationcontrollers/status",
			"resourcequotas", "resourcequotas/status", "serviceaccounts", "services", "services/status"),
		read.on(discovery, "endpointslices"),
		read.on(apps, "controllerrevisions", "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status",
			"replicasets", "replicasets/scale", "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status"),
		read.on(autoscaling, "horizontalpodautoscalers", "horizontalpodautoscalers/status"),
		read.on(batch, "cronjobs", "cronjobs/status", "jobs", "jobs/status"),
		read.on(extensions, "daemonsets", "daemonsets/status", "deployments", "deployments/scale", "deployments/status", "ingresses",
			"ingresses/status", "networkpolicies", "replicasets", "replicasets/scale", "replicasets/status", "replicationcontrollers/scale"),
		read.on(policy, "poddisruptionbudgets", "poddisruptionbudgets/status"),
		read.on(networking, "ingresses", "ingresses/status", "networkpolicies"),
		read.on(resources, "resourceclaims", "resourceclaims/status", "resourceclaimtemplates"),
		verbs{"get", "list"}.on(metrics, "nodes", "pods"),
	}
}

// editRules change what is in a namespace, and so may act as any of its service accounts.
func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		read.on(core, "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"),
		verbs{"impersonate"}.on(core, "serviceaccounts"),
		verbs{"create"}.on(core, "pods/eviction", "serviceaccounts/token"),
		write.on(core, "configmaps", "events", "persistentvolumeclaims", "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy",
			"replicationcontrollers", "replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy"),
		write.on(apps, "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "replicasets", "replicasets/scale",
			"statefulsets", "statefulsets/scale"),
		write.on(autoscaling, "horizontalpodautoscalers"),
		write.on(batch, "cronjobs", "jobs"),
		write.on(extensions, "daemonsets", "deployments", "deployments/rollback", "deployments/scale", "ingresses", "networkpolicies",
			"replicasets", "replicasets/scale", "replicationcontrollers/scale"),
		write.on(policy, "poddisruptionbudgets"),
		write.on(networking, "ingresses", "networkpolicies"),
		readWrite.on(coordination, "leases"),
		write.on(resources, "resourceclaims", "resourceclaimtemplates"),
	}
}

// adminRules share a namespace with others.
func adminRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		verbs{"create"}.on(authorization, "localsubjectaccessreviews"),
		readWrite.on(rbacGroup, "rolebindings", "roles"),
	}
}

func users(names ...string) []rbacv1.Subject { return subjects(rbacv1.UserKind, names) }

func groups(names ...string) []rbacv1.Subject { return subjects(rbacv1.GroupKind, names) }

func subjects(kind string, names []string) []rbacv1.Subject {
	var out []rbacv1.Subject
	for _, name := range names {
		out = append(out, rbacv1.Subject{Kind: kind, APIGroup: rbacGroup, Name: name})
	}
	return out
}

func clusterRoleBindings() []*rbacv1.ClusterRoleBinding {
	bind := func(name, role string, to []rbacv1.Subject) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta("", name),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacGroup, Kind: "ClusterRole", Name: role},
			Subjects:   to,
		}
	}
	same := func(role string, to []rbacv1.Subject) *rbacv1.ClusterRoleBinding { return bind(role, role, to) }
	return []*rbacv1.ClusterRoleBinding{
		// First what nodes wait for when a cluster begins.
		bind("knarr:node-network", "knarr:node-network", groups(pki.NodesGroup)),
		bind("knarr:kubelet-api-admin", "system:kubelet-api-admin", users(pki.KubeletClientUser)),
		bind("knarr:node-bootstrapper", "system:node-bootstrapper", groups(token.NodesGroup)),
		bind("knarr:approve-new-nodes", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", groups(token.NodesGroup)),
		bind("knarr:approve-renewals", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", groups(pki.NodesGroup)),

		same("cluster-admin", groups(user.SystemPrivilegedGroup)),
		same("system:monitoring", groups("system:monitoring")),
		same("system:discovery", groups(user.AllAuthenticated)),
		same("system:basic-user", groups(user.AllAuthenticated)),
		same("system:public-info-viewer", groups(user.AllAuthenticated, user.AllUnauthenticated)),
		same("system:service-account-issuer-discovery", groups(serviceaccount.AllServiceAccountsGroup)),
		same("system:cluster-trust-bundle-discovery", groups(serviceaccount.AllServiceAccountsGroup)),
		same("system:node", nil), // the Node authorizer grants it; clusters of old bound it to all nodes
		same("system:node-proxier", users("system:kube-proxy")),
		same("system:kube-controller-manager", users("system:kube-controller-manager")),
		same("system:kube-dns", []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: "kube-dns"}}),
		same("system:kube-scheduler", users("system:kube-scheduler")),
		same("system:volume-scheduler", users("system:kube-scheduler")),
	}
}

func roles() []*rbacv1.Role {
	return []*rbacv1.Role{
		{
			ObjectMeta: meta(metav1.NamespaceSystem, "knarr:cluster"),
			Rules:      []rbacv1.PolicyRule{named(read.on(core, "configmaps"), join.ConfigMapName)},
		},
		{
			ObjectMeta: meta(metav1.NamespaceSystem, "knarr:dns"), // whom nodes ask about names outside (netstack/dns)
			Rules:      []rbacv1.PolicyRule{named(read.on(core, "configmaps"), "kube-dns")},
		},
		{
			ObjectMeta: meta(metav1.NamespaceSystem, "extension-apiserver-authentication-reader"),
			Rules:      []rbacv1.PolicyRule{named(read.on(core, "configmaps"), "extension-apiserver-authentication")},
		},
	}
}

func roleBindings() []*rbacv1.RoleBinding {
	bind := func(name, role string, to []rbacv1.Subject) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{
			ObjectMeta: meta(metav1.NamespaceSystem, name),
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacGroup, Kind: "Role", Name: role},
			Subjects:   to,
		}
	}
	return []*rbacv1.RoleBinding{
		bind("knarr:cluster", "knarr:cluster", groups(pki.NodesGroup, token.NodesGroup)),
		bind("knarr:dns", "knarr:dns", groups(pki.NodesGroup)),
		bind("system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader",
			users("system:kube-controller-manager", "system:kube-scheduler")),
	}
}

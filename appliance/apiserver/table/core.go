package table

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/appliance/apiserver/allocation"
	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/subresource"
	"knarr.dev/knarr/appliance/apiserver/virtual"
)

func core() []resource.Row {
	v1 := corev1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &corev1.Pod{}, List: &corev1.PodList{}, Plural: "pods", Hooks: resource.Erase(kinds.Pod), Table: printing.Pods(), Short: []string{"po"}, Categories: all, Namespaced: true, Status: true, Generation: true, Index: "spec.nodeName", ReturnDeleted: true, Subresources: podPaths},
		{In: v1, Object: &corev1.Node{}, List: &corev1.NodeList{}, Plural: "nodes", Hooks: resource.Erase(kinds.Node), Table: printing.Nodes(), Short: []string{"no"}, Status: true, StatusAtCreate: true, Subresources: map[string]resource.SubresourceFunc{"proxy": subresource.NodeProxy}},
		{In: v1, Object: &corev1.Namespace{}, List: &corev1.NamespaceList{}, Plural: "namespaces", Hooks: resource.Erase(kinds.Namespace), Table: printing.Namespaces(), Short: []string{"ns"}, Status: true, ReturnDeleted: true, Wrap: subresource.Namespaces, Subresources: map[string]resource.SubresourceFunc{"finalize": subresource.Finalize}},
		{In: v1, Object: &corev1.Service{}, List: &corev1.ServiceList{}, Plural: "services", Hooks: resource.Erase(kinds.Service), Table: printing.Services(), Short: []string{"svc"}, Categories: all, Namespaced: true, Status: true, ReturnDeleted: true, Wrap: allocation.NewServices, Subresources: map[string]resource.SubresourceFunc{"proxy": subresource.ServiceProxy}},
		{In: v1, Object: &corev1.Endpoints{}, List: &corev1.EndpointsList{}, Plural: "endpoints", Hooks: resource.Erase(kinds.Endpoints), Table: printing.Endpoints(), Short: []string{"ep"}, Namespaced: true},
		{In: v1, Object: &corev1.ConfigMap{}, List: &corev1.ConfigMapList{}, Plural: "configmaps", Hooks: resource.Erase(kinds.ConfigMap), Table: printing.ConfigMaps(), Short: []string{"cm"}, Namespaced: true, Index: "metadata.name"},
		{In: v1, Object: &corev1.Secret{}, List: &corev1.SecretList{}, Plural: "secrets", Hooks: resource.Erase(kinds.Secret), Table: printing.Secrets(), Namespaced: true, Index: "metadata.name"},
		{In: v1, Object: &corev1.ServiceAccount{}, List: &corev1.ServiceAccountList{}, Plural: "serviceaccounts", Hooks: resource.Erase(kinds.ServiceAccount), Table: printing.ServiceAccounts(), Short: []string{"sa"}, Namespaced: true, ReturnDeleted: true, Subresources: map[string]resource.SubresourceFunc{"token": subresource.Token}},
		{In: v1, Object: &corev1.ReplicationController{}, List: &corev1.ReplicationControllerList{}, Plural: "replicationcontrollers", Hooks: resource.Erase(kinds.ReplicationController), Table: printing.ReplicationControllers(), Short: []string{"rc"}, Categories: all, Namespaced: true, Status: true, Generation: true, OrphanDependents: true, Scale: scaleReplicationController},
		{In: v1, Object: &corev1.PodTemplate{}, List: &corev1.PodTemplateList{}, Plural: "podtemplates", Hooks: resource.Erase(kinds.PodTemplate), Table: printing.PodTemplates(), Namespaced: true, Generation: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.ResourceQuota{}, List: &corev1.ResourceQuotaList{}, Plural: "resourcequotas", Hooks: resource.Erase(kinds.ResourceQuota), Table: printing.ResourceQuotas(), Short: []string{"quota"}, Namespaced: true, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.LimitRange{}, List: &corev1.LimitRangeList{}, Plural: "limitranges", Hooks: resource.Erase(kinds.LimitRange), Table: printing.LimitRanges(), Short: []string{"limits"}, Namespaced: true},
		{In: v1, Object: &corev1.PersistentVolume{}, List: &corev1.PersistentVolumeList{}, Plural: "persistentvolumes", Hooks: resource.Erase(kinds.PersistentVolume), Table: printing.PersistentVolumes(), Short: []string{"pv"}, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.PersistentVolumeClaim{}, List: &corev1.PersistentVolumeClaimList{}, Plural: "persistentvolumeclaims", Hooks: resource.Erase(kinds.PersistentVolumeClaim), Table: printing.PersistentVolumeClaims(), Short: []string{"pvc"}, Namespaced: true, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.Binding{}, Plural: "bindings", Namespaced: true, Virtual: virtual.Bindings},
		{In: v1, Object: &corev1.ComponentStatus{}, List: &corev1.ComponentStatusList{}, Plural: "componentstatuses", Short: []string{"cs"}, Virtual: virtual.ComponentStatuses},
	}
}

var podPaths = map[string]resource.SubresourceFunc{
	"binding":             subresource.Binding,
	"eviction":            subresource.Eviction,
	"ephemeralcontainers": subresource.EphemeralContainers,
	"resize":              subresource.Resize,
	"log":                 subresource.Log,
	"exec":                subresource.Exec,
	"attach":              subresource.Attach,
	"portforward":         subresource.PortForward,
	"proxy":               subresource.PodProxy,
}

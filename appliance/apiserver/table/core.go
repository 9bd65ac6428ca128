package table

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/virtual"
)

func core() []resource.Row {
	v1 := corev1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &corev1.Pod{}, List: &corev1.PodList{}, Plural: "pods", Short: []string{"po"}, Categories: all, Namespaced: true, Status: true, Generation: true, Index: "spec.nodeName", ReturnDeleted: true},
		{In: v1, Object: &corev1.Node{}, List: &corev1.NodeList{}, Plural: "nodes", Short: []string{"no"}, Status: true},
		{In: v1, Object: &corev1.Namespace{}, List: &corev1.NamespaceList{}, Plural: "namespaces", Short: []string{"ns"}, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.Service{}, List: &corev1.ServiceList{}, Plural: "services", Short: []string{"svc"}, Categories: all, Namespaced: true, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.Endpoints{}, List: &corev1.EndpointsList{}, Plural: "endpoints", Short: []string{"ep"}, Namespaced: true},
		{In: v1, Object: &corev1.ConfigMap{}, List: &corev1.ConfigMapList{}, Plural: "configmaps", Short: []string{"cm"}, Namespaced: true, Index: "metadata.name"},
		{In: v1, Object: &corev1.Secret{}, List: &corev1.SecretList{}, Plural: "secrets", Namespaced: true, Index: "metadata.name"},
		{In: v1, Object: &corev1.ServiceAccount{}, List: &corev1.ServiceAccountList{}, Plural: "serviceaccounts", Short: []string{"sa"}, Namespaced: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.ReplicationController{}, List: &corev1.ReplicationControllerList{}, Plural: "replicationcontrollers", Short: []string{"rc"}, Categories: all, Namespaced: true, Status: true, Generation: true, OrphanDependents: true, Scale: scaleReplicationController},
		{In: v1, Object: &corev1.PodTemplate{}, List: &corev1.PodTemplateList{}, Plural: "podtemplates", Namespaced: true, Generation: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.ResourceQuota{}, List: &corev1.ResourceQuotaList{}, Plural: "resourcequotas", Short: []string{"quota"}, Namespaced: true, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.LimitRange{}, List: &corev1.LimitRangeList{}, Plural: "limitranges", Short: []string{"limits"}, Namespaced: true},
		{In: v1, Object: &corev1.PersistentVolume{}, List: &corev1.PersistentVolumeList{}, Plural: "persistentvolumes", Short: []string{"pv"}, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.PersistentVolumeClaim{}, List: &corev1.PersistentVolumeClaimList{}, Plural: "persistentvolumeclaims", Short: []string{"pvc"}, Namespaced: true, Status: true, ReturnDeleted: true},
		{In: v1, Object: &corev1.Binding{}, Plural: "bindings", Namespaced: true, Virtual: virtual.Bindings},
		{In: v1, Object: &corev1.ComponentStatus{}, List: &corev1.ComponentStatusList{}, Plural: "componentstatuses", Short: []string{"cs"}, Virtual: virtual.ComponentStatuses},
	}
}

package table

import (
	appsv1 "k8s.io/api/apps/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func apps() []resource.Row {
	v1 := appsv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &appsv1.Deployment{}, List: &appsv1.DeploymentList{}, Plural: "deployments", Hooks: resource.Erase(kinds.Deployment), Table: printing.Deployments(), Short: []string{"deploy"}, Categories: all, Namespaced: true, Status: true, Generation: true, Scale: scaleDeployment},
		{In: v1, Object: &appsv1.ReplicaSet{}, List: &appsv1.ReplicaSetList{}, Plural: "replicasets", Hooks: resource.Erase(kinds.ReplicaSet), Table: printing.ReplicaSets(), Short: []string{"rs"}, Categories: all, Namespaced: true, Status: true, Generation: true, Scale: scaleReplicaSet},
		{In: v1, Object: &appsv1.StatefulSet{}, List: &appsv1.StatefulSetList{}, Plural: "statefulsets", Hooks: resource.Erase(kinds.StatefulSet), Table: printing.StatefulSets(), Short: []string{"sts"}, Categories: all, Namespaced: true, Status: true, Generation: true, Scale: scaleStatefulSet},
		{In: v1, Object: &appsv1.DaemonSet{}, List: &appsv1.DaemonSetList{}, Plural: "daemonsets", Hooks: resource.Erase(kinds.DaemonSet), Table: printing.DaemonSets(), Short: []string{"ds"}, Categories: all, Namespaced: true, Status: true, Generation: true},
		{In: v1, Object: &appsv1.ControllerRevision{}, List: &appsv1.ControllerRevisionList{}, Plural: "controllerrevisions", Hooks: resource.Erase(kinds.ControllerRevision), Table: printing.ControllerRevisions(), Namespaced: true},
	}
}

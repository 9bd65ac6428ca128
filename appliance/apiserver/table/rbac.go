package table

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

func rbac() []resource.Row {
	v1 := rbacv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &rbacv1.Role{}, List: &rbacv1.RoleList{}, Plural: "roles", Namespaced: true},
		{In: v1, Object: &rbacv1.RoleBinding{}, List: &rbacv1.RoleBindingList{}, Plural: "rolebindings", Namespaced: true},
		{In: v1, Object: &rbacv1.ClusterRole{}, List: &rbacv1.ClusterRoleList{}, Plural: "clusterroles"},
		{In: v1, Object: &rbacv1.ClusterRoleBinding{}, List: &rbacv1.ClusterRoleBindingList{}, Plural: "clusterrolebindings"},
	}
}

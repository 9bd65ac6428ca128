package table

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func rbac() []resource.Row {
	v1 := rbacv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &rbacv1.Role{}, List: &rbacv1.RoleList{}, Plural: "roles", Hooks: resource.Erase(kinds.Role), Table: printing.Roles(), Namespaced: true},
		{In: v1, Object: &rbacv1.RoleBinding{}, List: &rbacv1.RoleBindingList{}, Plural: "rolebindings", Hooks: resource.Erase(kinds.RoleBinding), Table: printing.RoleBindings(), Namespaced: true},
		{In: v1, Object: &rbacv1.ClusterRole{}, List: &rbacv1.ClusterRoleList{}, Plural: "clusterroles", Hooks: resource.Erase(kinds.ClusterRole), Table: printing.ClusterRoles()},
		{In: v1, Object: &rbacv1.ClusterRoleBinding{}, List: &rbacv1.ClusterRoleBindingList{}, Plural: "clusterrolebindings", Hooks: resource.Erase(kinds.ClusterRoleBinding), Table: printing.ClusterRoleBindings()},
	}
}

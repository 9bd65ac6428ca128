package table

import (
	policyv1 "k8s.io/api/policy/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func policy() []resource.Row {
	v1 := policyv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &policyv1.PodDisruptionBudget{}, List: &policyv1.PodDisruptionBudgetList{}, Plural: "poddisruptionbudgets", Hooks: resource.Erase(kinds.PodDisruptionBudget), Table: printing.PodDisruptionBudgets(), Short: []string{"pdb"}, Namespaced: true, Status: true, Generation: true},
	}
}

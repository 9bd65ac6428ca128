package table

import (
	coordinationv1 "k8s.io/api/coordination/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func coordination() []resource.Row {
	v1 := coordinationv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &coordinationv1.Lease{}, List: &coordinationv1.LeaseList{}, Plural: "leases", Hooks: resource.Erase(kinds.Lease), Table: printing.Leases(), Namespaced: true},
	}
}

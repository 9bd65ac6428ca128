package table

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func discovery() []resource.Row {
	v1 := discoveryv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &discoveryv1.EndpointSlice{}, List: &discoveryv1.EndpointSliceList{}, Plural: "endpointslices", Hooks: resource.Erase(kinds.EndpointSlice), Table: printing.EndpointSlices(), Namespaced: true, Generation: true},
	}
}

package table

import (
	resourcev1 "k8s.io/api/resource/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func dra() []resource.Row {
	v1 := resourcev1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &resourcev1.ResourceClaim{}, List: &resourcev1.ResourceClaimList{}, Plural: "resourceclaims", Table: printing.ResourceClaims(), Hooks: resource.Erase(kinds.ResourceClaim), Namespaced: true, Status: true},
		{In: v1, Object: &resourcev1.ResourceClaimTemplate{}, List: &resourcev1.ResourceClaimTemplateList{}, Plural: "resourceclaimtemplates", Hooks: resource.Erase(kinds.ResourceClaimTemplate), Namespaced: true},
		{In: v1, Object: &resourcev1.ResourceSlice{}, List: &resourcev1.ResourceSliceList{}, Plural: "resourceslices", Table: printing.ResourceSlices(), Hooks: resource.Erase(kinds.ResourceSlice), Generation: true},
		{In: v1, Object: &resourcev1.DeviceClass{}, List: &resourcev1.DeviceClassList{}, Plural: "deviceclasses", Hooks: resource.Erase(kinds.DeviceClass), Generation: true},
		{In: v1, Object: &resourcev1.DeviceTaintRule{}, List: &resourcev1.DeviceTaintRuleList{}, Plural: "devicetaintrules", Hooks: resource.Erase(kinds.DeviceTaintRule), Status: true, Generation: true},
	}
}

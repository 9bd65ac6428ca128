package table

import (
	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func storage() []resource.Row {
	v1 := storagev1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &storagev1.StorageClass{}, List: &storagev1.StorageClassList{}, Plural: "storageclasses", Hooks: resource.Erase(kinds.StorageClass), Table: printing.StorageClasses(), Short: []string{"sc"}, ReturnDeleted: true},
		{In: v1, Object: &storagev1.VolumeAttachment{}, List: &storagev1.VolumeAttachmentList{}, Plural: "volumeattachments", Hooks: resource.Erase(kinds.VolumeAttachment), Table: printing.VolumeAttachments(), Status: true, ReturnDeleted: true},
		{In: v1, Object: &storagev1.CSINode{}, List: &storagev1.CSINodeList{}, Plural: "csinodes", Table: printing.CSINodes(), Hooks: resource.Erase(kinds.CSINode), Status: true, ReturnDeleted: true},
		{In: v1, Object: &storagev1.CSIDriver{}, List: &storagev1.CSIDriverList{}, Plural: "csidrivers", Hooks: resource.Erase(kinds.CSIDriver), Table: printing.CSIDrivers(), Generation: true, ReturnDeleted: true},
		{In: v1, Object: &storagev1.CSIStorageCapacity{}, List: &storagev1.CSIStorageCapacityList{}, Plural: "csistoragecapacities", Table: printing.StorageCapacities(), Hooks: resource.Erase(kinds.CSIStorageCapacity), Namespaced: true},
		{In: v1, Object: &storagev1.VolumeAttributesClass{}, List: &storagev1.VolumeAttributesClassList{}, Plural: "volumeattributesclasses", Table: printing.VolumeAttributesClasses(), Hooks: resource.Erase(kinds.VolumeAttributesClass), Short: []string{"vac"}, ReturnDeleted: true},
	}
}

package table

import (
	storagemigrationv1 "k8s.io/api/storagemigration/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func storagemigration() []resource.Row {
	v1 := storagemigrationv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &storagemigrationv1.StorageVersionMigration{}, List: &storagemigrationv1.StorageVersionMigrationList{}, Plural: "storageversionmigrations", Table: printing.Migrations(), Hooks: resource.Erase(kinds.StorageVersionMigration), Status: true},
	}
}

package table

import (
	nodev1 "k8s.io/api/node/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func node() []resource.Row {
	v1 := nodev1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &nodev1.RuntimeClass{}, List: &nodev1.RuntimeClassList{}, Plural: "runtimeclasses", Hooks: resource.Erase(kinds.RuntimeClass), Table: printing.RuntimeClasses()},
	}
}

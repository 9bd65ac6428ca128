package table

import (
	schedulingv1 "k8s.io/api/scheduling/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func scheduling() []resource.Row {
	v1 := schedulingv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &schedulingv1.PriorityClass{}, List: &schedulingv1.PriorityClassList{}, Plural: "priorityclasses", Hooks: resource.Erase(kinds.PriorityClass), Table: printing.PriorityClasses(), Short: []string{"pc"}, Generation: true},
	}
}

package table

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func flowcontrol() []resource.Row {
	v1 := flowcontrolv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &flowcontrolv1.FlowSchema{}, List: &flowcontrolv1.FlowSchemaList{}, Plural: "flowschemas", Table: printing.FlowSchemas(), Hooks: resource.Erase(kinds.FlowSchema), Status: true, Generation: true},
		{In: v1, Object: &flowcontrolv1.PriorityLevelConfiguration{}, List: &flowcontrolv1.PriorityLevelConfigurationList{}, Plural: "prioritylevelconfigurations", Table: printing.PriorityLevels(), Hooks: resource.Erase(kinds.PriorityLevelConfiguration), Status: true, Generation: true},
	}
}

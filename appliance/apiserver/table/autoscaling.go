package table

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func autoscaling() []resource.Row {
	return []resource.Row{
		{In: autoscalingv2.SchemeGroupVersion, AlsoIn: []schema.GroupVersion{autoscalingv1.SchemeGroupVersion}, Object: &autoscalingv2.HorizontalPodAutoscaler{}, List: &autoscalingv2.HorizontalPodAutoscalerList{}, Plural: "horizontalpodautoscalers", Hooks: resource.Erase(kinds.HorizontalPodAutoscaler), Table: printing.HorizontalPodAutoscalers(), Short: []string{"hpa"}, Categories: all, Namespaced: true, Status: true, Generation: true},
	}
}

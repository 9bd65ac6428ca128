package table

import (
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/virtual"
)

// metrics is measured when asked for. Others may serve the group in our place.
func metrics() []resource.Row {
	v1beta1 := metricsv1beta1.SchemeGroupVersion
	return []resource.Row{
		{In: v1beta1, Object: &metricsv1beta1.NodeMetrics{}, List: &metricsv1beta1.NodeMetricsList{}, Plural: "nodes", Virtual: virtual.NodeUsage},
		{In: v1beta1, Object: &metricsv1beta1.PodMetrics{}, List: &metricsv1beta1.PodMetricsList{}, Plural: "pods", Namespaced: true, Virtual: virtual.PodUsage},
	}
}

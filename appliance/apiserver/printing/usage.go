package printing

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

var usageColumns = []metav1.TableColumnDefinition{
	text("cpu", "CPU used, the mean over the window."),
	text("memory", "Memory used: the working set."),
	text("Window", "How long was measured."),
}

// NodeMetrics as the metrics server prints them.
func NodeMetrics() rest.TableConvertor {
	return table(func(m *metricsv1beta1.NodeMetrics, _ time.Time) []any {
		return usageCells(m.Window, m.Usage)
	}, usageColumns...)
}

// PodMetrics shows what the containers of a pod use together.
func PodMetrics() rest.TableConvertor {
	return table(func(m *metricsv1beta1.PodMetrics, _ time.Time) []any {
		var used []corev1.ResourceList
		for i := range m.Containers {
			used = append(used, m.Containers[i].Usage)
		}
		return usageCells(m.Window, used...)
	}, usageColumns...)
}

func usageCells(window metav1.Duration, used ...corev1.ResourceList) []any {
	cell := func(name corev1.ResourceName) string {
		sum := used[0][name].DeepCopy()
		for _, more := range used[1:] {
			sum.Add(more[name])
		}
		return sum.String()
	}
	return []any{cell(corev1.ResourceCPU), cell(corev1.ResourceMemory), window.Duration.String()}
}

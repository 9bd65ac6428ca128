package nodeapi

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"knarr.dev/knarr/workloads/agent/nodeapi/stats"
)

// metricsHandler serves what the libraries of Kubernetes count, what the config adds, and of this node what dashboards know a kubelet by.
func (s *Server) metricsHandler() (http.Handler, error) {
	own := metrics.NewKubeRegistry()
	if err := own.CustomRegister(&nodeMetrics{name: s.config.NodeName, pods: s.config.Agent.Pods, stats: s.stats}); err != nil {
		return nil, err
	}
	all := prometheus.Gatherers{legacyregistry.DefaultGatherer, own}
	if s.config.Metrics != nil {
		all = append(all, s.config.Metrics)
	}
	return promhttp.HandlerFor(all, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}), nil
}

// nodeMetrics are read when they are asked for.
type nodeMetrics struct {
	metrics.BaseStableCollector
	name  string
	pods  func() []*corev1.Pod
	stats *stats.Collector
}

var (
	nodeName          = metrics.NewDesc("kubelet_node_name", "The node's name. The count is always 1.", []string{"node"}, nil, metrics.ALPHA, "")
	runningPods       = metrics.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil, metrics.ALPHA, "")
	runningContainers = metrics.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil, metrics.ALPHA, "")
)

// volumeMetrics are of the volumes that are claims.
var volumeMetrics = []struct {
	desc  *metrics.Desc
	value func(*statsapi.VolumeStats) *uint64
}{
	{volumeMetric("capacity_bytes", "Capacity in bytes of the volume"), func(v *statsapi.VolumeStats) *uint64 { return v.CapacityBytes }},
	{volumeMetric("available_bytes", "Number of available bytes in the volume"), func(v *statsapi.VolumeStats) *uint64 { return v.AvailableBytes }},
	{volumeMetric("used_bytes", "Number of used bytes in the volume"), func(v *statsapi.VolumeStats) *uint64 { return v.UsedBytes }},
	{volumeMetric("inodes", "Maximum number of inodes in the volume"), func(v *statsapi.VolumeStats) *uint64 { return v.Inodes }},
	{volumeMetric("inodes_free", "Number of free inodes in the volume"), func(v *statsapi.VolumeStats) *uint64 { return v.InodesFree }},
	{volumeMetric("inodes_used", "Number of used inodes in the volume"), func(v *statsapi.VolumeStats) *uint64 { return v.InodesUsed }},
}

func volumeMetric(name, help string) *metrics.Desc {
	return metrics.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil, metrics.ALPHA, "")
}

func (m *nodeMetrics) DescribeWithStability(to chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{nodeName, runningPods, runningContainers} {
		to <- d
	}
	for _, v := range volumeMetrics {
		to <- v.desc
	}
}

func (m *nodeMetrics) CollectWithStability(to chan<- metrics.Metric) {
	gauge := func(d *metrics.Desc, value float64, labels ...string) {
		to <- metrics.NewLazyConstMetric(d, metrics.GaugeValue, value, labels...)
	}
	gauge(nodeName, 1, m.name)
	pods := m.pods()
	running, states := countRunning(pods)
	gauge(runningPods, float64(running))
	for state, n := range states {
		gauge(runningContainers, float64(n), state)
	}
	told := map[statsapi.PVCReference]bool{} // several pods may share one
	now := time.Now()
	for _, pod := range pods {
		for _, v := range m.stats.Volumes(context.Background(), pod, now) {
			if v.PVCRef == nil || told[*v.PVCRef] {
				continue
			}
			told[*v.PVCRef] = true
			for _, metric := range volumeMetrics {
				if value := metric.value(&v); value != nil {
					gauge(metric.desc, float64(*value), v.PVCRef.Namespace, v.PVCRef.Name)
				}
			}
		}
	}
}

// countRunning counts pods with a running container, and containers by their state.
func countRunning(pods []*corev1.Pod) (running int, states map[string]int) {
	states = map[string]int{"running": 0, "exited": 0, "created": 0}
	for _, pod := range pods {
		before := states["running"]
		for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
			for i := range list {
				switch s := &list[i].State; {
				case s.Running != nil:
					states["running"]++
				case s.Terminated != nil:
					states["exited"]++
				case list[i].ContainerID != "":
					states["created"]++
				}
			}
		}
		if states["running"] > before {
			running++
		}
	}
	return running, states
}

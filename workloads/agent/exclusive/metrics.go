package exclusive

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/knarr/workloads/agent/align"
)

// counted is how choosing went, by the names collectors know from a kubelet
// (https://kubernetes.io/docs/reference/instrumentation/metrics/): of CPUs and memory where these are given, of nodes always.
type counted struct {
	registry                                *prometheus.Registry
	cpus, cpuErrors, memories, memoryErrors prometheus.Counter // containers that ask for some to themselves
	pods, refused                           prometheus.Counter
	took                                    prometheus.Histogram
}

func newCounted(m *Manager) *counted {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_" + name, Help: help})
	}
	c := &counted{
		registry:     prometheus.NewRegistry(),
		cpus:         counter("cpu_manager_pinning_requests_total", "The number of cpu core allocations which required pinning."),
		cpuErrors:    counter("cpu_manager_pinning_errors_total", "The number of cpu core allocations which required pinning failed."),
		memories:     counter("memory_manager_pinning_requests_total", "The number of memory pages allocations which required pinning."),
		memoryErrors: counter("memory_manager_pinning_errors_total", "The number of memory pages allocations which required pinning that failed."),
		pods:         counter("topology_manager_admission_requests_total", "The number of admission requests where resources have to be aligned."),
		refused:      counter("topology_manager_admission_errors_total", "The number of admission request failures where resources could not be aligned."),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_topology_manager_admission_duration_ms", Help: "Duration in milliseconds to serve a pod admission request.",
			Buckets: prometheus.ExponentialBuckets(.05, 2, 15),
		}),
	}
	c.registry.MustRegister(c.pods, c.refused, c.took)
	if m.conf.Policy.CPUs {
		c.registry.MustRegister(c.cpus, c.cpuErrors, pool{m})
	}
	if m.conf.Policy.Memory {
		c.registry.MustRegister(c.memories, c.memoryErrors)
	}
	return c
}

// Metrics are for collectors.
func (m *Manager) Metrics() prometheus.Gatherer { return m.counted.registry }

// admitted counts one pod that was let in or not.
func (c *counted) admitted(took time.Duration, err error) {
	c.pods.Inc()
	c.took.Observe(float64(took) / float64(time.Millisecond))
	if err != nil {
		c.refused.Inc()
	}
}

// pool is whose the CPUs are, counted when asked.
type pool struct{ manager *Manager }

var (
	poolShared = prometheus.NewDesc("kubelet_cpu_manager_shared_pool_size_millicores",
		"The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.", nil, nil)
	poolOwn = prometheus.NewDesc("kubelet_cpu_manager_exclusive_cpu_allocation_count",
		"The total number of CPUs exclusively allocated to containers running on this node", nil, nil)
	poolNode = prometheus.NewDesc("kubelet_cpu_manager_allocation_per_numa", "Number of CPUs allocated per NUMA node", []string{"numa_node"}, nil)
)

// Describe implements prometheus.Collector.
func (p pool) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{poolShared, poolOwn, poolNode} {
		to <- d
	}
}

// Collect implements prometheus.Collector. As upstream, the reserved CPUs are not in the shared pool, though what shares may run
// on them.
func (p pool) Collect(to chan<- prometheus.Metric) {
	m := p.manager
	m.mu.Lock()
	own := m.given()
	m.mu.Unlock()
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(poolShared, 1000*m.all.Difference(m.reserved).Difference(own).Size())
	gauge(poolOwn, own.Size())
	for _, n := range m.conf.Machine.Nodes {
		gauge(poolNode, own.Intersection(m.conf.Machine.On(align.Of(n.ID))).Size(), strconv.Itoa(n.ID))
	}
}

package proxy

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/apimachinery/pkg/types"
)

// Names and buckets are kube-proxy's, so that dashboards and the objective for programming latency can be used as they are.
// See https://github.com/kubernetes/community/blob/master/sig-scalability/slos/network_programming_latency.md.
var (
	synced = promauto.NewHistogram(prometheus.HistogramOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_duration_seconds",
		Help: "SyncProxyRules latency in seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
	})
	lastSync = promauto.NewGauge(prometheus.GaugeOpts{
		Subsystem: "kubeproxy", Name: "sync_proxy_rules_last_timestamp_seconds",
		Help: "The last time proxy rules were successfully synced",
	})
	programmed = promauto.NewHistogram(prometheus.HistogramOpts{
		Subsystem: "kubeproxy", Name: "network_programming_duration_seconds",
		Help: "In Cluster Network Programming Latency in seconds",
		Buckets: slices.Concat(
			prometheus.LinearBuckets(0.25, 0.25, 2), prometheus.LinearBuckets(1, 1, 59),
			prometheus.LinearBuckets(60, 5, 12), prometheus.LinearBuckets(120, 30, 7),
		),
	})
)

// causes are when those changes of endpoints happened that new plans are due to. Those from before this process are not its
// to answer for.
func (p *Proxy) causes(plans map[types.NamespacedName]Plan) []time.Time {
	var times []time.Time
	for key, plan := range plans {
		if at := plan.Caused; at.After(p.began) && at.After(p.wanted.plans[key].Caused) {
			times = append(times, at)
		}
	}
	return times
}

// note a pass that succeeded.
func note(began time.Time, causes []time.Time) {
	now := time.Now()
	synced.Observe(now.Sub(began).Seconds())
	lastSync.Set(float64(now.UnixNano()) / 1e9)
	for _, at := range causes {
		programmed.Observe(now.Sub(at).Seconds())
	}
}

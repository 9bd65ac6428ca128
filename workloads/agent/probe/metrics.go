package probe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// counted is what attempts came to, by the names and labels collectors know from a kubelet
// (https://kubernetes.io/docs/reference/instrumentation/metrics/). Prober.mu guards it.
type counted struct {
	registry *prometheus.Registry
	total    *prometheus.CounterVec
	took     *prometheus.HistogramVec
	pods     map[types.UID]types.NamespacedName // that have counts
}

func newCounted() *counted {
	c := &counted{
		registry: prometheus.NewRegistry(),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total", Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response.",
		}, []string{"probe_type", "container", "pod", "namespace"}),
		pods: map[types.UID]types.NamespacedName{},
	}
	c.registry.MustRegister(c.total, c.took)
	return c
}

// results are an attempt's outcomes in collectors' words.
var results = map[outcome]string{success: "successful", failure: "failed", unknown: "unknown"}

// Metrics are the counts of all attempts of the pods that are here.
func (p *Prober) Metrics() prometheus.Gatherer { return p.counted.registry }

// count takes in one attempt that ended. One that ended after its container was stopped would outlive its pod's counts.
func (p *Prober) count(w *worker, o outcome, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.c.ctx.Err() != nil {
		return
	}
	pod, name := w.c.pod, w.c.spec.Name
	p.counted.total.WithLabelValues(title(w.kind), results[o], name, pod.Name, pod.Namespace, string(pod.UID)).Inc()
	if o != failure { // as upstream: how long a failure took is mostly the probe's own timeout
		p.counted.took.WithLabelValues(title(w.kind), name, pod.Name, pod.Namespace).Observe(took.Seconds())
	}
}

// forget what was counted of a pod that has ended.
func (c *counted) forget(uid types.UID) {
	pod, there := c.pods[uid]
	if !there {
		return
	}
	delete(c.pods, uid)
	c.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(uid)})
	c.took.DeletePartialMatch(prometheus.Labels{"namespace": pod.Namespace, "pod": pod.Name})
}

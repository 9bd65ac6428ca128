package machine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func TestANodeShowsTheNetworksMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	for _, name := range []string{"coredns_dns_requests_total", "etcd_server_has_leader", "go_goroutines", "knarr_heartbeat_peers", "my_coredns_total"} {
		registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: name}))
	}
	families, err := picked{registry, nodeMetrics.prefixes}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		got = append(got, f.GetName())
	}
	if diff := cmp.Diff([]string{"coredns_dns_requests_total", "knarr_heartbeat_peers"}, got); diff != "" {
		t.Errorf("shown (-want +got):\n%s", diff)
	}
}

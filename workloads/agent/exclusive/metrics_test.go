package exclusive

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/align"
)

// samples are what collectors are told, by name and the NUMA node; of a histogram, how many it has.
func (n *node) samples(t *testing.T) map[string]float64 {
	t.Helper()
	families, err := n.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, l := range m.Label {
				name += "/" + l.GetValue()
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

func TestCollectorsAreTold(t *testing.T) {
	asks := func(name, cpu string) *corev1.Pod { return podOf(name, asking("app", cpu, "1Gi")) }
	tests := map[string]struct {
		policy Policy
		pods   []*corev1.Pod
		ended  types.UID
		want   map[string]float64
	}{
		"nothing was asked for yet": {policy: Policy{CPUs: true}, want: map[string]float64{
			"kubelet_cpu_manager_pinning_requests_total": 0, "kubelet_cpu_manager_pinning_errors_total": 0,
			"kubelet_cpu_manager_shared_pool_size_millicores": 15000, "kubelet_cpu_manager_exclusive_cpu_allocation_count": 0, // one is reserved
			"kubelet_cpu_manager_allocation_per_numa/0": 0, "kubelet_cpu_manager_allocation_per_numa/1": 0,
			"kubelet_cpu_manager_allocation_per_numa/2": 0, "kubelet_cpu_manager_allocation_per_numa/3": 0,
			"kubelet_topology_manager_admission_requests_total": 0, "kubelet_topology_manager_admission_errors_total": 0, "kubelet_topology_manager_admission_duration_ms": 0,
		}},
		"one has some, one has ended, one shares, and one asks for too many": {
			policy: Policy{CPUs: true}, pods: []*corev1.Pod{asks("a", "2"), asks("b", "3"), asks("c", "500m"), asks("d", "32")}, ended: "b",
			want: map[string]float64{
				"kubelet_cpu_manager_pinning_requests_total": 3, "kubelet_cpu_manager_pinning_errors_total": 1,
				"kubelet_cpu_manager_shared_pool_size_millicores": 13000, "kubelet_cpu_manager_exclusive_cpu_allocation_count": 2,
				"kubelet_cpu_manager_allocation_per_numa/0": 2, "kubelet_cpu_manager_allocation_per_numa/1": 0,
				"kubelet_cpu_manager_allocation_per_numa/2": 0, "kubelet_cpu_manager_allocation_per_numa/3": 0,
				"kubelet_topology_manager_admission_requests_total": 4, "kubelet_topology_manager_admission_errors_total": 1, "kubelet_topology_manager_admission_duration_ms": 4,
			},
		},
		"memory is counted where it is given, CPUs where they are": {
			policy: Policy{Memory: true, Align: align.Policy{Name: align.SingleNode}}, pods: []*corev1.Pod{asks("a", "2"), podOf("b", asking("app", "1", "1Ti"))},
			want: map[string]float64{
				"kubelet_memory_manager_pinning_requests_total": 1, "kubelet_memory_manager_pinning_errors_total": 0, // the second has no nodes, so is never given any
				"kubelet_topology_manager_admission_requests_total": 2, "kubelet_topology_manager_admission_errors_total": 1, "kubelet_topology_manager_admission_duration_ms": 2,
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := started(t, t.TempDir(), built(2, 2, 1, 2, 2), tc.policy)
			for _, pod := range tc.pods {
				_ = n.Admit(pod) // what is refused is counted
			}
			if err := n.Release(t.Context(), tc.ended); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, n.samples(t)); diff != "" {
				t.Errorf("samples (-want +got):\n%s", diff)
			}
		})
	}
}

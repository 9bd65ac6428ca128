package translate

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func TestSwap(t *testing.T) {
	limited := Node{Unified: true, MemoryBytes: 8 << 30, Swap: Swap{Bytes: 4 << 30, Bounded: true, Limited: true}}
	none, unable, v1 := limited, limited, limited
	none.Swap.Limited, unable.Swap.Bounded, v1.Unified = false, false, false
	asks := func(request, limit string) corev1.ResourceRequirements {
		r := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
		if request != "" {
			r.Requests[corev1.ResourceMemory] = resource.MustParse(request)
		}
		if limit != "" {
			r.Limits[corev1.ResourceMemory] = resource.MustParse(limit)
		}
		return r
	}
	tests := map[string]struct {
		node     Node
		asks     corev1.ResourceRequirements
		qos      corev1.PodQOSClass
		priority int32
		want     string // "" means that nothing is said
	}{
		"a burstable container has its part":            {node: limited, asks: asks("2Gi", "4Gi"), qos: corev1.PodQOSBurstable, want: "1073741824"},
		"without a limit as well":                       {node: limited, asks: asks("2Gi", ""), qos: corev1.PodQOSBurstable, want: "1073741824"},
		"one that asks for nothing has none":            {node: limited, asks: asks("", ""), qos: corev1.PodQOSBurstable, want: "0"},
		"one whose memory is all reserved has none":     {node: limited, asks: asks("2Gi", "2Gi"), qos: corev1.PodQOSBurstable, want: "0"},
		"a guaranteed pod has none":                     {node: limited, asks: asks("2Gi", "2Gi"), qos: corev1.PodQOSGuaranteed, want: "0"},
		"a critical pod has none":                       {node: limited, asks: asks("2Gi", ""), qos: corev1.PodQOSBurstable, priority: systemCritical, want: "0"},
		"nobody has any unless told so":                 {node: none, asks: asks("2Gi", ""), qos: corev1.PodQOSBurstable, want: "0"},
		"a kernel that does not count it":               {node: unable, asks: asks("2Gi", ""), qos: corev1.PodQOSBurstable},
		"cgroup v1, which has no such bound (KEP-2400)": {node: v1, asks: asks("2Gi", ""), qos: corev1.PodQOSBurstable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Priority: ptr.To(tc.priority)}, Status: corev1.PodStatus{QOSClass: tc.qos}}
			if got := Resources(pod, &corev1.Container{Resources: tc.asks}, tc.node).Unified["memory.swap.max"]; got != tc.want {
				t.Errorf("memory.swap.max = %q, want %q", got, tc.want)
			}
		})
	}
}

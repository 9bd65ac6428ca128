package snapshot

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func TestPodsThatWantTheSame(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Pod)
		same   bool
	}{
		"another name":  {change: func(p *corev1.Pod) { p.Name, p.UID = "other", types.UID("other") }, same: true},
		"other labels":  {change: func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} }, same: true},
		"another image": {change: func(p *corev1.Pod) { p.Spec.Containers[0].Image = "db" }, same: true},
		"more CPU": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
		}},
		"a device": {change: func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
		}},
		"a container that asks for nothing": {change: func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{}) }},
		"a port":                            {change: func(p *corev1.Pod) { p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}} }},
		"a node":                            {change: func(p *corev1.Pod) { p.Spec.NodeName = "a" }},
		"a selector":                        {change: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }},
		"a toleration":                      {change: func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }},
		"a node affinity": {change: func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{}}}
		}},
		"a pod affinity, which is no wish about the node itself": {change: func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}}
		}, same: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			one, other := pod("p", "", 100), pod("p", "", 100)
			tc.change(other)
			if got := NewPod(one).Wants() == NewPod(other).Wants(); got != tc.same {
				t.Errorf("want the same: %v, not %v", got, tc.same)
			}
		})
	}
}

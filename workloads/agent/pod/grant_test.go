package pod

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/status"
)

func TestGrant(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("2"),
	}}}
	pod := func(name, cpu, memory string) *corev1.Pod {
		asks := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{
			NodeName: "n", Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: asks}}},
		}}
	}
	pinned := pod("p", "1", "1Gi")
	pinned.Spec.NodeSelector = map[string]string{"disk": "gone"}
	full := []*corev1.Pod{pod("o", "3", "1Gi"), pod("q", "0", "0")}
	tests := map[string]struct {
		others []*corev1.Pod
		pod    *corev1.Pod
		want   status.Pending
	}{
		"there is room":                            {others: full[:1], pod: pod("p", "1", "3Gi")},
		"another has what it wants":                {others: full[:1], pod: pod("p", "2", "1Gi"), want: status.Pending{Reason: "Deferred", Message: "Node didn't have enough resource: cpu"}},
		"nobody could ever give it":                {others: full[:1], pod: pod("p", "1", "5Gi"), want: status.Pending{Reason: "Infeasible", Message: "Node didn't have enough capacity: memory"}},
		"the number of pods does not count: it is": {others: full, pod: pod("p", "1", "1Gi")},
		"where it was placed by is over":           {pod: pinned},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, grant(node, tc.others, tc.pod)); diff != "" {
				t.Errorf("grant() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatAPodWasGranted(t *testing.T) {
	asks := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}
	}
	wish := wantedPod(func(p *corev1.Pod) {
		p.Generation, p.Labels = 2, map[string]string{"a": "b"}
		p.Spec.Containers[0].Resources, p.Spec.Containers[1].Resources = asks("2"), asks("1")
	})
	had := asks("1")
	wish.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", ContainerID: "containerd://a0", Resources: &had}, {Name: "b"}}
	before := reported(wish)
	if diff := cmp.Diff([]corev1.ResourceRequirements{asks("1"), asks("1")}, []corev1.ResourceRequirements{before.Spec.Containers[0].Resources, before.Spec.Containers[1].Resources}); diff != "" {
		t.Errorf("reported() (-want +got):\n%s", diff)
	}
	if !grows(before, wish) || grows(wish, before) {
		t.Error("grows() does not see which of the two asks for more")
	}
	kept := withResources(wish, before)
	if !sameResources(kept, before) || kept.Labels["a"] != "b" || kept.Generation != 2 {
		t.Errorf("withResources() = %+v, want the newer pod with the older resources", kept)
	}
	if wish.Spec.Containers[0].Resources.Requests.Cpu().Value() != 2 {
		t.Error("withResources() changed the pod it was given")
	}
}

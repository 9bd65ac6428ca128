package translate

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestHugepages(t *testing.T) {
	pages := func(name, amount string) corev1.ResourceRequirements {
		l := corev1.ResourceList{"memory": resource.MustParse("1Gi"), corev1.ResourceName(name): resource.MustParse(amount)}
		return corev1.ResourceRequirements{Requests: l, Limits: l}
	}
	both := []corev1.ResourceName{"hugepages-1Gi", "hugepages-2Mi"}
	ofPod := pages("hugepages-2Mi", "16Mi")
	tests := map[string]struct {
		pod   *corev1.ResourceRequirements // of the whole pod
		asks  corev1.ResourceRequirements
		sizes []corev1.ResourceName
		want  []string
	}{
		"what it asks for, and nothing of other sizes":      {asks: pages("hugepages-2Mi", "4Mi"), sizes: both, want: []string{"1GB 0", "2MB 4194304"}},
		"who asks for none has none":                        {sizes: both, want: []string{"1GB 0", "2MB 0"}},
		"what the pod has is for all who do not name it":    {pod: &ofPod, sizes: both, want: []string{"1GB 0", "2MB 16777216"}},
		"who names it is held to it":                        {pod: &ofPod, asks: pages("hugepages-2Mi", "4Mi"), sizes: both, want: []string{"1GB 0", "2MB 4194304"}},
		"where nothing can be bounded nobody is told zeros": {},
		"though what is asked for is":                       {asks: pages("hugepages-2Mi", "4Mi"), want: []string{"2MB 4194304"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Resources: tc.pod}}
			var got []string
			for _, l := range Resources(pod, &corev1.Container{Resources: tc.asks}, Node{PageSizes: tc.sizes}).HugepageLimits {
				got = append(got, fmt.Sprint(l.PageSize, " ", l.Limit))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("limits (-want +got):\n%s", diff)
			}
		})
	}
}

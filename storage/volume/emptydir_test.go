package volume

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestPageSize(t *testing.T) {
	asks := func(names ...string) corev1.ResourceRequirements {
		requests := corev1.ResourceList{"memory": resource.MustParse("1Gi")}
		for _, name := range names {
			requests[corev1.ResourceName(name)] = resource.MustParse("1Gi")
		}
		return corev1.ResourceRequirements{Requests: requests, Limits: requests}
	}
	ofPod := asks("hugepages-1Gi")
	tests := map[string]struct {
		medium    corev1.StorageMedium
		pod       *corev1.ResourceRequirements // of the whole pod
		container corev1.ResourceRequirements
		want      int64
		err       string
	}{
		"the medium's":                       {medium: "HugePages-2Mi", container: asks("hugepages-1Gi"), want: 2 << 20},
		"the one a container asks for":       {medium: "HugePages", container: asks("hugepages-2Mi"), want: 2 << 20},
		"the one the pod as a whole asks":    {medium: "HugePages", pod: &ofPod, want: 1 << 30},
		"both may ask for the same":          {medium: "HugePages", pod: &ofPod, container: asks("hugepages-1Gi"), want: 1 << 30},
		"two leave it open which":            {medium: "HugePages", pod: &ofPod, container: asks("hugepages-2Mi"), err: "exactly one page size in the pod's requests, found 2"},
		"none leaves it open as well":        {medium: "HugePages", container: asks(), err: "found 0"},
		"a medium of no size is not guessed": {medium: "HugePages-big", err: `emptyDir medium "HugePages-big"`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Resources: tc.pod, Containers: []corev1.Container{{Resources: tc.container}}}}
			got, err := pageSize(pod, tc.medium)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("pageSize() = %d, %v; want an error with %q", got, err, tc.err)
				}
				return
			}
			if got != tc.want || err != nil {
				t.Errorf("pageSize() = %d, %v; want %d", got, err, tc.want)
			}
		})
	}
}

package devices

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func container(name, count string) corev1.Container {
	c := corev1.Container{Name: name}
	if count != "" {
		c.Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse(count), corev1.ResourceCPU: resource.MustParse("1")}
	}
	return c
}

func TestChoose(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	sidecar := container("sidecar", "1")
	sidecar.RestartPolicy = &always
	const gpu = "example.com/gpu"
	tests := map[string]struct {
		spec corev1.PodSpec
		free []string
		want granted
		err  string
	}{
		"each container gets its own": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a", "1"), container("b", "2"), container("c", "")}}, free: []string{"0", "1", "2"},
			want: granted{"a": {gpu: {"0"}}, "b": {gpu: {"1", "2"}}},
		},
		"what an init container had is used again": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{container("init", "2")}, Containers: []corev1.Container{container("a", "1"), container("b", "2")}}, free: []string{"0", "1", "2"},
			want: granted{"init": {gpu: {"0", "1"}}, "a": {gpu: {"0"}}, "b": {gpu: {"1", "2"}}},
		},
		"a later init container uses it, too": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{container("one", "1"), container("two", "2")}}, free: []string{"0", "1"},
			want: granted{"one": {gpu: {"0"}}, "two": {gpu: {"0", "1"}}},
		},
		"a sidecar keeps its own": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{sidecar}, Containers: []corev1.Container{container("a", "1")}}, free: []string{"0", "1"},
			want: granted{"sidecar": {gpu: {"0"}}, "a": {gpu: {"1"}}},
		},
		"too few": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a", "1"), container("b", "2")}}, free: []string{"0", "1"},
			err: "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			wanted := demands(&corev1.Pod{Spec: tc.spec}, func(r string) bool { return r == gpu })
			got, err := choose(wanted, map[string][]string{gpu: tc.free})
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("choose() = %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("choose() (-want +got):\n%s", diff)
			}
		})
	}
}

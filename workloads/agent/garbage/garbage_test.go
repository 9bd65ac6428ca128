package garbage

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestNeed(t *testing.T) {
	tests := map[string]struct{ total, available, want uint64 }{
		"room enough":                          {1000, 160, 0},
		"85 % in use: down to 80 %":            {1000, 150, 50},
		"full":                                 {1000, 0, 200},
		"a disk nobody can read":               {0, 0, 0},
		"both figures are read a moment apart": {1000, 1001, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Usual().need(tc.total, tc.available); got != tc.want {
				t.Errorf("need() = %d, want %d", got, tc.want)
			}
		})
	}
}

func TestChoose(t *testing.T) {
	old := now.Add(-time.Hour)
	images := []Image{
		{ID: "used lately", Bytes: 10, Since: old, Used: now.Add(-time.Minute)},
		{ID: "in use", Bytes: 10, Since: old, InUse: true, Used: now},
		{ID: "pinned", Bytes: 10, Since: old, Pinned: true},
		{ID: "just pulled", Bytes: 10, Since: now.Add(-time.Minute)},
		{ID: "never used", Bytes: 10, Since: old},
	}
	tests := map[string]struct {
		bytes uint64
		want  []string
	}{
		"nothing is needed":              {0, nil},
		"what was never used goes first": {5, []string{"never used"}},
		"as many as it takes":            {11, []string{"never used", "used lately"}},
		"never what is used or pinned":   {1000, []string{"never used", "used lately"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, i := range Usual().choose(images, tc.bytes, now) {
				got = append(got, i.ID)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("choose() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestImagesPodsNameAreInUse(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Image: "app"}},
		Volumes:    []corev1.Volume{{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "registry.example/data:1"}}}},
	}}
	wanted := map[string]bool{}
	for _, name := range named(pod) {
		wanted[name] = true
	}
	for name, want := range map[string]bool{"docker.io/library/app:latest": true, "registry.example/data:1": true, "docker.io/library/other:latest": false} {
		got := judge(&runtimeapi.Image{Id: "sha256:1", RepoTags: []string{name}}, wanted, map[string]time.Time{name: now})
		if got.InUse != want || !got.Since.Equal(now) {
			t.Errorf("%s: %+v, want in use %v since now", name, got, want)
		}
	}
}

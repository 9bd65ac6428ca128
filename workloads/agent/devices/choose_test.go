package devices

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/workloads/agent/align"
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
		spec   corev1.PodSpec
		free   []string
		nodes  map[string]align.Nodes
		from   align.Nodes // 0: anywhere
		prefer []string    // of the plugin, in each choice
		want   granted
		err    string
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
		"those of a node first, then others": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a", "2")}}, free: []string{"0", "1", "2"},
			nodes: map[string]align.Nodes{"0": 1, "1": 2, "2": 1}, from: 2,
			want: granted{"a": {gpu: {"1", "0"}}},
		},
		"what the plugin prefers": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a", "2")}}, free: []string{"0", "1", "2"}, prefer: []string{"2", "1"},
			want: granted{"a": {gpu: {"1", "2"}}},
		},
		"not where it leaves the node": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a", "1")}}, free: []string{"0", "1", "2"},
			nodes: map[string]align.Nodes{"0": 1, "1": 2, "2": 2}, from: 2, prefer: []string{"0"},
			want: granted{"a": {gpu: {"1"}}},
		},
		"nor where it is not what was asked": {
			spec: corev1.PodSpec{Containers: []corev1.Container{container("a", "2")}}, free: []string{"0", "1", "2"}, prefer: []string{"2", "2"},
			want: granted{"a": {gpu: {"0", "1"}}},
		},
		"nor without what is passed on": {
			spec: corev1.PodSpec{InitContainers: []corev1.Container{container("init", "1")}, Containers: []corev1.Container{container("a", "1")}}, free: []string{"0", "1"}, prefer: []string{"1"},
			want: granted{"init": {gpu: {"1"}}, "a": {gpu: {"1"}}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.from == 0 {
				tc.from = align.Anywhere
			}
			r := room{free: map[string][]string{gpu: tc.free}, passed: map[string][]string{}, nodes: func(_, id string) align.Nodes {
				if at, said := tc.nodes[id]; said {
					return at
				}
				return align.Anywhere
			}}
			var got granted
			var err error
			for _, d := range demands(&corev1.Pod{Spec: tc.spec}, func(r string) bool { return r == gpu }) {
				var ids map[string][]string
				if ids, err = r.choose(d, tc.from, map[string][]string{gpu: tc.prefer}); err != nil {
					got = nil
					break
				}
				if got == nil {
					got = granted{}
				}
				got[d.container] = ids
				r.give(d, ids)
			}
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("choose() = %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("choose() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestHints(t *testing.T) {
	at := map[string]align.Nodes{"0": 1, "1": 2, "2": 2, "3": 3}
	tests := map[string]struct {
		n                     int
		working, free, passed []string
		want                  []align.Hint
	}{
		"devices that say where they are":        {n: 1, working: []string{"0", "1"}, free: []string{"1"}, want: []align.Hint{{Nodes: 2, Preferred: true}, {Nodes: 3}}},
		"two of one node":                        {n: 2, working: []string{"0", "1", "2"}, free: []string{"0", "1", "2"}, want: []align.Hint{{Nodes: 2, Preferred: true}, {Nodes: 3}}},
		"one that is close to both":              {n: 1, working: []string{"3"}, free: []string{"3"}, want: []align.Hint{{Nodes: 1, Preferred: true}, {Nodes: 2, Preferred: true}, {Nodes: 3}}},
		"what is passed on has to be among them": {n: 1, working: []string{"0", "1"}, free: []string{"1"}, passed: []string{"0"}, want: []align.Hint{{Nodes: 1, Preferred: true}, {Nodes: 3}}},
		"none is left":                           {n: 1, working: []string{"0"}, want: []align.Hint{}},
		"devices of no node":                     {n: 1, working: []string{"x"}, free: []string{"x"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := room{free: map[string][]string{"": tc.free}, passed: map[string][]string{"": tc.passed}, nodes: func(_, id string) align.Nodes {
				if nodes, said := at[id]; said {
					return nodes
				}
				return align.Anywhere
			}}
			if diff := cmp.Diff(tc.want, r.hints("", tc.n, tc.working, 3)); diff != "" {
				t.Errorf("hints() (-want +got):\n%s", diff)
			}
		})
	}
}

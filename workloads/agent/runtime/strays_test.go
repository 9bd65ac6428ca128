package runtime

import (
	"strings"
	"testing"
)

func TestStrayShim(t *testing.T) {
	const socket = "/run/knarr/containerd.sock"
	tests := map[string]struct {
		line string
		want bool
	}{
		"one with a bundle is known":                {"/x/containerd-shim-runc-v2 -namespace k8s.io -id known -address /run/knarr/containerd.sock", false},
		"one without a bundle is not":               {"/x/containerd-shim-runc-v2 -namespace k8s.io -id other -address /run/knarr/containerd.sock", true},
		"another machine's is none of ours":         {"/x/containerd-shim-runc-v2 -namespace k8s.io -id other -address /run/b/containerd.sock", false},
		"a start whose asker is gone":               {"/x/containerd-shim-runc-v2 -namespace k8s.io -address /run/knarr/containerd.sock -id known start", true},
		"clearing up may go on":                     {"/x/containerd-shim-runc-v2 -namespace k8s.io -address /run/knarr/containerd.sock -id other delete", false},
		"another program with a shim's arguments":   {"grep -address /run/knarr/containerd.sock -id other", false},
		"an option at the end that lacks its value": {"containerd-shim-runc-v2 -id other -address", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := strayShim(strings.Fields(tc.line), socket, func(id string) bool { return id == "known" }); got != tc.want {
				t.Errorf("strayShim(%q) = %v; want %v", tc.line, got, tc.want)
			}
		})
	}
}

package machine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/bootstrap/pki"
)

func TestCheckRole(t *testing.T) {
	tests := map[string]struct {
		role config.Role
		kept string // a file the machine has from before
		join string
		says string // "" means it may start
	}{
		"a new server may start":                            {role: config.Server},
		"a new agent may start":                             {role: config.Agent, join: "https://192.0.2.1:6443"},
		"a server may start again":                          {role: config.Server, kept: pki.ClusterCAKeyFile},
		"an agent may start again":                          {role: config.Agent, kept: join.StateFile},
		"an agent does not take a server's authorities":     {role: config.Agent, kept: pki.ClusterCAKeyFile, says: "knarr reset"},
		"a server does not start on a node's folder":        {role: config.Server, kept: join.StateFile, says: "knarr reset"},
		"a server that is to join does not start a cluster": {role: config.Server, join: "https://192.0.2.1:6443", says: "knarr agent"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := &config.Config{Role: tc.role, DataDir: t.TempDir(), Join: tc.join}
			if tc.kept != "" {
				if err := os.MkdirAll(cfg.Paths().PKI(), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(cfg.Paths().PKI(), tc.kept), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := checkRole(cfg)
			if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("checkRole() = %v; want it to say %q", err, tc.says)
			}
		})
	}
}

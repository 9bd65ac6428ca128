package machine

import (
	"fmt"
	"os"
	"path/filepath"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/bootstrap/pki"
)

// checkRole refuses to start a machine as what it is not: an agent would replace the authorities a server's cluster
// hangs on by those of the cluster it joins, and a server would begin another cluster beside the one meant.
func checkRole(cfg *config.Config) error {
	const leave = "run `knarr reset` here first if it is to leave that cluster, or give this one a --data-dir of its own"
	switch {
	case cfg.Role == config.Agent && kept(cfg, pki.ClusterCAKeyFile):
		return fmt.Errorf("%s holds a server with a cluster of its own: start `knarr server`; %s", cfg.DataDir, leave)
	case cfg.Role == config.Server && kept(cfg, join.StateFile):
		return fmt.Errorf("%s holds a node of another machine's cluster: start `knarr agent`; %s", cfg.DataDir, leave)
	case cfg.Role == config.Server && cfg.Join != "":
		return fmt.Errorf("join is for agents: `knarr agent` makes this machine a node of %s; remove join to make it a cluster of its own", cfg.Join)
	}
	return nil
}

func kept(cfg *config.Config, file string) bool {
	_, err := os.Stat(filepath.Join(cfg.Paths().PKI(), file))
	return err == nil
}

package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/knarr/appliance/machine"
	"knarr.dev/knarr/bootstrap/config"
)

// localPaths are where a client command looks for this machine's knarr when it is not told: the server's defaults.
func localPaths() config.Paths {
	paths := config.Paths{Data: "/var/lib/knarr", Run: "/run/knarr"}
	if dir := os.Getenv("KNARR_DATA_DIR"); dir != "" {
		paths.Data = dir
	}
	if dir := os.Getenv("KNARR_RUN_DIR"); dir != "" {
		paths.Run = dir
	}
	return paths
}

// localFlags lets a client command be told where this machine's knarr keeps its folders.
func localFlags(cmd *cobra.Command) *config.Paths {
	paths := localPaths()
	cmd.PersistentFlags().StringVar(&paths.Data, "data-dir", paths.Data, "the server's or agent's --data-dir")
	cmd.PersistentFlags().StringVar(&paths.Run, "run-dir", paths.Run, "the server's or agent's --run-dir")
	return &paths
}

// localKubeconfig is the administrator's, wherever this machine's server was told to write it.
func localKubeconfig(paths config.Paths) string {
	if state, err := machine.ReadState(paths); err == nil && state != nil && state.Kubeconfig != "" {
		return state.Kubeconfig
	}
	return paths.Kubeconfig()
}

// adminClient reaches this machine's API server as its administrator.
func adminClient(paths config.Paths) (*rest.Config, error) {
	path := localKubeconfig(paths)
	client, err := clientcmd.BuildConfigFromFlags("", path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no kubeconfig at %s: run this on a server, and give its --data-dir if it has one of its own", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
	return client, nil
}

package command

import (
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/spf13/cobra"

	"knarr.dev/knarr/appliance/machine"
	"knarr.dev/knarr/bootstrap/config"
)

// ownContainerd says what to use instead where another runtime runs this machine's containers.
func ownContainerd(paths config.Paths, what string) error {
	state, err := machine.ReadState(paths)
	if err != nil || state == nil || state.Runtime == "" {
		return nil // whoever goes on finds out what is wrong
	}
	socket := strings.TrimPrefix(state.Runtime, "unix://")
	return fmt.Errorf("%s: the containers of this machine are run by %s, not by knarr's own containerd: use that runtime's tools "+
		"(containerd: ctr --address %s --namespace k8s.io ...; any: crictl --runtime-endpoint %s ...)", what, state.Runtime, socket, state.Runtime)
}

func ctrCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "ctr",
		Short:              "containerd's client, for this machine's containerd and the namespace of its pods",
		DisableFlagParsing: true, // they are ctr's
		RunE: func(cmd *cobra.Command, args []string) error {
			endAtSignals()
			if err := ownContainerd(localPaths(), "ctr"); err != nil && os.Getenv("CONTAINERD_ADDRESS") == "" {
				return err
			}
			for name, value := range map[string]string{
				"CONTAINERD_ADDRESS":   localPaths().ContainerdSocket(),
				"CONTAINERD_NAMESPACE": "k8s.io",
			} {
				if os.Getenv(name) == "" {
					if err := os.Setenv(name, value); err != nil {
						return err
					}
				}
			}
			return app.New().Run(cmd.Context(), append([]string{"ctr"}, args...))
		},
	}
}

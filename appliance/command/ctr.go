package command

import (
	"os"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/spf13/cobra"
)

func ctrCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "ctr",
		Short:              "containerd's client, for this machine's containerd and the namespace of its pods",
		DisableFlagParsing: true, // they are ctr's
		RunE: func(cmd *cobra.Command, args []string) error {
			endAtSignals()
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

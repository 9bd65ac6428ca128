package command

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/appliance/apiserver"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "what this binary is",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "knarr %s, serving Kubernetes %s, %s %s/%s\n",
				version, apiserver.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	}
}

// Package command is the command line.
//
// In:       arguments, KNARR_ variables, a configuration file.
// Out:      one subcommand run to its end.
// Promise:  an error is one line that says what to do; other people's scripts rely on names, flags and exit codes.
// Not here: what the subcommands do (appliance/machine and the packages below it).
package command

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"
)

// version is set when linking.
var version = "dev"

// Run the subcommand args ask for. As `kubectl`, by a link of that name, the binary is kubectl.
func Run(ctx context.Context, args []string) error {
	if filepath.Base(args[0]) == "kubectl" {
		return kubectl(ctx, args[1:])
	}
	root := &cobra.Command{
		Use:           "knarr",
		Short:         "Kubernetes in one binary",
		SilenceUsage:  true,
		SilenceErrors: true, // main prints it, once
	}
	root.AddCommand(
		serverCommand(), agentCommand(), secretsCommand(),
		kubectlCommand(), ctrCommand(), imageCommand(),
		tokenCommand(), statusCommand(), whyCommand(), configCommand(), resetCommand(), versionCommand(),
	)
	root.SetArgs(args[1:])
	return root.ExecuteContext(ctx)
}

package command

import (
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/appliance/apiserver"
	"knarr.dev/knarr/appliance/machine"
	"knarr.dev/knarr/bootstrap/config"
)

func serverCommand() *cobra.Command {
	return machineCommand(config.Server, &cobra.Command{
		Use:   "server",
		Short: "run a control plane, and a node beside it",
		Long: `Run a whole cluster on this machine, in the foreground: datastore, API server, controllers, scheduler and a node.

Stopping it leaves pods running; the next start finds them. Every flag is also a key of the configuration file and a
KNARR_... variable.`,
	})
}

func agentCommand() *cobra.Command {
	return machineCommand(config.Agent, &cobra.Command{
		Use:   "agent",
		Short: "run a node of another machine's cluster",
		Example: `  knarr token create                                        on a server
  knarr agent --join https://SERVER:6443 --token TOKEN      here`,
	})
}

// machineCommand completes a command that runs this machine in one role.
func machineCommand(role config.Role, cmd *cobra.Command) *cobra.Command {
	cmd.Args = cobra.NoArgs
	config.Flags(cmd.Flags(), role)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(cmd.Flags(), role)
		if err != nil {
			return err
		}
		level := slog.LevelInfo
		if os.Getenv("DEBUG") != "" { // as containerd and many others do; not a key, so that no file keeps it on
			level = slog.LevelDebug
		}
		log := logTo(os.Stderr, level)
		err = machine.Run(cmd.Context(), cfg, apiserver.Version, log)
		if moved := (*machine.Moved)(nil); errors.As(err, &moved) {
			log.Info("this machine's address changed; beginning anew", "from", moved.From, "to", moved.To)
			return moved.BeginAnew()
		}
		return err
	}
	return cmd
}

package command

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/appliance/machine"
	"knarr.dev/knarr/bootstrap/config"
)

func resetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "stop knarr and remove every trace of it from this machine, its data included",
		Args:  cobra.NoArgs,
	}
	yes := cmd.Flags().Bool("yes", false, "do not ask")
	config.Flags(cmd.Flags(), config.Server)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(cmd.Flags(), config.Server)
		if err != nil {
			return err
		}
		if !*yes {
			fmt.Fprintf(cmd.OutOrStdout(), "This stops every pod on %s and deletes %s and %s, the cluster's data included. Type the machine's name to go on: ",
				cfg.NodeName, cfg.DataDir, cfg.RunDir)
			answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
			if strings.TrimSpace(answer) != cfg.NodeName {
				return fmt.Errorf("reset of %s was not confirmed; nothing was changed (--yes does not ask)", cfg.NodeName)
			}
		}
		return machine.Reset(cmd.Context(), cfg, logTo(os.Stderr, 0))
	}
	return cmd
}

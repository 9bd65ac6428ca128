package command

import (
	"github.com/spf13/cobra"

	"knarr.dev/knarr/bootstrap/config"
)

func configCommand() *cobra.Command {
	role := string(config.Server)
	show := &cobra.Command{
		Use:   "show",
		Short: "each setting in effect, and where it came from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := config.Explain(cmd.Flags(), config.Role(role))
			if err != nil {
				return err
			}
			return config.Show(cmd.OutOrStdout(), values)
		},
	}
	config.Flags(show.Flags(), config.Server)
	cmd := &cobra.Command{Use: "config", Short: "look at the configuration"}
	cmd.AddCommand(show)
	return cmd
}

package command

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/bootstrap/token"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "tokens that let machines join"}
	paths := localFlags(cmd)
	cmd.AddCommand(tokenCreate(paths), tokenList(paths), tokenRevoke(paths))
	return cmd
}

func secretsClient(paths config.Paths) (*corev1client.CoreV1Client, error) {
	rest, err := adminClient(paths)
	if err != nil {
		return nil, err
	}
	return corev1client.NewForConfig(rest)
}

func tokenCreate(paths *config.Paths) *cobra.Command {
	cmd := &cobra.Command{Use: "create", Short: "make a token and print it", Args: cobra.NoArgs}
	ttl := cmd.Flags().Duration("ttl", 24*time.Hour, "how long machines may join with it; 0 means until it is revoked")
	description := cmd.Flags().String("description", "", "what it is for, shown by `knarr token list`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *ttl < 0 {
			return fmt.Errorf("ttl is %s: give a time to come, or 0 for no end", *ttl)
		}
		secrets, err := secretsClient(*paths)
		if err != nil {
			return err
		}
		pin, err := clusterPin(*paths)
		if err != nil {
			return err
		}
		var expires time.Time
		if *ttl > 0 {
			expires = time.Now().Add(*ttl)
		}
		made := token.New(pin)
		if err := token.Create(cmd.Context(), secrets, made, *description, expires); err != nil {
			return err
		}
		fmt.Fprintln(cmd.OutOrStdout(), made.Reveal()) // the one place a token is shown
		return nil
	}
	return cmd
}

func clusterPin(paths config.Paths) (string, error) {
	path := filepath.Join(paths.PKI(), pki.ClusterCAFile)
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the cluster's authority: %w", err)
	}
	certs, err := pki.ParseCerts(content)
	if err != nil {
		return "", fmt.Errorf("read the cluster's authority in %s: %w", path, err)
	}
	return pki.Pin(certs[0]), nil
}

func tokenList(paths *config.Paths) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "tokens the cluster knows, without their secret",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			secrets, err := secretsClient(*paths)
			if err != nil {
				return err
			}
			grants, err := token.List(cmd.Context(), secrets)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(table, "ID\tEXPIRES\tFOR\tDESCRIPTION")
			for _, g := range grants {
				expires := "never"
				switch {
				case g.Expired(time.Now()):
					expires = "expired"
				case !g.Expires.IsZero():
					expires = "in " + time.Until(g.Expires).Round(time.Minute).String()
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", g.ID, expires, strings.Join(g.Groups, ","), g.Description)
			}
			return table.Flush()
		},
	}
}

func tokenRevoke(paths *config.Paths) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke ID",
		Short: "end a token; machines that joined with it stay",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			secrets, err := secretsClient(*paths)
			if err != nil {
				return err
			}
			return token.Revoke(cmd.Context(), secrets, args[0])
		},
	}
}

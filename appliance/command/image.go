package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"text/tabwriter"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/spf13/cobra"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/workloads/agent/runtime"
)

func imageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "images of this machine's pods"}
	paths := localFlags(cmd)
	cmd.AddCommand(imageImport(paths), imageList(paths))
	return cmd
}

func imageImport(paths *config.Paths) *cobra.Command {
	return &cobra.Command{
		Use:   "import ARCHIVE...",
		Short: "give this machine's pods the images of OCI or docker archives",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, archives []string) error {
			if err := ownContainerd(*paths, "image import"); err != nil {
				return err
			}
			return withContainerd(paths.ContainerdSocket(), func(client *containerd.Client) error {
				for _, archive := range archives {
					names, err := importArchive(cmd.Context(), client, archive)
					if err != nil {
						return err
					}
					for _, name := range names {
						fmt.Fprintln(cmd.OutOrStdout(), name)
					}
				}
				return nil
			})
		},
	}
}

func importArchive(ctx context.Context, client *containerd.Client, path string) ([]string, error) {
	archive, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("import images: %w", err)
	}
	defer archive.Close()
	names, err := runtime.Import(ctx, client, archive)
	if err != nil {
		return nil, fmt.Errorf("import images from %s: %w", path, err)
	}
	return names, nil
}

func imageList(paths *config.Paths) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "images this machine has",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := ownContainerd(*paths, "image list"); err != nil {
				return err
			}
			return withContainerd(paths.ContainerdSocket(), func(client *containerd.Client) error {
				images, err := runtime.List(cmd.Context(), client)
				if err != nil {
					return err
				}
				table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(table, "NAME\tSIZE\tDIGEST")
				for _, i := range images {
					fmt.Fprintf(table, "%s\t%.1f MiB\t%s\n", i.Name, float64(i.Size)/(1<<20), i.Digest)
				}
				return table.Flush()
			})
		},
	}
}

// withContainerd talks to the containerd of the knarr that runs here.
func withContainerd(socket string, do func(*containerd.Client) error) error {
	// containerd's client connects when it is first used, and then tries for seconds and says little.
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("reach containerd: %w (does knarr run here? if it has a --run-dir of its own, give it)", err)
	}
	_ = conn.Close() // it only had to open
	client, err := containerd.New(socket, containerd.WithTimeout(5*time.Second))
	if err != nil {
		return fmt.Errorf("reach containerd at %s: %w", socket, err)
	}
	return errors.Join(do(client), client.Close())
}

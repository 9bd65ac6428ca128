// Command conformance runs upstream's conformance suite against a cluster of two machines in the lab.
//
// In:       a built knarr (KNARR_BIN, or bin/knarr), and the harness that holds suite and images (CONFORMANCE).
// Out:      the harness's summary, and its files.
// Promise:  `down`, and a run without a subcommand, leave nothing; the suite judges knarr as a user's cluster is judged.
// Not here: the suite and its images (the harness), how machines are made (test/lab/lab).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "conformance [FOCUS]",
		Short:         "Upstream's conformance suite against knarr; FOCUS is a regular expression on the names of tests",
		Args:          cobra.MaximumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("lab", "conf", "name of the lab")
	more := root.PersistentFlags().StringArray("knarr", nil, "a further argument for knarr on both machines, such as --packet-filter=iptables")
	// The command line comes first, so that what is missing is told before anything is made.
	inHarness := func(do func(context.Context, *cluster, []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			h, err := findHarness()
			if err != nil {
				return err
			}
			return do(cmd.Context(), &cluster{name: *name, harness: h, more: *more}, args)
		}
	}
	root.RunE = inHarness(func(ctx context.Context, c *cluster, args []string) error {
		if err := c.up(ctx); err != nil {
			return errors.Join(err, c.down())
		}
		return errors.Join(c.run(ctx, args), c.down())
	})
	root.AddCommand(
		&cobra.Command{Use: "up", Short: "Start the two machines, with all images", Args: cobra.NoArgs,
			RunE: inHarness(func(ctx context.Context, c *cluster, _ []string) error { return c.up(ctx) })},
		&cobra.Command{Use: "run [FOCUS]", Short: "Run tests on them", Args: cobra.MaximumNArgs(1),
			RunE: inHarness((func(ctx context.Context, c *cluster, args []string) error { return c.run(ctx, args) }))},
		&cobra.Command{Use: "down", Short: "Remove the machines with everything on them", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return (&cluster{name: *name}).down() }},
	)
	return root
}

// harness is where the suite and its images are.
type harness struct {
	scripts string // folder of run.sh and serve-images.sh
	images  string // folder of the archives
}

// findHarness looks at CONFORMANCE for the scripts, and at PEER, as they do, for what they built.
func findHarness() (harness, error) {
	scripts := os.Getenv("CONFORMANCE")
	if scripts == "" {
		scripts = filepath.Join("..", "shared", "conformance")
	}
	scripts, err := filepath.Abs(scripts)
	if err != nil {
		return harness{}, fmt.Errorf("find the conformance harness: %w", err)
	}
	if _, err := os.Stat(filepath.Join(scripts, "run.sh")); err != nil {
		return harness{}, fmt.Errorf("find the conformance harness: %w: set CONFORMANCE to its folder", err)
	}
	peer := os.Getenv("PEER")
	if peer == "" {
		peer = filepath.Join(os.TempDir(), "knarr-conformance")
	}
	h := harness{scripts: scripts, images: filepath.Join(peer, "images")}
	if archives, err := h.archives(); err != nil || len(archives) == 0 {
		return harness{}, fmt.Errorf("no images in %s: build them with %s/build-bins.sh, build-busybox.sh and build-images.sh", h.images, scripts)
	}
	return h, nil
}

// archives of all images the suite uses.
func (h harness) archives() ([]string, error) {
	return filepath.Glob(filepath.Join(h.images, "*.tar"))
}

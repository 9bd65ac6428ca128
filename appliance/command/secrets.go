package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/appliance/apiserver/atrest"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/appliance/machine"
	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/keyring"
	"knarr.dev/knarr/bootstrap/pki"
)

func secretsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Short: "how Secrets are encrypted in the datastore"}
	paths := localFlags(cmd)
	cmd.AddCommand(secretsStatus(paths), secretsRotate(paths))
	return cmd
}

// surveyPatience is for a datastore in the same machine.
const surveyPatience = 20 * time.Second

// survey counts Secrets by the key they are encrypted with. It asks the datastore itself: what the API server shows is
// decrypted.
func survey(ctx context.Context, paths config.Paths) (map[string]int, error) {
	state, err := machine.ReadState(paths)
	if err != nil {
		return nil, err
	}
	if state == nil || state.Role != config.Server {
		return nil, fmt.Errorf("no server runs from %s: start it, or give its --data-dir and --run-dir", paths.Data)
	}
	ctx, cancel := context.WithTimeout(ctx, surveyPatience)
	defer cancel()
	store, err := persistence.Connect(persistence.Endpoints{URLs: []string{"unix://" + paths.EtcdSocket()}})
	if err != nil {
		return nil, err
	}
	counts, err := store.Survey(ctx, atrest.SecretsPrefix)
	return counts, errors.Join(err, store.Close())
}

func secretsStatus(paths *config.Paths) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "keys, and how many Secrets are encrypted with each",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ring, err := keyring.Load(keysFile(*paths))
			if err != nil {
				return err
			}
			counts, err := survey(cmd.Context(), *paths)
			if err != nil {
				return err
			}
			if file := override(*paths); file != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s rules; our own keys only read.\n", file)
			}
			return showSecrets(cmd.OutOrStdout(), ring, counts)
		},
	}
}

// showSecrets prints our keys in the order they are tried, then what else the datastore was written with.
func showSecrets(out io.Writer, ring keyring.Ring, counts map[string]int) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "KEY\tUSE\tSECRETS")
	counts = maps.Clone(counts)
	for i, name := range ring.Names() {
		use := "writes and reads"
		if i > 0 {
			use = "reads"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\n", name, use, counts[name])
		delete(counts, name)
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		shown, use := name, "not ours"
		if name == "" {
			shown, use = "-", "not encrypted"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\n", shown, use, counts[name])
	}
	if err := table.Flush(); err != nil {
		return err
	}
	switch ring.Phase() {
	case keyring.Announced:
		fmt.Fprintln(out, "A new key was made; a running server uses it within seconds.")
	case keyring.Rewriting:
		fmt.Fprintln(out, "A rotation is under way; old keys go some ten minutes after the last Secret was rewritten.")
	}
	return nil
}

func keysFile(paths config.Paths) string { return filepath.Join(paths.PKI(), pki.EncryptionKeysFile) }

// override is the operator's own configuration, when the running server has one.
func override(paths config.Paths) string {
	if state, err := machine.ReadState(paths); err == nil && state != nil {
		return state.Encryption
	}
	return ""
}

func secretsRotate(paths *config.Paths) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "make a new key and encrypt all Secrets with it",
		Long: `Make a new key and encrypt all Secrets with it. The server does the work; this command waits until no Secret needs the
old key any more. The server forgets the old key some ten minutes later, when nothing in the datastore's history needs it.

A snapshot of the datastore made before needs the old key: keep a copy of DATA-DIR/pki/encryption.yaml with it.`,
		Args: cobra.NoArgs,
	}
	wait := cmd.Flags().Bool("wait", true, "wait until all Secrets are encrypted with the new key")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file := override(*paths); file != "" {
			return fmt.Errorf("%s says how Secrets are encrypted: add the new key there, and write all Secrets again", file)
		}
		ring, err := keyring.Update(keysFile(*paths), keyring.Ring.Announce)
		if err != nil {
			return err
		}
		names := ring.Names()
		made := names[len(names)-1]
		fmt.Fprintf(cmd.OutOrStdout(), "key %s made\n", made)
		if !*wait {
			return nil
		}
		return awaitKey(cmd.Context(), cmd.OutOrStdout(), *paths, made)
	}
	return cmd
}

// awaitKey ends when all Secrets are encrypted with the key.
func awaitKey(ctx context.Context, out io.Writer, paths config.Paths, name string) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		counts, err := survey(ctx, paths)
		if err != nil {
			return fmt.Errorf("the key takes over when the server runs: %w", err)
		}
		ring, err := keyring.Load(keysFile(paths))
		if err != nil {
			return err
		}
		if finished, err := rotated(counts, ring, name); finished || err != nil {
			if err == nil {
				fmt.Fprintf(out, "%d Secrets encrypted with %s\n", counts[name], name)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil // the server goes on by itself
		case <-tick.C:
		}
	}
}

// rotated says whether all Secrets are encrypted with the key, or why they never will be.
func rotated(counts map[string]int, ring keyring.Ring, name string) (bool, error) {
	left := 0
	for key, n := range counts {
		switch {
		case key == name:
		case key != "" && !slices.Contains(ring.Names(), key):
			return false, fmt.Errorf("%d Secrets were encrypted with key %s, which is not here: restore it, or delete them", n, key)
		default:
			left += n
		}
	}
	return left == 0 && ring.Names()[0] == name, nil
}

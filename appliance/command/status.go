package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/appliance/machine"
	"knarr.dev/knarr/bootstrap/config"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "what runs on this machine and how the cluster is",
		Long:  "What runs on this machine and how the cluster is. The exit code is 0 when this machine serves and, on a server, its node is Ready.",
		Args:  cobra.NoArgs,
	}
	wait := cmd.Flags().Duration("wait", 0, "wait this long until this machine serves and its node is Ready")
	paths := localFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		state, err := awaitReady(cmd.Context(), *paths, *wait)
		if state != nil {
			if err := errors.Join(printMachine(cmd.OutOrStdout(), state), printCluster(cmd.Context(), cmd.OutOrStdout(), *paths, state)); err != nil {
				return err
			}
		}
		return err
	}
	return cmd
}

// awaitReady looks ten times a second: a file changes, which no portable call waits for, and a person watches.
func awaitReady(ctx context.Context, paths config.Paths, wait time.Duration) (*machine.State, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for again := time.NewTicker(100 * time.Millisecond); ; {
		state, err := machine.ReadState(paths)
		switch {
		case err != nil:
			return nil, err
		case state != nil && state.Ready > 0:
			return state, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			if state == nil {
				return nil, fmt.Errorf("no knarr runs from %s; start `knarr server` or `knarr agent`, or give the --data-dir and --run-dir it has", paths.Data)
			}
			return state, fmt.Errorf("knarr (pid %d) is still starting after %s; its log says what it waits for", state.PID, time.Since(state.Since).Round(time.Second))
		}
	}
}

func printMachine(out io.Writer, s *machine.State) error {
	fmt.Fprintf(out, "knarr %s, %s %s, pid %d, up %s\n", s.Version, s.Role, s.Node, s.PID, time.Since(s.Since).Round(time.Second))
	if s.Ready > 0 {
		fmt.Fprintf(out, "served %s after its start\n", s.Ready.Round(time.Millisecond))
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\nCOMPONENT\tREADY AFTER")
	for _, c := range s.Components {
		fmt.Fprintf(table, "%s\t%s\n", c.Component, c.Took.Round(time.Millisecond))
	}
	return table.Flush()
}

// printCluster needs the administrator's kubeconfig, which only servers have.
func printCluster(ctx context.Context, out io.Writer, paths config.Paths, s *machine.State) error {
	if s.Role != config.Server {
		return nil
	}
	rest, err := adminClient(paths)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("ask the API server for nodes: %w", err)
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("ask the API server for pods: %w", err)
	}
	running := map[string]int{}
	all := map[string]int{}
	for _, p := range pods.Items {
		all[p.Spec.NodeName]++
		if p.Status.Phase == corev1.PodRunning {
			running[p.Spec.NodeName]++
		}
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "\nNODE\tSTATUS\tPODS RUNNING")
	var own error
	for _, n := range nodes.Items {
		status := "NotReady"
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				status = "Ready"
			} else if c.Type == corev1.NodeReady && n.Name == s.Node {
				own = fmt.Errorf("node %s is not Ready: %s", n.Name, c.Message)
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%d of %d\n", n.Name, status, running[n.Name], all[n.Name])
	}
	if waiting := all[""]; waiting > 0 {
		fmt.Fprintf(table, "(none yet)\t\t%d waiting\n", waiting)
	}
	return errors.Join(table.Flush(), own)
}

// Command lab makes machines on this host by hand: `go run ./test/lab up --machines 2`.
//
// In:       a command, and the names of machines.
// Out:      machines that stay until `down`.
// Promise:  after `down` nothing of them is left.
// Not here: how machines are made (test/lab/lab).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"knarr.dev/knarr/test/lab/lab"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(exit.ExitCode(), 1)) // the program on the machine has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "lab",
		Short:         "Machines out of namespaces, on this host",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	name := root.PersistentFlags().String("lab", "lab", "name of the lab")

	var machines int
	up := &cobra.Command{
		Use: "up", Short: "Make machines m1, m2 ...", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return up(*name, machines) },
	}
	up.Flags().IntVar(&machines, "machines", 1, "how many")

	onMachine := func(use, short string, args cobra.PositionalArgs, do func(context.Context, *lab.Machine, []string) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(*name)
			if err != nil {
				return err
			}
			m, err := l.Find(args[0])
			if err != nil {
				return err
			}
			return do(cmd.Context(), m, args[1:])
		}}
	}
	root.AddCommand(
		up,
		&cobra.Command{Use: "down", Short: "Remove the lab with everything in it", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return down(*name) }},
		&cobra.Command{Use: "list", Short: "Show labs and machines", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return list() }},
		&cobra.Command{Use: "sweep", Short: "Remove what killed tests left", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return lab.Sweep() }},
		onMachine("exec MACHINE -- PROGRAM [ARGUMENT...]", "Run a program on a machine", cobra.MinimumNArgs(2), run),
		onMachine("knarr MACHINE server|agent [-- FLAG...]", "Run knarr on a machine, in the foreground", cobra.MinimumNArgs(2), runKnarr),
		onMachine("cut MACHINE", "Pull a machine's cable", cobra.ExactArgs(1),
			func(_ context.Context, m *lab.Machine, _ []string) error { return m.Cut() }),
		onMachine("heal MACHINE", "Put a machine's cable back", cobra.ExactArgs(1),
			func(_ context.Context, m *lab.Machine, _ []string) error { return m.Heal() }),
	)
	return root
}

func up(name string, machines int) error {
	l, err := lab.Create(name)
	if err != nil {
		return err
	}
	for i := range machines {
		if _, err := l.Add("m" + strconv.Itoa(i+1)); err != nil {
			return errors.Join(err, l.Down())
		}
	}
	show(l)
	return nil
}

func down(name string) error {
	l, err := lab.Open(name)
	if err != nil {
		return err
	}
	return l.Down()
}

func list() error {
	labs, err := lab.List()
	if err != nil {
		return err
	}
	for _, l := range labs {
		show(l)
	}
	return nil
}

func show(l *lab.Lab) {
	fmt.Printf("lab %s, network %s, this host is %s\n", l.Name(), l.Network(), l.HostIP())
	for _, m := range l.Machines {
		fmt.Printf("  %-12s %-15s %s\n", m.Name(), m.IP(), m.Dir())
	}
}

// run passes everything on: input, output, and by its exit code what came of it.
func run(ctx context.Context, m *lab.Machine, args []string) error {
	return pass(m.Command(ctx, args[0], args[1:]...))
}

// pass connects a program with who called us.
func pass(cmd *lab.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd.Run()
}

func runKnarr(ctx context.Context, m *lab.Machine, args []string) error {
	binary, err := lab.Binary()
	if err != nil {
		return err
	}
	cmd := m.Command(ctx, binary, m.KnarrArgs(args[0], args[1:]...)...)
	cmd.Env = lab.WithoutSettings(os.Environ())
	return pass(cmd)
}

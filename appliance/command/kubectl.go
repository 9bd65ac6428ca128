package command

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

func kubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl",
		Short:              "kubectl, for this machine's cluster unless KUBECONFIG or --kubeconfig names another",
		DisableFlagParsing: true, // they are kubectl's
		RunE: func(cmd *cobra.Command, args []string) error {
			return kubectl(cmd.Context(), args)
		},
	}
}

// endAtSignals gives SIGINT and SIGTERM back their usual meaning, which main has taken from them: the commands of
// others either handle signals themselves or count on dying by them, and would run on for ever otherwise.
func endAtSignals() { signal.Reset(syscall.SIGINT, syscall.SIGTERM) }

func kubectl(ctx context.Context, args []string) error {
	endAtSignals()
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		own := localKubeconfig(localPaths())
		if _, err := os.Stat(own); err == nil {
			if err := os.Setenv(clientcmd.RecommendedConfigPathEnvVar, own); err != nil {
				return err
			}
		}
	}
	cmd := kubectlcmd.NewDefaultKubectlCommandWithArgs(kubectlcmd.KubectlOptions{
		PluginHandler: kubectlcmd.NewDefaultPluginHandler([]string{"kubectl"}),
		Arguments:     append([]string{"kubectl"}, args...),
		IOStreams:     genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr},
	})
	cmd.SetArgs(args)
	cmd.SetContext(ctx)
	// As kubectl's own main: its commands print their errors in its words and end the process with its exit codes.
	if err := cli.RunNoErrOutput(cmd); err != nil {
		cmdutil.CheckErr(err)
	}
	return nil
}

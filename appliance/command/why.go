package command

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/knarr/appliance/why"
)

func whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "why pod/NAME",
		Short:   "why a pod does not run, and what would change that",
		Long:    "Why a pod does not run, and what would change that: from a pod nobody may create to one whose last container crashes. Works with any kubeconfig (--kubeconfig, KUBECONFIG, or this machine's own) and only reads.",
		Example: "  knarr why pod/web-7d4b9 -n shop",
		Args:    cobra.RangeArgs(1, 2),
	}
	paths := localFlags(cmd)
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	cmd.Flags().StringVar(&rules.ExplicitPath, "kubeconfig", "", "the cluster to ask")
	overrides := &clientcmd.ConfigOverrides{}
	cmd.Flags().StringVarP(&overrides.Context.Namespace, "namespace", "n", "", "the pod's namespace; without it the kubeconfig's")
	cmd.Flags().StringVar(&overrides.CurrentContext, "context", "", "the kubeconfig's context to use")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := podNamed(args)
		if err != nil {
			return err
		}
		rules.Precedence = append(rules.Precedence, localKubeconfig(*paths))
		loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
		rest, err := loader.ClientConfig()
		if err != nil {
			return fmt.Errorf("find the cluster to ask: %w; give --kubeconfig, or run this on a server", err)
		}
		namespace, _, err := loader.Namespace()
		if err != nil {
			return fmt.Errorf("find the namespace: %w", err)
		}
		client, err := kubernetes.NewForConfig(rest)
		if err != nil {
			return err
		}
		facts, err := why.Gather(cmd.Context(), client, namespace, name, time.Now())
		if err != nil {
			return err
		}
		report, err := why.Explain(facts)
		if err != nil {
			return err
		}
		return report.Print(cmd.OutOrStdout())
	}
	return cmd
}

// podNamed reads pod/NAME or pod NAME.
func podNamed(args []string) (string, error) {
	kind, name, found := strings.Cut(strings.Join(args, "/"), "/")
	switch kind {
	case "pod", "pods", "po":
		if found && name != "" && !strings.Contains(name, "/") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%q is not pod/NAME: pods are what can be explained", strings.Join(args, " "))
}

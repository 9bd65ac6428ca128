package command

import (
	"context"
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
		Use:     "why pod/NAME | service/NAME",
		Short:   "why a pod does not run or a service is not reached, and what would change that",
		Long:    "Why a pod does not run, and what would change that: from a pod nobody may create to one whose last container crashes; and why a service has no address, or nobody behind it. Works with any kubeconfig (--kubeconfig, KUBECONFIG, or this machine's own) and only reads.",
		Example: "  knarr why pod/web-7d4b9 -n shop\n  knarr why service/web -n shop",
		Args:    cobra.RangeArgs(1, 2),
	}
	paths := localFlags(cmd)
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	cmd.Flags().StringVar(&rules.ExplicitPath, "kubeconfig", "", "the cluster to ask")
	overrides := &clientcmd.ConfigOverrides{}
	cmd.Flags().StringVarP(&overrides.Context.Namespace, "namespace", "n", "", "the namespace; without it the kubeconfig's")
	cmd.Flags().StringVar(&overrides.CurrentContext, "context", "", "the kubeconfig's context to use")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		explain, name, err := explainer(args)
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
		report, err := explain(cmd.Context(), client, namespace, name)
		if err != nil {
			return err
		}
		return report.Print(cmd.OutOrStdout())
	}
	return cmd
}

type explaining func(ctx context.Context, client kubernetes.Interface, namespace, name string) (*why.Report, error)

// explainer reads KIND/NAME or KIND NAME.
func explainer(args []string) (explain explaining, name string, err error) {
	kind, name, _ := strings.Cut(strings.Join(args, "/"), "/")
	switch kind {
	case "pod", "pods", "po":
		explain = explainPod
	case "service", "services", "svc":
		explain = explainService
	}
	if explain == nil || name == "" || strings.Contains(name, "/") {
		return nil, "", fmt.Errorf("%q is neither pod/NAME nor service/NAME: pods and services are what can be explained", strings.Join(args, " "))
	}
	return explain, name, nil
}

func explainPod(ctx context.Context, client kubernetes.Interface, namespace, name string) (*why.Report, error) {
	facts, err := why.Gather(ctx, client, namespace, name, time.Now())
	if err != nil {
		return nil, err
	}
	return why.Explain(facts)
}

func explainService(ctx context.Context, client kubernetes.Interface, namespace, name string) (*why.Report, error) {
	facts, err := why.GatherService(ctx, client, namespace, name, time.Now())
	if err != nil {
		return nil, err
	}
	return why.ExplainService(facts), nil
}

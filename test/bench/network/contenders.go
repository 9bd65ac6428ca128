package main

import (
	"context"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"strconv"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"knarr.dev/knarr/netstack/dns"
	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/proxy"
)

// ours is a part of knarr in a process of its own: this program, run with a verb.
func ours(verb string) contender {
	return contender{name: "knarr", command: []string{"/proc/self/exe", verb, "-kubeconfig={kubeconfig}"}}
}

// kubeProxy is upstream's as it is when nothing else is said, but for the host's settings, which it leaves alone.
func kubeProxy(binary, mode string, lift bool) contender {
	config := `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ` + mode + `
hostnameOverride: ` + nodeName + `
clusterCIDR: ` + podRange.String() + `
clientConnection:
  kubeconfig: {kubeconfig}
  contentType: application/vnd.kubernetes.protobuf
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
`
	if lift {
		config += mode + ":\n  minSyncPeriod: 1ms\n"
	}
	return contender{name: mode, command: []string{binary, "--config={config}", "--v=0"}, config: config}
}

// coreDNS is upstream's with the plugins that clusters have it answer cluster names by.
func coreDNS(binary string) contender {
	return contender{name: "CoreDNS", command: []string{binary, "-conf={config}"}, config: domain + `:` + strconv.Itoa(int(coreDNSAt.Port())) + ` {
    kubernetes ` + domain + ` {
        kubeconfig {kubeconfig}
    }
    cache 30
    loadbalance
}
`}
}

func runProxy(ctx context.Context, args []string) error {
	return runPart(ctx, flag.NewFlagSet(proxyVerb, flag.ContinueOnError), args, func(_ *restclient.Config, view *endpoints.View, nodes cache.Cache, log *slog.Logger) (part, error) {
		return proxy.New(proxy.Config{
			Node: nodeName, Nodes: nodes, PodRanges: []netip.Prefix{podRange}, ServiceRanges: []netip.Prefix{serviceRange}, Log: log,
		}, view), nil
	})
}

func runResolver(ctx context.Context, args []string) error {
	return runPart(ctx, flag.NewFlagSet(resolverVerb, flag.ContinueOnError), args, func(_ *restclient.Config, view *endpoints.View, _ cache.Cache, log *slog.Logger) (part, error) {
		return dns.New(dns.Config{
			Address: oursAt.Addr(), Port: oursAt.Port(), Domain: domain, Ranges: []netip.Prefix{podRange, serviceRange}, Log: log,
		}, view), nil
	})
}

// part is a component of a node that is measured alone.
type part interface {
	Run(ctx context.Context, ready func()) error
}

// runPart runs a part, with the flags it has, on the watches it has on a node.
func runPart(ctx context.Context, flags *flag.FlagSet, args []string, build func(*restclient.Config, *endpoints.View, cache.Cache, *slog.Logger) (part, error)) error {
	kubeconfig := flags.String("kubeconfig", "", "how to reach the API server")
	if err := flags.Parse(args); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	api, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		return err
	}
	api.ContentType = runtime.ContentTypeProtobuf
	shared, err := cache.New(api, cache.Options{Scheme: scheme.Scheme, DefaultTransform: cache.TransformStripManagedFields()})
	if err != nil {
		return err
	}
	view := endpoints.New(shared)
	p, err := build(api, view, shared, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return shared.Start(ctx) })
	group.Go(func() error { return view.Run(ctx, func() {}) })
	group.Go(func() error { return p.Run(ctx, func() {}) })
	return group.Wait()
}

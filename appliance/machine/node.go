package machine

import (
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"knarr.dev/knarr/netstack/dns"
	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/netstack/podnet"
	"knarr.dev/knarr/netstack/proxy"
	"knarr.dev/knarr/workloads/agent/runtime"
	"net/netip"
)

// nodeInput is what a node is made from, on servers and agents alike.
type nodeInput struct {
	ranges     ranges
	cache      cache.Cache
	api        *rest.Config // with the node's own identity
	privileged *rest.Config // on servers: may give the node its role

	clusterCA, clientCA, servingCert, servingKey string // files
}

// nodeParts are the components of a node: the runtime can start before there is an API server.
type nodeParts struct {
	runtime Component
	rest    []Component
}

func (b *builder) node(in nodeInput) (*nodeParts, error) {
	paths := b.cfg.Paths()
	pods, err := podnet.New(podnet.Config{
		Paths: paths, NodeName: b.cfg.NodeName, NodeIP: in.ranges.node, ClusterRange: in.ranges.pods,
		ClusterDNS: in.ranges.dns, Overhead: overlay.Overhead(in.ranges.node),
	}, in.cache, b.log.With("component", "podnet"))
	if err != nil {
		return nil, err
	}
	view := endpoints.New(in.cache)
	return &nodeParts{
		runtime: runtime.New(runtime.Config{Paths: paths, HelperDir: b.helpers, Log: b.log}),
		rest: []Component{
			pods,
			overlay.New(paths, b.cfg.NodeName, in.cache, b.log.With("component", "overlay")),
			view,
			proxy.New(proxy.Config{
				Node: b.cfg.NodeName, PodRanges: []netip.Prefix{in.ranges.pods}, ServiceRanges: []netip.Prefix{in.ranges.services},
				Reserved: []netip.Addr{in.ranges.dns}, Log: b.log,
			}, view),
			dns.New(dns.Config{
				Address: in.ranges.dns, Domain: b.cfg.ClusterDomain,
				Ranges: []netip.Prefix{in.ranges.pods, in.ranges.services}, Log: b.log,
			}, view),
		},
	}, nil
}

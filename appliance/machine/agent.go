package machine

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/netstack/policy"
	"knarr.dev/knarr/workloads/indexes"
)

// agent is a node of a cluster whose control plane is elsewhere.
func (b *builder) agent(ctx context.Context) ([]Stage, error) {
	member, err := join.Join(ctx, b.cfg)
	if err != nil {
		return nil, err
	}
	if err := member.Complete(b.cfg); err != nil {
		return nil, err
	}
	r, err := parseRanges(b.cfg)
	if err != nil {
		return nil, err
	}
	view, err := newView(ctx, member, b.cfg.NodeName)
	if err != nil {
		return nil, err
	}
	serving := filepath.Join(b.cfg.Paths().PKI(), pki.NodeServerFile)
	parts, err := b.node(ctx, nodeInput{
		ranges: r, cache: view.cache, everyone: view.everyone, api: member.RESTConfig(),
		clientCA: member.ClientCAFile(), servingCert: serving + ".crt", servingKey: serving + ".key",
	})
	if err != nil {
		return nil, err
	}
	return []Stage{
		{parts.runtime},
		append(Stage{member, view}, parts.rest...),
		{heap{}},
	}, nil
}

// view is the shared cache of a node without a control plane: its own pods, and what its network needs. Everyone's pods
// are in a cache of their own, which holds nothing until there is a network policy.
type view struct{ cache, everyone cache.Cache }

func newView(ctx context.Context, member *join.Member, node string) (*view, error) {
	c, err := cache.New(member.RESTConfig(), cache.Options{
		Scheme:           scheme.Scheme,
		Mapper:           builtinMapper(),
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{
			&corev1.Pod{}: {Field: fields.OneTermEqualSelector("spec.nodeName", node)},
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make the node's cache: %w", err)
	}
	if err := indexes.RegisterNodes(ctx, c); err != nil {
		return nil, err
	}
	everyone, err := cache.New(member.RESTConfig(), cache.Options{
		Scheme:           scheme.Scheme,
		Mapper:           builtinMapper(),
		DefaultTransform: policy.Strip,
	})
	if err != nil {
		return nil, fmt.Errorf("make the cache of everyone's pods: %w", err)
	}
	return &view{c, everyone}, nil
}

func (v *view) Name() string { return "cache" }

// Run is ready at once: a node serves what it remembers until the API server is back.
func (v *view) Run(ctx context.Context, ready func()) error {
	ready()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return v.cache.Start(ctx) })
	group.Go(func() error { return v.everyone.Start(ctx) })
	return group.Wait()
}

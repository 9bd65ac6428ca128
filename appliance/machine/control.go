package machine

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/appliance/election"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/term"
)

// leaderLease is held by the server whose controllers and scheduler work.
const leaderLease = "knarr-controllers"

// control is the cache everything on a server reads, and while this server leads, the controllers and the scheduler.
type control struct {
	cache     cache.Cache
	term      term.Config
	register  func(context.Context, manager.Manager) error
	candidate *election.Candidate
}

// newControl makes the cache; register adds what runs on a manager, once for each time this server comes to lead.
func newControl(ctx context.Context, api *rest.Config, server string, log *slog.Logger, register func(context.Context, manager.Manager) error) (*control, error) {
	mapper := builtinMapper()
	shared, err := cache.New(api, cache.Options{
		Scheme:           scheme.Scheme,
		Mapper:           mapper,
		DefaultTransform: cache.TransformStripManagedFields(),
	})
	if err != nil {
		return nil, fmt.Errorf("make the server's cache: %w", err)
	}
	if err := indexes.Register(ctx, shared); err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, err
	}
	c := &control{cache: shared, term: term.Config{API: api, Cache: shared, Mapper: mapper, Log: log}, register: register}
	c.candidate = election.New(client.CoordinationV1(), leaderLease, server, log.With("component", c.Name()))
	return c, nil
}

func (c *control) Name() string { return "controllers" }

// Run is ready when the cache holds what is read from it; the controllers may work on another server.
func (c *control) Run(ctx context.Context, ready func()) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.cache.Start(ctx) })
	group.Go(func() error {
		if c.cache.WaitForCacheSync(ctx) {
			ready()
		}
		return nil
	})
	group.Go(func() error {
		return c.candidate.Run(ctx, func(ctx context.Context) error { return c.term.Run(ctx, c.register) })
	})
	return group.Wait()
}

package machine

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"knarr.dev/knarr/appliance/election"
	controllerevents "knarr.dev/knarr/workloads/events" // not those of a node
	"knarr.dev/knarr/workloads/indexes"
)

// leaderLease is held by the server whose controllers and scheduler work.
const leaderLease = "knarr-controllers"

// control is the cache everything on a server reads, and while this server leads, the controllers and the scheduler.
type control struct {
	api       *rest.Config
	cache     cache.Cache
	register  func(context.Context, manager.Manager) error
	candidate *election.Candidate
	log       *slog.Logger
}

// newControl makes the cache; register adds what runs on a manager, once for each time this server comes to lead.
func newControl(ctx context.Context, api *rest.Config, server string, log *slog.Logger, register func(context.Context, manager.Manager) error) (*control, error) {
	shared, err := cache.New(api, cache.Options{
		Scheme:           scheme.Scheme,
		Mapper:           builtinMapper(),
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
	c := &control{api: api, cache: shared, register: register, log: log}
	c.candidate = election.New(client.CoordinationV1(), leaderLease, server, log.With("component", c.Name()))
	return c, nil
}

func ptr[T any](v T) *T { return &v }

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
	group.Go(func() error { return c.candidate.Run(ctx, c.lead) })
	return group.Wait()
}

// lead is one term. What its controllers remember ends with it.
func (c *control) lead(ctx context.Context) error {
	told := controllerevents.NewBroadcaster(ctx, c.log)
	defer told.Shutdown()
	mgr, err := ctrl.NewManager(c.api, ctrl.Options{
		Scheme:         scheme.Scheme,
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return builtinMapper(), nil },
		NewCache: func(*rest.Config, cache.Options) (cache.Cache, error) {
			return &term{Cache: c.cache, over: ctx.Done()}, nil
		},
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		//lint:ignore SA1019 see events.Recorder; the library has no other way to say how long Events may wait
		EventBroadcaster: told,
		// Names are per process here, and there is a manager for each term.
		Controller: config.Controller{SkipNameValidation: ptr(true)},
	})
	if err != nil {
		return fmt.Errorf("make the controllers' manager: %w", err)
	}
	if err := c.register(ctx, mgr); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

package machine

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"knarr.dev/knarr/workloads/indexes"
)

// control runs the controllers and the scheduler on one manager, whose cache everything on a server reads.
type control struct{ manager manager.Manager }

// newControl makes the manager; register adds what runs on it.
func newControl(ctx context.Context, api *rest.Config, log *slog.Logger, register func(manager.Manager) error) (*control, error) {
	mgr, err := ctrl.NewManager(api, ctrl.Options{
		Scheme:                 scheme.Scheme,
		MapperProvider:         func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return builtinMapper(), nil },
		Cache:                  cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		// Names are per process here, and a restarted machine in a test is the same process.
		Controller: config.Controller{SkipNameValidation: ptr(true)},
	})
	if err != nil {
		return nil, fmt.Errorf("make the controllers' manager: %w", err)
	}
	if err := indexes.Register(ctx, mgr.GetFieldIndexer()); err != nil {
		return nil, err
	}
	if err := register(mgr); err != nil {
		return nil, err
	}
	return &control{manager: mgr}, nil
}

func ptr[T any](v T) *T { return &v }

func (c *control) Name() string { return "controllers" }

// Run is ready when the cache holds what the controllers read.
func (c *control) Run(ctx context.Context, ready func()) error {
	ended := make(chan error, 1)
	go func() { ended <- c.manager.Start(ctx) }()
	if c.manager.GetCache().WaitForCacheSync(ctx) {
		ready()
	}
	return <-ended
}

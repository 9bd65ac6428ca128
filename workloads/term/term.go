// Package term runs controllers for one term of leadership.
//
// In:       the API, a cache that runs by itself, and a function that adds the controllers to a manager.
// Out:      a manager for them, which ends with the term.
// Promise:  when Run returns, its controllers have ended, the cache calls nobody of the term, and no Event is on its way.
//
//	It returns soon after its context ends, whether or not the cache was ever filled and the API answers.
//
// Not here: who leads (appliance/election), which controllers there are (appliance/machine).
package term

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"knarr.dev/knarr/workloads/events"
)

// Config is what the terms of one server have in common.
type Config struct {
	API    *rest.Config
	Cache  cache.Cache     // runs before, during and after a term
	Mapper meta.RESTMapper // of the kinds the controllers name; nil asks the server
	Log    *slog.Logger
}

// Run is one term: it ends with ctx, or with the first controller that cannot go on. What its controllers remember ends
// with it.
func (c Config) Run(ctx context.Context, register func(context.Context, manager.Manager) error) error {
	told := events.NewBroadcaster(ctx, c.Log)
	defer told.Shutdown()
	options := ctrl.Options{
		Scheme: scheme.Scheme,
		NewCache: func(*rest.Config, cache.Options) (cache.Cache, error) {
			return &lent{Cache: c.Cache, over: ctx.Done()}, nil
		},
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
		//lint:ignore SA1019 see events.Recorder; the library has no other way to say how long Events may wait
		EventBroadcaster: told,
		// Names are per process here, and there is a manager for each term.
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
	}
	if c.Mapper != nil {
		options.MapperProvider = func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return c.Mapper, nil }
	}
	mgr, err := ctrl.NewManager(c.API, options)
	if err != nil {
		return fmt.Errorf("make the controllers' manager: %w", err)
	}
	if err := register(ctx, mgr); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

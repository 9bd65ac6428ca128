package machine

import (
	"context"
	"net/http"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

// silent is the cache of an API server that does not answer.
type silent struct{ cache.Cache }

func (silent) WaitForCacheSync(ctx context.Context) bool {
	<-ctx.Done()
	return false
}

func TestATermThatEndsBeforeItsCacheIsFilledEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	mgr, err := ctrl.NewManager(&rest.Config{Host: "127.0.0.1:1"}, ctrl.Options{
		MapperProvider: func(*rest.Config, *http.Client) (meta.RESTMapper, error) { return builtinMapper(), nil },
		NewCache: func(*rest.Config, cache.Options) (cache.Cache, error) {
			return &term{Cache: silent{}, over: ctx.Done()}, nil
		},
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the manager ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the manager does not end")
	}
}

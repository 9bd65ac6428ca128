package term

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// silent is the cache of an API server that does not answer.
type silent struct{ cache.Cache }

func (silent) WaitForCacheSync(ctx context.Context) bool {
	<-ctx.Done()
	return false
}

func TestATermThatEndsBeforeItsCacheIsFilledEnds(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	c := Config{
		API: &rest.Config{Host: "127.0.0.1:1"}, Cache: silent{}, Mapper: meta.NewDefaultRESTMapper(nil), Log: slog.New(slog.DiscardHandler),
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx, func(context.Context, manager.Manager) error { return nil }) }()
	stop()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the term ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the term does not end")
	}
}

package machine

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// term is the shared cache as the controllers of one term of leadership see it: it goes on without them, and when they
// end, so do the calls they asked for.
type term struct {
	cache.Cache
	over <-chan struct{} // the term's end, which comes before the manager's own

	mu     sync.Mutex
	ended  bool
	remove []func() error
}

// Start lasts as long as the term. The cache itself was started by the server.
func (t *term) Start(ctx context.Context) error {
	<-ctx.Done()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	var errs []error
	for _, remove := range t.remove {
		errs = append(errs, remove())
	}
	t.remove = nil
	return errors.Join(errs...)
}

// WaitForCacheSync says yes at the end of the term as well. A manager that starts waits for that word alone: told to stop
// meanwhile, with an API that does not answer, it would turn in circles until one does.
func (t *term) WaitForCacheSync(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	synced := make(chan bool, 1)
	go func() { synced <- t.Cache.WaitForCacheSync(ctx) }()
	select {
	case ok := <-synced:
		return ok
	case <-t.over:
		cancel()
		<-synced
		return true
	}
}

func (t *term) GetInformer(ctx context.Context, kind client.Object, options ...cache.InformerGetOption) (cache.Informer, error) {
	informer, err := t.Cache.GetInformer(ctx, kind, options...)
	return t.watch(informer), err
}

func (t *term) GetInformerForKind(ctx context.Context, kind schema.GroupVersionKind, options ...cache.InformerGetOption) (cache.Informer, error) {
	informer, err := t.Cache.GetInformerForKind(ctx, kind, options...)
	return t.watch(informer), err
}

func (t *term) watch(informer cache.Informer) cache.Informer {
	if informer == nil {
		return nil
	}
	// Of a cache that is split by namespaces informers would be of another type; the shared one is not.
	return &termInformer{informer.(toolscache.SharedIndexInformer), t}
}

// note remembers a registration to be undone, which is at once when the term is over.
func (t *term) note(informer cache.Informer, registration toolscache.ResourceEventHandlerRegistration, err error) (toolscache.ResourceEventHandlerRegistration, error) {
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	remove := func() error { return informer.RemoveEventHandler(registration) }
	if t.ended {
		return registration, remove()
	}
	t.remove = append(t.remove, remove)
	return registration, nil
}

// termInformer is an informer whose handlers go with the term.
type termInformer struct {
	toolscache.SharedIndexInformer
	term *term
}

func (i *termInformer) AddEventHandler(handler toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.SharedIndexInformer.AddEventHandler(handler)
	return i.term.note(i.SharedIndexInformer, registration, err)
}

func (i *termInformer) AddEventHandlerWithResyncPeriod(handler toolscache.ResourceEventHandler, period time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(handler, period)
	return i.term.note(i.SharedIndexInformer, registration, err)
}

func (i *termInformer) AddEventHandlerWithOptions(handler toolscache.ResourceEventHandler, options toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.SharedIndexInformer.AddEventHandlerWithOptions(handler, options)
	return i.term.note(i.SharedIndexInformer, registration, err)
}

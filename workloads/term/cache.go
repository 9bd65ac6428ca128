package term

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

// lent is the shared cache as the controllers of one term see it: it goes on without them, and when they end, so do the
// calls they asked for.
type lent struct {
	cache.Cache
	over <-chan struct{} // the term's end, which comes before the manager's own

	mu     sync.Mutex
	ended  bool
	remove []func() error
}

// Start lasts as long as the term. The cache itself was started by its owner.
func (l *lent) Start(ctx context.Context) error {
	<-ctx.Done()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	var errs []error
	for _, remove := range l.remove {
		errs = append(errs, remove())
	}
	l.remove = nil
	return errors.Join(errs...)
}

// WaitForCacheSync says yes at the end of the term as well. A manager that starts waits for that word alone: told to stop
// meanwhile, with an API that does not answer, it would turn in circles until one does.
func (l *lent) WaitForCacheSync(ctx context.Context) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	synced := make(chan bool, 1)
	go func() { synced <- l.Cache.WaitForCacheSync(ctx) }()
	select {
	case ok := <-synced:
		return ok
	case <-l.over:
		cancel()
		<-synced
		return true
	}
}

func (l *lent) GetInformer(ctx context.Context, kind client.Object, options ...cache.InformerGetOption) (cache.Informer, error) {
	informer, err := l.Cache.GetInformer(ctx, kind, options...)
	return l.watch(informer), err
}

func (l *lent) GetInformerForKind(ctx context.Context, kind schema.GroupVersionKind, options ...cache.InformerGetOption) (cache.Informer, error) {
	informer, err := l.Cache.GetInformerForKind(ctx, kind, options...)
	return l.watch(informer), err
}

func (l *lent) watch(informer cache.Informer) cache.Informer {
	if informer == nil {
		return nil
	}
	// Of a cache that is split by namespaces informers would be of another type; the shared one is not.
	return &lentInformer{informer.(toolscache.SharedIndexInformer), l}
}

// note remembers a registration to be undone, which is at once when the term is over.
func (l *lent) note(informer cache.Informer, registration toolscache.ResourceEventHandlerRegistration, err error) (toolscache.ResourceEventHandlerRegistration, error) {
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	remove := func() error { return informer.RemoveEventHandler(registration) }
	if l.ended {
		return registration, remove()
	}
	l.remove = append(l.remove, remove)
	return registration, nil
}

// lentInformer is an informer whose handlers go with the term.
type lentInformer struct {
	toolscache.SharedIndexInformer
	lent *lent
}

func (i *lentInformer) AddEventHandler(handler toolscache.ResourceEventHandler) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.SharedIndexInformer.AddEventHandler(handler)
	return i.lent.note(i.SharedIndexInformer, registration, err)
}

func (i *lentInformer) AddEventHandlerWithResyncPeriod(handler toolscache.ResourceEventHandler, period time.Duration) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(handler, period)
	return i.lent.note(i.SharedIndexInformer, registration, err)
}

func (i *lentInformer) AddEventHandlerWithOptions(handler toolscache.ResourceEventHandler, options toolscache.HandlerOptions) (toolscache.ResourceEventHandlerRegistration, error) {
	registration, err := i.SharedIndexInformer.AddEventHandlerWithOptions(handler, options)
	return i.lent.note(i.SharedIndexInformer, registration, err)
}

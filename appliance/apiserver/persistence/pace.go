package persistence

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	cacherstorage "k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/utils/clock"
)

// Two timers of the library's watch cache decide how long clients wait for it and what it costs at rest.
//
// About once a second each cache looks for clients that wait for a bookmark. It is what ends the first list of an
// informer when something was written meanwhile, so informers that start together with others take up to a second
// longer than they need; and at rest, sixty caches wake the process sixty times a second for nothing.
//
// While a client waits for its cache to catch up, the cache asks the datastore ten times a second where it is. The
// datastore is this process, so that may be more often.
//
// The cache takes its timers from a clock it is given; this one gives it other times.
const (
	libraryBookmarks = time.Second
	libraryProgress  = 100 * time.Millisecond

	restingBookmarks = 10 * time.Second // watches that are established need one a minute
	hastyProgress    = 20 * time.Millisecond
)

// hasty are the times between looks after a client began to wait for its first list.
var hasty = []time.Duration{
	5 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond,
	80 * time.Millisecond, 160 * time.Millisecond, 320 * time.Millisecond, 640 * time.Millisecond, 1280 * time.Millisecond,
}

// pace is the clock of one watch cache.
type pace struct {
	clock.RealClock
	bookmarks bookmarkTimer
}

// NewTimer recognises the two by what the library asks for.
func (p *pace) NewTimer(d time.Duration) clock.Timer {
	switch {
	case d >= libraryBookmarks*3/4 && d <= libraryBookmarks*5/4: // jittered
		p.bookmarks.start()
		return &p.bookmarks
	case d == libraryProgress:
		return progressTimer{p.RealClock.NewTimer(0)}
	}
	return p.RealClock.NewTimer(d)
}

type progressTimer struct{ clock.Timer }

func (t progressTimer) Reset(d time.Duration) bool {
	if d == libraryProgress {
		d = hastyProgress
	}
	return t.Timer.Reset(d)
}

// bookmarkTimer fires often for a while after hurry, and seldom otherwise.
type bookmarkTimer struct {
	mu      sync.Mutex
	fired   chan time.Time
	timer   *time.Timer
	waiting []time.Duration // what is left of hasty
}

func (b *bookmarkTimer) start() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fired = make(chan time.Time, 1)
	b.timer = time.AfterFunc(wait.Jitter(restingBookmarks, 0.25), func() {
		select {
		case b.fired <- time.Now():
		default: // the last one was not taken yet
		}
	})
}

// hurry is for when a client waits.
func (b *bookmarkTimer) hurry() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.waiting = hasty[1:]
		b.timer.Reset(hasty[0])
	}
}

func (b *bookmarkTimer) C() <-chan time.Time { return b.fired }

func (b *bookmarkTimer) Stop() bool { return b.timer.Stop() }

// Reset is called by the library after each firing, with about a second.
func (b *bookmarkTimer) Reset(time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := wait.Jitter(restingBookmarks, 0.25)
	if len(b.waiting) > 0 {
		next, b.waiting = b.waiting[0], b.waiting[1:]
	}
	return b.timer.Reset(next)
}

// paced is a watch cache whose clock knows when a client waits.
type paced struct {
	*cacherstorage.CacheDelegator
	pace *pace
}

var _ storage.Interface = &paced{}

func (p *paced) Watch(ctx context.Context, key string, options storage.ListOptions) (watch.Interface, error) {
	w, err := p.CacheDelegator.Watch(ctx, key, options)
	if err == nil && options.SendInitialEvents != nil && *options.SendInitialEvents {
		p.pace.bookmarks.hurry()
	}
	return w, err
}

package scheduler

import "sync"

// inbox brings what other goroutines know to the one that decides, in order and without ever making them wait.
type inbox struct {
	mu    sync.Mutex
	items []func()
	full  chan struct{}
}

func newInbox() *inbox { return &inbox{full: make(chan struct{}, 1)} }

// put hands over something to do on the deciding goroutine.
func (b *inbox) put(item func()) {
	b.mu.Lock()
	b.items = append(b.items, item)
	b.mu.Unlock()
	select {
	case b.full <- struct{}{}:
	default:
	}
}

// empty does everything handed over so far.
func (b *inbox) empty() {
	b.mu.Lock()
	items := b.items
	b.items = nil
	b.mu.Unlock()
	for _, item := range items {
		item()
	}
}

package stats

import (
	"context"
	"sync"
	"time"
)

const (
	// counted is how long an answer holds: getting one may mean looking at every file of a volume.
	counted = time.Minute
	// share is how much of the time may go into one answer, whoever asks how often: a hundredth.
	share = 100
	// slow is how long somebody who asks is held up. A server behind a mount may never answer.
	slow = 5 * time.Second
)

// remembered are answers to questions that are slow to answer, while somebody asks them. Each is asked once at a time.
type remembered[T any] struct {
	mu      sync.Mutex
	answers map[string]*answer[T]
}

type answer[T any] struct {
	value T
	found bool
	until time.Time     // it holds
	asked time.Time     // the last time
	under chan struct{} // closed when the question under way is answered; nil: none is
}

// of is the answer to a question, the last one where a new one is not there in time.
func (r *remembered[T]) of(ctx context.Context, key string, now time.Time, ask func(context.Context) (T, bool)) (T, bool) {
	r.mu.Lock()
	if r.answers == nil {
		r.answers = map[string]*answer[T]{}
	}
	a := r.answers[key]
	if a == nil {
		r.forget(now)
		a = &answer[T]{}
		r.answers[key] = a
	}
	a.asked = now
	// A clock that was set back makes nothing hold for longer.
	if now.Before(a.until) && a.until.Sub(now) <= share*counted {
		defer r.mu.Unlock()
		return a.value, a.found
	}
	if a.under == nil {
		a.under = make(chan struct{})
		go r.ask(context.WithoutCancel(ctx), a, now, ask)
	}
	under := a.under
	r.mu.Unlock()

	timer := time.NewTimer(slow)
	defer timer.Stop()
	select {
	case <-under:
	case <-timer.C:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return a.value, a.found
}

func (r *remembered[T]) ask(ctx context.Context, a *answer[T], now time.Time, ask func(context.Context) (T, bool)) {
	began := time.Now()
	value, found := ask(ctx)
	hold := min(max(counted, share*time.Since(began)), share*counted)
	r.mu.Lock()
	defer r.mu.Unlock()
	a.value, a.found, a.until = value, found, now.Add(hold)
	close(a.under)
	a.under = nil
}

// forget what nobody asks any more; r.mu is held.
func (r *remembered[T]) forget(now time.Time) {
	for key, a := range r.answers {
		if a.under == nil && now.Sub(a.asked).Abs() > 10*counted {
			delete(r.answers, key)
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	retry "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bindings is when each waiting pod was seen on its node first, and when the first pod was seen to go or come.
type bindings struct {
	mu    sync.Mutex
	at    map[string]time.Time
	first time.Time
	last  time.Time
	news  chan struct{} // closed and replaced at each binding
	lost  error
}

// follow watches pods that have a node. The API server breaks off watches that fall behind; they are taken up again.
func follow(ctx context.Context, api client.WithWatch) (*bindings, error) {
	var now corev1.PodList
	if err := api.List(ctx, &now, client.InNamespace(namespace), client.Limit(1)); err != nil {
		return nil, err
	}
	placed := client.MatchingFieldsSelector{Selector: fields.OneTermNotEqualSelector("spec.nodeName", "")}
	w, err := retry.NewRetryWatcherWithContext(ctx, now.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, raw metav1.ListOptions) (watch.Interface, error) {
			return api.Watch(ctx, &corev1.PodList{}, client.InNamespace(namespace), placed, &client.ListOptions{Raw: &raw})
		},
	})
	if err != nil {
		return nil, err
	}
	b := &bindings{at: map[string]time.Time{}, news: make(chan struct{})}
	go func() {
		defer w.Stop()
		for event := range w.ResultChan() {
			b.take(event)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lost = errors.New("the watch of bindings ended")
		close(b.news)
		b.news = make(chan struct{})
	}()
	return b, nil
}

func (b *bindings) take(event watch.Event) {
	pod, ok := event.Object.(*corev1.Pod)
	if !ok {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.first.IsZero() {
		b.first = now // a binding, or a pod that makes room
	}
	if _, known := b.at[pod.Name]; known || event.Type == watch.Deleted || !strings.HasPrefix(pod.Name, "pod-") {
		return
	}
	b.last = now
	b.at[pod.Name] = now
	close(b.news)
	b.news = make(chan struct{})
}

// until waits for what done says, which is asked with the lock held.
func (b *bindings) until(ctx context.Context, done func() bool) error {
	for {
		b.mu.Lock()
		ok, lost, news, n := done(), b.lost, b.news, len(b.at)
		b.mu.Unlock()
		switch {
		case ok:
			return nil
		case lost != nil:
			return lost
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d pods bound: %w", n, ctx.Err())
		case <-news:
		}
	}
}

// backlog waits for that many bindings.
func (b *bindings) backlog(ctx context.Context, n int) (first, last time.Time, err error) {
	err = b.until(ctx, func() bool {
		first, last = b.first, b.last
		return len(b.at) >= n
	})
	return first, last, err
}

// await waits for one pod's binding.
func (b *bindings) await(ctx context.Context, name string) (at time.Time, err error) {
	err = b.until(ctx, func() (ok bool) {
		at, ok = b.at[name]
		return ok
	})
	return at, err
}

package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// hold is how long news may wait for a calm moment. Under a load that never ends they are then told one by one.
	hold = 10 * time.Second
	// keptNews bounds those that wait, some hundred bytes each; the wave that brings more leaves pods nobody is told of.
	keptNews = 50_000
)

// news is a pod that got its node.
type news struct {
	namespace, pod, node, by string
	uid                      types.UID
	version                  string
	at                       time.Time
}

// herald tells users where pods went, as Events. An Event costs the API server as much as the binding it tells of, so the
// bindings go first: a wave of pods would otherwise wait twice as long for the same machine.
type herald struct {
	mu       sync.Mutex
	waiting  []news
	deciding bool          // about a pod
	writing  int           // decisions on their way
	changed  chan struct{} // look again
}

func newHerald() *herald { return &herald{changed: make(chan struct{}, 1)} }

// add takes news in.
func (h *herald) add(n news) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) < keptNews {
		h.waiting = append(h.waiting, n)
	}
	h.look(len(h.waiting) == 1) // it has to learn how long to wait
}

// decides says whether pods are being decided about.
func (h *herald) decides(deciding bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deciding = deciding
	h.look(h.calm())
}

// writes counts decisions on their way in (or with -1 out).
func (h *herald) writes(by int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.writing += by
	h.look(h.calm())
}

func (h *herald) calm() bool { return !h.deciding && h.writing == 0 }

func (h *herald) look(again bool) {
	if !again || len(h.waiting) == 0 {
		return
	}
	select {
	case h.changed <- struct{}{}:
	default: // it has not looked since the last time
	}
}

// next is what may be told now, or else how long at most to wait for it; 0 is as long as nothing changes.
func (h *herald) next(now time.Time) (n news, ok bool, wait time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.waiting) == 0 {
		h.waiting = nil // a wave's worth of memory goes with it
		return n, false, 0
	}
	n = h.waiting[0]
	if wait = n.at.Add(hold).Sub(now); !h.calm() && wait > 0 {
		return n, false, wait
	}
	h.waiting = h.waiting[1:]
	return n, true, 0
}

// tell writes Events until ctx ends.
func (s *Scheduler) tell(ctx context.Context) {
	timer := s.clock.NewTimer(hold)
	defer timer.Stop()
	for ctx.Err() == nil {
		n, ok, wait := s.herald.next(s.clock.Now())
		if ok {
			if err := s.client.Create(ctx, scheduled(&n)); err != nil && !gone(err) && ctx.Err() == nil {
				s.log.Debug("nobody was told of a binding", "pod", n.namespace+"/"+n.pod, "err", err)
			}
			continue
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-ctx.Done():
		case <-s.herald.changed:
		case <-timer.C():
		}
	}
}

// scheduled is the Event about a binding.
func scheduled(n *news) *corev1.Event {
	at := metav1.NewTime(n.at)
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: n.namespace, Name: fmt.Sprintf("%s.%x", n.pod, n.at.UnixNano())},
		InvolvedObject: corev1.ObjectReference{
			Kind: "Pod", APIVersion: "v1", Namespace: n.namespace, Name: n.pod, UID: n.uid, ResourceVersion: n.version,
		},
		Reason: "Scheduled", Message: fmt.Sprintf("Successfully assigned %s/%s to %s", n.namespace, n.pod, n.node),
		Source: corev1.EventSource{Component: n.by}, ReportingController: n.by,
		FirstTimestamp: at, LastTimestamp: at, Count: 1, Type: corev1.EventTypeNormal,
	}
}

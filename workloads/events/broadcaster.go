package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/record/util"
)

const (
	// kept bounds how many Events wait to be written: what ten thousand pods say on their way to a node. The library's
	// bound of a thousand is passed by a hundred Deployments that come at once, and what is beyond it is lost.
	kept = 20_000
	// tries and pause are the library's: two minutes without an API server.
	tries = 12
	pause = 10 * time.Second
)

// broadcaster lets Events wait for their turn. They are written one at a time, by one goroutine for all controllers:
// what they tell about comes first, and under load that means they come later.
type broadcaster struct {
	record.EventBroadcaster
	ctx     context.Context
	log     *slog.Logger
	stop    context.CancelFunc
	writing sync.WaitGroup
}

// NewBroadcaster makes what the recorders of a manager share. It writes nothing after ctx, but takes Events in until
// Shutdown: controllers that are stopping have not heard of it all at once.
func NewBroadcaster(ctx context.Context, log *slog.Logger) record.EventBroadcaster {
	ctx, stop := context.WithCancel(ctx)
	return &broadcaster{EventBroadcaster: record.NewBroadcaster(), ctx: ctx, log: log.With("component", "events"), stop: stop}
}

// StartRecordingToSink implements record.EventBroadcaster.
func (b *broadcaster) StartRecordingToSink(sink record.EventSink) watch.Interface {
	if s, ok := sink.(*corev1client.EventSinkImpl); ok {
		sink = &apiSink{b.ctx, s.Interface}
	}
	w := &writer{sink: sink, correlator: record.NewEventCorrelatorWithOptions(record.CorrelatorOptions{}), log: b.log, more: make(chan struct{}, 1)}
	b.writing.Go(func() { w.run(b.ctx) })
	return b.StartEventWatcher(w.put)
}

// StartEventWatcher implements record.EventBroadcaster. A manager that never had an Event starts watching when it stops.
func (b *broadcaster) StartEventWatcher(see func(*corev1.Event)) watch.Interface {
	if b.ctx.Err() != nil {
		return watch.NewEmptyWatch()
	}
	return b.EventBroadcaster.StartEventWatcher(see)
}

// Shutdown implements record.EventBroadcaster. Events that wait are lost, and the one on its way is given up: an API
// server that does not answer holds nobody up.
func (b *broadcaster) Shutdown() {
	b.stop()
	b.EventBroadcaster.Shutdown()
	b.writing.Wait()
}

// apiSink is the library's sink with an end: the library's own requests last as long as the server lets them.
type apiSink struct {
	ctx    context.Context
	client corev1client.EventInterface
}

func (s *apiSink) Create(event *corev1.Event) (*corev1.Event, error) {
	return s.client.CreateWithEventNamespaceWithContext(s.ctx, event)
}

func (s *apiSink) Update(event *corev1.Event) (*corev1.Event, error) {
	return s.client.UpdateWithEventNamespaceWithContext(s.ctx, event)
}

func (s *apiSink) Patch(event *corev1.Event, patch []byte) (*corev1.Event, error) {
	return s.client.PatchWithEventNamespaceWithContext(s.ctx, event, patch)
}

// writer writes Events in the order they come.
type writer struct {
	sink       record.EventSink
	correlator *record.EventCorrelator
	log        *slog.Logger

	mu      sync.Mutex
	waiting []*corev1.Event
	lost    int
	more    chan struct{}
}

// put never waits.
func (w *writer) put(event *corev1.Event) {
	w.mu.Lock()
	if len(w.waiting) < kept {
		w.waiting = append(w.waiting, event)
	} else {
		w.lost++
	}
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
}

// next is the Event that waits longest, nil if none does, and how many were lost since the last was asked for.
func (w *writer) next() (event *corev1.Event, lost int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lost, w.lost = w.lost, 0
	if len(w.waiting) == 0 {
		w.waiting = nil
		return nil, lost
	}
	event, w.waiting[0] = w.waiting[0], nil
	w.waiting = w.waiting[1:]
	return event, lost
}

func (w *writer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.more:
		}
		for ctx.Err() == nil {
			event, lost := w.next()
			if lost > 0 {
				w.log.Warn("events lost: more came than could be written", "lost", lost)
			}
			if event == nil {
				break
			}
			w.write(ctx, event)
		}
	}
}

// write sends one Event, as a new one or as one more of those that are alike.
func (w *writer) write(ctx context.Context, event *corev1.Event) {
	event = event.DeepCopy() // others may read it
	result, err := w.correlator.EventCorrelate(event)
	if err != nil {
		w.log.Warn("event counted by itself", "reason", event.Reason, "err", err)
	}
	if result.Skip {
		return // its source says too much about one object
	}
	for range tries {
		if err = w.send(result); err == nil || !transient(err) {
			break
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	if err != nil && ctx.Err() == nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		w.log.Warn("event not written", "reason", event.Reason, "object", fmt.Sprintf("%s/%s", event.InvolvedObject.Namespace, event.InvolvedObject.Name), "err", err)
	}
}

func (w *writer) send(result *record.EventCorrelateResult) error {
	event := result.Event
	var written *corev1.Event
	var err error
	repeated := event.Count > 1
	if repeated {
		written, err = w.sink.Patch(event, result.Patch)
	}
	if !repeated || util.IsKeyNotFoundError(err) { // the first one may have expired
		event.ResourceVersion = ""
		written, err = w.sink.Create(event)
	}
	if err == nil {
		w.correlator.UpdateState(written)
	}
	return err
}

// transient says that a later attempt may fare better: the server did not answer, and not because it was never asked.
func transient(err error) bool {
	var answer apierrors.APIStatus
	var unsendable *rest.RequestConstructionError
	return !errors.As(err, &answer) && !errors.As(err, &unsendable)
}

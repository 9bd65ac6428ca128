package events

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
)

// sink keeps what is written, and fails as often as it is told to.
type sink struct {
	fail    []error
	created []string
	patched int
}

func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	if len(s.fail) > 0 {
		err := s.fail[0]
		s.fail = s.fail[1:]
		if err != nil {
			return nil, err
		}
	}
	s.created = append(s.created, e.Message)
	return e, nil
}

func (s *sink) Update(e *corev1.Event) (*corev1.Event, error) { return e, nil }

func (s *sink) Patch(e *corev1.Event, _ []byte) (*corev1.Event, error) {
	s.patched++
	return e, nil
}

// tell runs a broadcaster on a sink while act uses its recorder.
func tell(t *testing.T, s *sink, act func(record.EventRecorder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := NewBroadcaster(t.Context(), slog.New(slog.NewTextHandler(io.Discard, nil)))
		b.StartRecordingToSink(s)
		act(b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "test"}))
		time.Sleep(time.Hour) // the bubble's: until nothing is left to do
		b.Shutdown()
		synctest.Wait()
	})
}

// TestTheEndWaitsForNoServer: the Event on its way is given up, and Shutdown returns.
func TestTheEndWaitsForNoServer(t *testing.T) {
	asked, over := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-over
	}))
	defer server.Close()
	defer close(over)
	client, err := corev1client.NewForConfig(&rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	b := NewBroadcaster(t.Context(), slog.New(slog.DiscardHandler))
	b.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: client.Events("")})
	b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "test"}).Event(pod("a"), corev1.EventTypeNormal, "Pulled", "first")
	<-asked
	b.Shutdown()
}

func pod(name string) *corev1.Pod {
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.UID = "shop", name, types.UID(name)
	return p
}

func TestABurstIsWrittenWhole(t *testing.T) {
	const burst = 5000 // five times what the library keeps
	s := &sink{}
	tell(t, s, func(r record.EventRecorder) {
		for i := range burst {
			r.Eventf(pod(fmt.Sprintf("p%d", i)), corev1.EventTypeNormal, "Scheduled", "to n%d", i)
			if i%100 == 0 {
				synctest.Wait() // recorders hand over to the broadcaster's goroutine, which has a bound of its own
			}
		}
	})
	if len(s.created) != burst {
		t.Errorf("%d of %d events written", len(s.created), burst)
	}
}

func TestAnEventIsTriedAgainUntilTheServerAnswers(t *testing.T) {
	tests := map[string]struct {
		fail []error
		want int
	}{
		"no connection for a while":             {fail: []error{errors.New("refused"), errors.New("refused")}, want: 2},
		"the server refuses it, and takes more": {fail: []error{apierrors.NewForbidden(corev1.Resource("events"), "e", nil)}, want: 1},
		"no connection for too long":            {fail: always(errors.New("refused")), want: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &sink{fail: tc.fail}
			tell(t, s, func(r record.EventRecorder) {
				r.Event(pod("a"), corev1.EventTypeNormal, "Pulled", "first")
				r.Event(pod("b"), corev1.EventTypeNormal, "Pulled", "second")
			})
			if len(s.created) != tc.want {
				t.Errorf("written: %v, want %d", s.created, tc.want)
			}
		})
	}
}

func always(err error) []error {
	var list []error
	for range tries {
		list = append(list, err)
	}
	return list
}

func TestWhatIsSaidAgainIsCounted(t *testing.T) {
	s := &sink{}
	tell(t, s, func(r record.EventRecorder) {
		for range 3 {
			r.Event(pod("a"), corev1.EventTypeWarning, "BackOff", "again")
		}
	})
	if len(s.created) != 1 || s.patched != 2 {
		t.Errorf("%d created, %d patched; want 1 and 2", len(s.created), s.patched)
	}
}

func TestTheBoundHolds(t *testing.T) {
	w := &writer{more: make(chan struct{}, 1)}
	for range kept + 3 {
		w.put(&corev1.Event{})
	}
	if _, lost := w.next(); len(w.waiting) != kept-1 || lost != 3 {
		t.Errorf("%d kept, %d lost", len(w.waiting), lost)
	}
}

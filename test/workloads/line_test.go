package workloads_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"
)

// line is the wire between one process of controllers and the API server. What was sent arrives whatever happens to the
// sender, as it does when a process is killed; only the answer may be lost.
type line struct {
	mu      sync.Mutex
	changed *sync.Cond
	flying  int  // requests without an answer, watches aside
	cut     bool // nothing goes through
	dead    bool // nor ever will
	blind   bool // no watch shows pods
	since   uint64
	forgot  int // how often the watches of pods have lost what happened before since
	watches map[*http.Request]watched
}

type watched struct {
	pods bool
	end  context.CancelFunc
}

var errCut = errors.New("the line is cut")

// lay puts a line under a client's configuration.
func lay(config *rest.Config) (*rest.Config, *line) {
	l := &line{watches: map[*http.Request]watched{}}
	l.changed = sync.NewCond(&l.mu)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return wire{l, next} })
	return config, l
}

// wire is a client's end of a line.
type wire struct {
	*line
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Query().Get("watch") != "" {
		return w.watch(r)
	}
	w.mu.Lock()
	if w.cut || w.dead {
		w.mu.Unlock()
		return nil, errCut
	}
	w.flying++
	w.mu.Unlock()
	answer, err := w.next.RoundTrip(r.WithContext(context.WithoutCancel(r.Context())))
	var body []byte
	if err == nil {
		body, err = io.ReadAll(answer.Body)
		err = errors.Join(err, answer.Body.Close())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying--
	w.changed.Broadcast()
	if w.cut || w.dead {
		return nil, errCut
	}
	if err != nil {
		return nil, err
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	return answer, nil
}

// watch waits for the line to be whole. One that would go on from before it was is told that what happened meanwhile is
// forgotten, as after a compaction.
func (w wire) watch(r *http.Request) (*http.Response, error) {
	ctx, end := context.WithCancel(r.Context())
	stop := context.AfterFunc(ctx, func() { w.mu.Lock(); defer w.mu.Unlock(); w.changed.Broadcast() })
	defer stop()
	pods := strings.HasSuffix(r.URL.Path, "/pods")
	w.mu.Lock()
	for (w.cut || pods && w.blind) && !w.dead && ctx.Err() == nil {
		w.changed.Wait()
	}
	if w.dead || ctx.Err() != nil {
		w.mu.Unlock()
		end()
		return nil, errors.Join(errCut, ctx.Err())
	}
	w.watches[r] = watched{pods, end}
	forgotten := w.since
	w.mu.Unlock()
	gone := func() {
		end()
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.watches, r)
	}
	if from, err := strconv.ParseUint(r.URL.Query().Get("resourceVersion"), 10, 64); pods && err == nil && 0 < from && from < forgotten {
		gone()
		return expired(r), nil
	}
	answer, err := w.next.RoundTrip(r.WithContext(ctx))
	if err != nil {
		gone()
		return nil, err
	}
	answer.Body = &ended{answer.Body, gone}
	return answer, nil
}

// ended is a body that says when it is closed.
type ended struct {
	io.ReadCloser
	gone func()
}

func (e *ended) Close() error {
	e.gone()
	return e.ReadCloser.Close()
}

func expired(r *http.Request) *http.Response {
	body, err := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: http.StatusGone, Reason: metav1.StatusReasonExpired, Message: "too old resource version",
	})
	if err != nil {
		panic(err) // a Status is always encodable
	}
	return &http.Response{
		StatusCode: http.StatusGone, Status: "410 Gone", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}
}

// Cut lets nothing through any more, neither requests nor answers.
func (l *line) Cut() { l.set(func() { l.cut = true }, func(watched) bool { return true }) }

// Blind lets no watch of pods through.
func (l *line) Blind() { l.set(func() { l.blind = true }, func(w watched) bool { return w.pods }) }

// forgetful is how often watches of pods forget. After each, client-go's informers wait twice as long before they list
// everything anew, which would soon be all that a story does.
const forgetful = 3

// Mend makes the line whole. Watches of pods know nothing of what happened before now.
func (l *line) Mend(now uint64) {
	l.set(func() {
		if l.blind && l.forgot < forgetful {
			l.since = now
			l.forgot++
		}
		l.cut, l.blind = false, false
	}, func(watched) bool { return false })
}

// Kill ends the line for good, once what was sent has arrived.
func (l *line) Kill() {
	l.set(func() { l.dead = true }, func(watched) bool { return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.flying > 0 {
		l.changed.Wait()
	}
}

func (l *line) set(change func(), ends func(watched) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	for _, w := range l.watches {
		if ends(w) {
			w.end()
		}
	}
	l.changed.Broadcast()
}

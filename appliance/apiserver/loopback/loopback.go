// Package loopback carries requests to a handler in the same process.
//
// In:       a request of any Kubernetes client, its configuration made by Config.
// Out:      a call of the API server's handler, in a goroutine of its own; the response body is read as it is written.
// Promise:  no socket, no TLS, no HTTP framing; ending the request's context ends the handler's.
// Not here: who the caller is (the server gives the token in the configuration its meaning).
package loopback

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// buffered is how far a handler may be ahead of its reader. A list arrives in few writes, so anything smaller
// than the usual list costs switching to and fro.
const buffered = 256 << 10

// idle is how long a goroutine waits for another request. An API server's handlers go deep, and a new goroutine grows
// its stack for each of them anew; one that has served before has it.
const idle = 100 * time.Millisecond

// Transport is an http.RoundTripper onto a handler that may come later: requests made before wait for it.
type Transport struct {
	ready   chan struct{}
	handler http.Handler
	next    chan func() // for a goroutine that is idle
}

// New makes a transport without a handler.
func New() *Transport { return &Transport{ready: make(chan struct{}), next: make(chan func())} }

// Serve gives the transport its handler, once.
func (t *Transport) Serve(handler http.Handler) {
	t.handler = handler
	close(t.ready)
}

// Config is for clients on this transport. The token is a fresh secret that never leaves the process.
func (t *Transport) Config() *rest.Config {
	return &rest.Config{
		Host:        "http://knarr.loopback",
		Transport:   t,
		BearerToken: rand.Text(),
		QPS:         -1, // the server's own flow control is enough
		ContentConfig: rest.ContentConfig{
			ContentType:        runtime.ContentTypeProtobuf,
			AcceptContentTypes: runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON,
		},
	}
}

// RoundTrip calls the handler and returns as soon as it has decided on a status.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	select {
	case <-t.ready:
	case <-request.Context().Done():
		closeBody(request.Body)
		return nil, request.Context().Err()
	}
	// Reading the rest of the body after the request's end is the client's right, so the handler gets a context
	// that also ends when the client closes the response.
	ctx, cancel := detached(request.Context())
	served := request.Clone(ctx)
	if served.Body == nil {
		served.Body = http.NoBody
	}
	served.RequestURI = request.URL.RequestURI()
	served.RemoteAddr = "127.0.0.1:0"
	if served.Host == "" {
		served.Host = request.URL.Host
	}
	served.Proto, served.ProtoMajor, served.ProtoMinor = "HTTP/2.0", 2, 0

	w := &writer{header: http.Header{}, decided: make(chan struct{}), body: newBody(ctx, cancel)}
	t.start(func() { t.serve(w, served) })
	select {
	case <-w.decided:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if w.failed != nil {
		return nil, w.failed
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         served.Proto,
		ProtoMajor:    served.ProtoMajor,
		Header:        w.sent,
		Body:          w.body,
		ContentLength: -1,
		Request:       request,
	}, nil
}

// detached ends when the caller's context does, and knows nothing else of it. A caller may itself be answering a request
// here (whose token is it?): what the server noted about that one, its user and its line in the audit log, is not the
// next one's.
func detached(caller context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	unhook := context.AfterFunc(caller, func() { cancel(caller.Err()) })
	return ctx, func() {
		unhook()
		cancel(nil)
	}
}

// start runs serve on a goroutine that is idle, or on a new one.
func (t *Transport) start(serve func()) {
	select {
	case t.next <- serve:
		return
	default:
	}
	go func() {
		wait := time.NewTimer(idle)
		defer wait.Stop()
		for {
			serve()
			serve = nil // and what it holds
			wait.Reset(idle)
			select {
			case serve = <-t.next:
			case <-wait.C:
				return
			}
		}
	}()
}

func (t *Transport) serve(w *writer, request *http.Request) {
	defer closeBody(request.Body)
	defer func() {
		// The handler ends its connection by a panic, after which there is nobody to tell but the reader.
		if p := recover(); p != nil {
			err := errors.New("the API server broke off the response")
			if p != http.ErrAbortHandler { //nolint:errorlint // a panic value, compared as net/http does
				err = fmt.Errorf("the API server broke off the response: %v", p)
			}
			w.fail(err)
			return
		}
		w.WriteHeader(http.StatusOK) // a handler that wrote nothing answered 200
		w.body.end(io.EOF)
	}()
	t.handler.ServeHTTP(w, request)
}

func closeBody(body io.ReadCloser) {
	if body != nil {
		body.Close()
	}
}

// writer is what the handler sees of a connection. It looks like one of HTTP/2, which the server's filters know.
type writer struct {
	header  http.Header
	once    sync.Once
	decided chan struct{}
	status  int
	sent    http.Header
	failed  error
	body    *body
}

var (
	_ http.Flusher       = &writer{}
	_ http.CloseNotifier = &writer{} //nolint:staticcheck // the library's wrappers ask for it
)

func (w *writer) Header() http.Header { return w.header }

func (w *writer) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.decided)
	})
}

func (w *writer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.write(p)
}

func (w *writer) Flush() { w.WriteHeader(http.StatusOK) }

func (w *writer) fail(err error) {
	w.once.Do(func() {
		w.failed = err
		close(w.decided)
	})
	w.body.end(err)
}

// CloseNotify tells when the client is gone, like the request's context.
func (w *writer) CloseNotify() <-chan bool {
	gone := make(chan bool, 1)
	context.AfterFunc(w.body.ctx, func() { gone <- true })
	return gone
}

// body is a bounded buffer between the handler and the client.
type body struct {
	ctx    context.Context
	cancel context.CancelFunc
	unhook func() bool

	mu     sync.Mutex
	change sync.Cond
	data   []byte // not yet read
	err    error  // why nothing more comes
	closed bool   // the client wants no more
}

func newBody(ctx context.Context, cancel context.CancelFunc) *body {
	b := &body{ctx: ctx, cancel: cancel}
	b.change.L = &b.mu
	b.unhook = context.AfterFunc(ctx, func() { b.end(context.Cause(ctx)) })
	return b
}

func (b *body) write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.data) > 0 && len(b.data)+len(p) > buffered && !b.closed && b.err == nil {
		b.change.Wait()
	}
	if b.closed {
		return 0, io.ErrClosedPipe
	}
	if b.err != nil {
		return 0, b.err
	}
	b.data = append(b.data, p...) // the handler may reuse p
	b.change.Broadcast()
	return len(p), nil
}

func (b *body) end(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	b.change.Broadcast()
}

// Read gives what was written before it gives the reason for the end.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.data) == 0 && b.err == nil && !b.closed {
		b.change.Wait()
	}
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	if len(b.data) == 0 {
		b.data = nil // an idle watch keeps no buffer
	}
	b.change.Broadcast()
	return n, nil
}

// Close ends the handler.
func (b *body) Close() error {
	b.mu.Lock()
	b.closed = true
	b.data = nil
	b.change.Broadcast()
	b.mu.Unlock()
	b.unhook()
	b.cancel()
	return nil
}

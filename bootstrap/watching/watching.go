// Package watching keeps watches of the API going through its outages.
//
// In:       a way to an API server.
// Out:      the same way, on which a watch waits for a server that does not answer, and ends as if the server had ended
//
//	it when its connection breaks.
//
// Promise:  informers go on where they were a few seconds after the API is back, however long and however often it was
//
//	away. Nothing else is held up: whoever asks for an answer hears at once that there is none, and decides.
//
// Not here: connections (bootstrap/join), what has changed meanwhile (the API server says, or asks for another list).
package watching

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// Client-go's informers wait twice as long after each failure, up to a minute, and forget their failures only every two
// minutes; one whose connection broke lists everything anew besides. So they are told of neither.
const (
	// soonest and latest bound the time between two tries of a watch. A try costs nearly nothing when nobody is there, but
	// many machines ask at once when somebody is.
	soonest = 500 * time.Millisecond
	latest  = 5 * time.Second
	// slower is how much of the outage so far is waited on top.
	slower = 8
	// brief is what client-go takes for the end of a broken watch, after which it lists everything anew.
	brief = time.Second
)

// Through returns config with a transport whose watches outlast outages.
func Through(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return way{next} })
	return config
}

// way is an http.RoundTripper that keeps watches.
type way struct{ next http.RoundTripper }

// WrappedRoundTripper lets clients find the connections below.
func (w way) WrappedRoundTripper() http.RoundTripper { return w.next }

// RoundTrip implements http.RoundTripper.
func (w way) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.RawQuery, "watch=true") {
		return w.next.RoundTrip(r)
	}
	for asked := time.Now(); ; {
		began := time.Now()
		answer, err := w.next.RoundTrip(r)
		switch {
		case r.Context().Err() != nil:
			return answer, err
		case err == nil && answer.StatusCode == http.StatusOK:
			of, end := context.WithCancel(r.Context())
			answer.Body = &stream{answer.Body, of, end, began}
			return answer, nil
		case err == nil && answer.StatusCode != http.StatusTooManyRequests: // which a server says that fills its cache
			return answer, nil
		case err == nil:
			answer.Body.Close()
		}
		if err := sleep(r.Context(), pause(time.Since(asked))); err != nil {
			return nil, err
		}
	}
}

// pause is how long to wait for the next try after an outage of that length.
func pause(outage time.Duration) time.Duration {
	most := min(soonest+outage/slower, latest)
	return most/2 + rand.N(most/2)
}

// stream is what a watch is told.
type stream struct {
	io.ReadCloser
	of    context.Context // ends with the request, and when nobody reads any more
	end   context.CancelFunc
	began time.Time
}

// Read takes a broken connection for the end of the watch, and lets no watch be so brief that it is not believed.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) || s.of.Err() != nil {
		return n, err
	}
	_ = sleep(s.of, brief-time.Since(s.began)) // the end of a watch is an end either way
	return n, io.EOF
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.end()
	return s.ReadCloser.Close()
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

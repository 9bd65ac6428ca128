package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/nodeapi/logfile"
)

// logQuery is what a request wants of a log.
type logQuery struct {
	options  logfile.Options
	previous bool
}

// parseLogQuery reads the parameters of PodLogOptions.
func parseLogQuery(query url.Values, now time.Time) (logQuery, error) {
	q := logQuery{options: logfile.Whole()}
	var failed error
	flag := func(name string) bool {
		text := query.Get(name)
		on, err := strconv.ParseBool(text)
		if text != "" && err != nil {
			failed = fmt.Errorf("%s=%q: use true or false", name, text)
		}
		return on
	}
	count := func(name string, least int64) (n int64, given bool) {
		text := query.Get(name)
		if text == "" {
			return 0, false
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < least {
			failed = fmt.Errorf("%s=%q: use a number of at least %d", name, text, least)
		}
		return n, true
	}
	q.previous = flag("previous")
	q.options.Follow, q.options.Timestamps = flag("follow"), flag("timestamps")
	if n, given := count("tailLines", 0); given {
		q.options.Tail = n
	}
	if n, given := count("limitBytes", 1); given {
		q.options.Limit = n
	}
	seconds, since := count("sinceSeconds", 1)
	if since {
		q.options.Since = now.Add(-time.Duration(seconds) * time.Second)
	}
	if text := query.Get("sinceTime"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			failed = fmt.Errorf("sinceTime=%q: use a time like 2026-01-02T03:04:05Z", text)
		}
		if since {
			failed = errors.New("sinceTime and sinceSeconds: use one of them")
		}
		q.options.Since = at
	}
	switch stream := query.Get("stream"); stream {
	case "", "All":
	case "Stdout":
		q.options.Stream = logfile.Stdout
	case "Stderr":
		q.options.Stream = logfile.Stderr
	default:
		failed = fmt.Errorf("stream=%q: use All, Stdout or Stderr", stream)
	}
	if q.options.Stream != logfile.All && q.options.Tail >= 0 {
		failed = errors.New("tailLines and stream: a tail is counted over both streams; use one of them")
	}
	return q, failed
}

func (s *Server) serveLogs(w http.ResponseWriter, r *http.Request) {
	query, err := parseLogQuery(r.URL.Query(), time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	place, ok := s.container(w, r, query.previous, http.StatusBadRequest)
	if !ok {
		return
	}
	query.options.Running = func(ctx context.Context) (bool, error) { return s.running(ctx, place.ContainerID) }
	out := &lateHeader{ResponseWriter: w}
	controller := http.NewResponseController(w)
	flush := func() {
		if query.options.Follow {
			out.begin()
			_ = controller.Flush() // a client that left is noticed by its context
		}
	}
	err = logfile.Read(r.Context(), place.LogPath, query.options, out, flush)
	switch {
	case err == nil || r.Context().Err() != nil:
		out.begin()
	case out.begun:
		s.config.Log.Warn("log cut short", "pod", r.PathValue("namespace")+"/"+r.PathValue("pod"), "container", r.PathValue("container"), "err", err)
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, fmt.Sprintf("the log of container %q is gone: the container was removed or its log cleaned up", r.PathValue("container")), http.StatusNotFound)
	default:
		s.fail(w, err)
	}
}

// running tells whether a container may still write to its log.
func (s *Server) running(ctx context.Context, id string) (bool, error) {
	status, err := s.config.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	state := status.GetStatus().GetState()
	return state == runtimeapi.ContainerState_CONTAINER_RUNNING || state == runtimeapi.ContainerState_CONTAINER_CREATED, nil
}

// lateHeader sends the header of success with the first byte, so that a failure before it gets its own.
type lateHeader struct {
	http.ResponseWriter
	begun bool
}

func (l *lateHeader) begin() {
	if !l.begun {
		l.begun = true
		l.Header().Set("Content-Type", "text/plain")
		l.WriteHeader(http.StatusOK)
	}
}

func (l *lateHeader) Write(data []byte) (int, error) {
	l.begin()
	return l.ResponseWriter.Write(data)
}

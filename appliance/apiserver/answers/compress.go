package answers

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

// worthwhile is how long an answer must be to be compressed, as in every Kubernetes.
const worthwhile = 128 << 10

// Compress shortens long answers for clients that understand gzip. The library can do so itself, with the standard
// library's compressor, which takes three times as long; its feature APIResponseCompression must be off.
func Compress(next http.Handler, longRunning apirequest.LongRunningRequestCheck) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, known := apirequest.RequestInfoFrom(r.Context())
		if !known || !understandsGzip(r.Header) || r.Header.Get("Upgrade") != "" || longRunning(r, info) {
			next.ServeHTTP(w, r)
			return
		}
		answer := &answer{ResponseWriter: w, held: buffers.Get().(*bytes.Buffer)}
		next.ServeHTTP(answer, r)
		answer.finish() // not after a panic: the connection breaks, and that is how the client knows
	})
}

func understandsGzip(header http.Header) bool {
	return slices.ContainsFunc(strings.Split(header.Get("Accept-Encoding"), ","), func(name string) bool {
		return strings.TrimSpace(name) == "gzip"
	})
}

var (
	buffers = sync.Pool{New: func() any { return &bytes.Buffer{} }}
	writers = sync.Pool{New: func() any {
		w, err := gzip.NewWriterLevel(nil, gzip.BestSpeed) // networks inside of a cluster are fast
		if err != nil {
			panic(err) // there is that level
		}
		return w
	}}
)

// answer holds back the beginning, until it is known whether the whole is long.
type answer struct {
	http.ResponseWriter
	status int
	held   *bytes.Buffer
	to     io.Writer    // nil: not known yet
	gzip   *gzip.Writer // nil: as it is
}

// Unwrap is for the library, which looks for what a writer of its own can do.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// WriteHeader waits for the first byte, before which headers may still change.
func (a *answer) WriteHeader(status int) {
	switch {
	case status < http.StatusOK: // more will come
		a.ResponseWriter.WriteHeader(status)
	case a.status == 0:
		a.status = status
	}
}

func (a *answer) Write(p []byte) (int, error) {
	if a.to == nil {
		if a.held.Len()+len(p) <= worthwhile {
			return a.held.Write(p)
		}
		if err := a.begin(a.Header().Get("Content-Encoding") == ""); err != nil {
			return 0, err
		}
	}
	return a.to.Write(p)
}

// Flush is for answers that are made by and by; they are sent as they are.
func (a *answer) Flush() {
	if a.to == nil {
		_ = a.begin(false) // the next write says it again
	}
	if a.gzip != nil {
		_ = a.gzip.Flush() // so does this
	}
	_ = http.NewResponseController(a.ResponseWriter).Flush() // and who cannot flush sends it later
}

func (a *answer) begin(compress bool) error {
	a.to = a.ResponseWriter
	if compress {
		a.Header().Set("Content-Encoding", "gzip")
		a.Header().Add("Vary", "Accept-Encoding")
		a.Header().Del("Content-Length")
		a.gzip = writers.Get().(*gzip.Writer)
		a.gzip.Reset(a.ResponseWriter)
		a.to = a.gzip
	}
	if a.status != 0 {
		a.ResponseWriter.WriteHeader(a.status)
	}
	_, err := a.held.WriteTo(a.to)
	return err
}

func (a *answer) finish() {
	if a.to == nil {
		_ = a.begin(false) // a client that is gone misses nothing
	}
	if a.gzip != nil {
		_ = a.gzip.Close()
		a.gzip.Reset(nil)
		writers.Put(a.gzip)
	}
	a.held.Reset()
	buffers.Put(a.held)
}

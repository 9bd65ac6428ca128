package answers

import (
	"cmp"
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	apirequest "k8s.io/apiserver/pkg/endpoints/request"
)

func TestCompress(t *testing.T) {
	long, short := strings.Repeat("long ", worthwhile), "short"
	write := func(parts ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusAccepted)
			for _, part := range parts {
				if _, err := io.WriteString(w, part); err != nil {
					t.Error(err)
				}
			}
		}
	}
	tests := map[string]struct {
		answer  http.HandlerFunc
		accept  string
		upgrade bool
		verb    string
		shorter bool
		want    string
		status  int
	}{
		"a long answer is compressed":                   {answer: write(long), accept: "gzip", shorter: true, want: long},
		"so is one in many parts":                       {answer: write("{", short, long, short), accept: "deflate, gzip", shorter: true, want: "{" + short + long + short},
		"a short one is not":                            {answer: write(short, short), accept: "gzip", want: short + short},
		"nor is one for a client that cannot read it":   {answer: write(long), accept: "deflate", want: long},
		"nor for one that would rather not":             {answer: write(long), accept: "gzip;q=0", want: long},
		"a watch is a stream":                           {answer: write(long), accept: "gzip", verb: "watch", want: long},
		"a connection that becomes another is not ours": {answer: write(long), accept: "gzip", upgrade: true, want: long},
		"an answer without a word is answered":          {answer: write(), accept: "gzip"},
		"an answer without a status is well":            {answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) }, accept: "gzip", shorter: true, want: long, status: http.StatusOK},
		"an answer of nothing is well":                  {answer: func(http.ResponseWriter, *http.Request) {}, accept: "gzip", status: http.StatusOK},
		"what is sent by and by is sent as it is": {answer: func(w http.ResponseWriter, r *http.Request) {
			write(short)(w, r)
			w.(http.Flusher).Flush()
			write(long)(w, r)
		}, accept: "gzip", want: short + long},
		"a compressed answer may be sent by and by, too": {answer: func(w http.ResponseWriter, r *http.Request) {
			write(long)(w, r)
			w.(http.Flusher).Flush()
			write(short)(w, r)
		}, accept: "gzip", shorter: true, want: long + short},
		"what is encoded already is not encoded again": {answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			write(long)(w, r)
		}, accept: "gzip", want: long},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			longRunning := func(_ *http.Request, info *apirequest.RequestInfo) bool { return info.Verb == "watch" }
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r = r.WithContext(apirequest.WithRequestInfo(context.Background(), &apirequest.RequestInfo{Verb: tc.verb}))
			r.Header.Set("Accept-Encoding", tc.accept)
			if tc.upgrade {
				r.Header.Set("Upgrade", "SPDY/3.1")
			}
			w := httptest.NewRecorder()
			Compress(tc.answer, longRunning).ServeHTTP(w, r)
			if want := cmp.Or(tc.status, http.StatusAccepted); w.Code != want {
				t.Errorf("status %d, want %d", w.Code, want)
			}
			body := io.Reader(w.Body)
			if shorter := w.Header().Get("Content-Encoding") == "gzip"; shorter != tc.shorter {
				t.Fatalf("compressed: %v, want %v", shorter, tc.shorter)
			}
			if tc.shorter {
				if w.Body.Len() > len(tc.want)/10 || w.Header().Get("Vary") != "Accept-Encoding" {
					t.Errorf("%d bytes of %d, headers %v", w.Body.Len(), len(tc.want), w.Header())
				}
				var err error
				if body, err = gzip.NewReader(w.Body); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := io.ReadAll(body); err != nil || string(got) != tc.want {
				t.Errorf("answer of %d bytes, %v; want %d bytes", len(got), err, len(tc.want))
			}
		})
	}
}

// TestABrokenAnswerStaysBroken: a client must not take the beginning for the whole.
func TestABrokenAnswerStaysBroken(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r = r.WithContext(apirequest.WithRequestInfo(context.Background(), &apirequest.RequestInfo{}))
	r.Header.Set("Accept-Encoding", "gzip")
	w := httptest.NewRecorder()
	defer func() {
		if recover() != http.ErrAbortHandler || w.Body.Len() > 0 {
			t.Errorf("%d bytes were sent of it", w.Body.Len())
		}
	}()
	Compress(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "begin")
		panic(http.ErrAbortHandler)
	}), func(*http.Request, *apirequest.RequestInfo) bool { return false }).ServeHTTP(w, r)
}

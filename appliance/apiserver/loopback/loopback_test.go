package loopback

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const patience = 10 * time.Second

func serve(t *testing.T, handler http.HandlerFunc) *http.Client {
	t.Helper()
	transport := New()
	transport.Serve(handler)
	return &http.Client{Transport: transport}
}

func TestResponses(t *testing.T) {
	tests := map[string]struct {
		handler http.HandlerFunc
		status  int
		body    string
	}{
		"a handler that writes nothing answered 200": {handler: func(http.ResponseWriter, *http.Request) {}, status: 200},
		"a body without a status is 200":             {handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }, status: 200, body: "hello"},
		"the first status counts": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			w.WriteHeader(http.StatusOK)
			io.WriteString(w, "no")
		}, status: 404, body: "no"},
		"the request's body reaches the handler": {handler: func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		}, status: 200, body: "asked"},
		"more than the buffer holds arrives whole": {handler: func(w http.ResponseWriter, _ *http.Request) {
			for range 100 {
				io.WriteString(w, strings.Repeat("x", buffered/10))
			}
		}, status: 200, body: strings.Repeat("x", 100*(buffered/10))},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			response, err := serve(t, tc.handler).Post("http://server/path", "text/plain", strings.NewReader("asked"))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			if response.StatusCode != tc.status || string(body) != tc.body {
				t.Errorf("got %d and %d bytes, want %d and %d", response.StatusCode, len(body), tc.status, len(tc.body))
			}
		})
	}
}

func TestTheHandlerKnowsNothingOfItsCallersRequest(t *testing.T) {
	type key struct{}
	var found any
	client := serve(t, func(_ http.ResponseWriter, r *http.Request) { found = r.Context().Value(key{}) })
	request, err := http.NewRequestWithContext(context.WithValue(t.Context(), key{}, "the caller's"), http.MethodGet, "http://server/path", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if found != nil {
		t.Errorf("the handler found %v", found)
	}
}

func TestHeadersSetTooLateAreNotSent(t *testing.T) {
	response, err := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Early", "yes")
		w.WriteHeader(http.StatusOK)
		w.Header().Set("Late", "yes")
	}).Get("http://server/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.Header.Get("Early") != "yes" || response.Header.Get("Late") != "" {
		t.Errorf("headers = %v", response.Header)
	}
}

func TestAStreamArrivesAsItIsWritten(t *testing.T) {
	more := make(chan string)
	response, err := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		for line := range more {
			fmt.Fprintln(w, line)
		}
	}).Get("http://server/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	buffer := make([]byte, 100)
	for _, line := range []string{"one", "two"} {
		more <- line
		n, err := response.Body.Read(buffer)
		if err != nil || string(buffer[:n]) != line+"\n" {
			t.Fatalf("read %q, %v; want %q", buffer[:n], err, line)
		}
	}
	close(more)
	if _, err := response.Body.Read(buffer); !errors.Is(err, io.EOF) {
		t.Errorf("after the handler's end: %v, want EOF", err)
	}
}

// The handler's context must end however the client ends, or watches would stay behind.
func TestTheHandlerLearnsThatItsClientIsGone(t *testing.T) {
	tests := map[string]func(cancel context.CancelFunc, body io.Closer){
		"by the end of the request's context": func(cancel context.CancelFunc, _ io.Closer) { cancel() },
		"by closing the response":             func(_ context.CancelFunc, body io.Closer) { body.Close() },
	}
	for name, leave := range tests {
		t.Run(name, func(t *testing.T) {
			gone := make(chan error, 1)
			client := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				_, err := io.WriteString(w, strings.Repeat("x", 2*buffered))
				gone <- err
			})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server/", nil)
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			leave(cancel, response.Body)
			select {
			case err := <-gone:
				if err == nil {
					t.Error("writing to nobody succeeded")
				}
			case <-time.After(patience):
				t.Error("the handler is still there")
			}
			if _, err := io.ReadAll(response.Body); err == nil {
				t.Error("a broken response looked complete")
			}
		})
	}
}

func TestARequestHasNothingOfTheOneItIsMadeFor(t *testing.T) {
	type key struct{}
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(key{}) != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	request, err := http.NewRequestWithContext(context.WithValue(t.Context(), key{}, "the outer one's user"), http.MethodGet, "http://server/", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Error("the handler sees the values of the outer request")
	}
}

// A bubble that is left while a goroutine waits in it fails its test.
func TestGoroutinesServeAgainAndEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
		for i := range 100 {
			said := fmt.Sprint(i)
			response, err := client.Post("http://server/", "text/plain", strings.NewReader(said))
			if err != nil {
				t.Fatal(err)
			}
			if heard, err := io.ReadAll(response.Body); err != nil || string(heard) != said {
				t.Fatalf("heard %q, %v; want %q", heard, err, said)
			}
			response.Body.Close()
			synctest.Wait()
		}
		time.Sleep(2 * idle) // the bubble's time
	})
}

func TestAPanicBreaksTheResponse(t *testing.T) {
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			io.WriteString(w, "half")
		}
		panic(http.ErrAbortHandler)
	})
	if _, err := client.Get("http://server/early"); err == nil {
		t.Error("a handler that panicked before its status gave a response")
	}
	response, err := client.Get("http://server/late")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err == nil || string(body) != "half" {
		t.Errorf("read %q, %v; want half of it and an error", body, err)
	}
}

func TestRequestsWaitForTheHandler(t *testing.T) {
	transport := New()
	client := &http.Client{Transport: transport}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(request); !errors.Is(err, context.Canceled) {
		t.Errorf("a request that gave up before there was a handler: %v", err)
	}
	answered := make(chan error, 1)
	go func() {
		response, err := client.Get("http://server/")
		if err == nil {
			response.Body.Close()
		}
		answered <- err
	}()
	transport.Serve(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the request is still waiting")
	}
}

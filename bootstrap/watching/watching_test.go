package watching

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

var errAway = errors.New("http2: client connection lost")

// api is an API server of one ConfigMap, which may be away.
type api struct {
	mu      sync.Mutex
	away    bool
	busy    bool // it says that it is not ready yet
	version int
	told    map[*io.PipeWriter]bool
	whole   int // how often everything was asked for
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away {
		return nil, errAway
	}
	if a.busy {
		return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	}
	query := r.URL.Query()
	if query.Get("watch") != "true" {
		return nil, fmt.Errorf("nobody should list: %s", r.URL)
	}
	begin := ""
	switch from, _ := strconv.Atoi(query.Get("resourceVersion")); {
	case query.Get("sendInitialEvents") == "true":
		a.whole++
		begin = a.event("ADDED", nil) + a.event("BOOKMARK", map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	case from < a.version:
		begin = a.event("MODIFIED", nil)
	}
	reader, writer := io.Pipe()
	a.told[writer] = true
	context.AfterFunc(r.Context(), func() { writer.CloseWithError(r.Context().Err()) })
	body := struct {
		io.Reader
		io.Closer
	}{io.MultiReader(strings.NewReader(begin), reader), reader}
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: body, Request: r}, nil
}

func (a *api) event(kind string, annotations map[string]string) string {
	object, err := json.Marshal(&corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "one", ResourceVersion: strconv.Itoa(a.version), Annotations: annotations},
	})
	if err != nil {
		panic(err) // a ConfigMap is always encodable
	}
	return fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object)
}

// leave breaks every connection; while the server is away the ConfigMap changes.
func (a *api) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = true
	a.version++
	for writer := range a.told {
		writer.CloseWithError(errAway)
	}
	clear(a.told)
}

func (a *api) set(away, busy bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away, a.busy = away, busy
}

// TestAnInformerGoesOnSoonAfterEachOutage takes hours of synctest's time, which passes as soon as everybody waits for it: a
// time.Sleep in it is how long something lasts in the story, and no wait of the test.
func TestAnInformerGoesOnSoonAfterEachOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &api{version: 1, told: map[*io.PipeWriter]bool{}}
		client, err := kubernetes.NewForConfig(Through(&rest.Config{Host: "http://api", Transport: server}))
		if err != nil {
			t.Fatal(err)
		}
		informer := informers.NewSharedInformerFactory(client, 0).Core().V1().ConfigMaps().Informer()
		heard := make(chan string, 100) // versions; more than there are
		tell := func(object any) { heard <- object.(*corev1.ConfigMap).ResourceVersion }
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, object any) { tell(object) }}); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { informer.RunWithContext(ctx) })
		defer running.Wait()
		defer stop()
		synctest.Wait()
		for _, outage := range []time.Duration{ // one right after the other, as when a link flaps
			0, time.Millisecond, time.Second, time.Second, time.Second, 20 * time.Second, time.Minute, 10 * time.Minute, time.Second, 3 * time.Hour, time.Second,
		} {
			server.leave()
			time.Sleep(outage)
			server.set(false, true) // it fills its caches
			time.Sleep(time.Second)
			server.set(false, false)
			late := time.After(latest)
			for version := ""; version != strconv.Itoa(server.version); {
				select {
				case version = <-heard:
				case <-late:
					t.Fatalf("%v after an outage of %v the informer is at version %q, want %d", latest, outage, version, server.version)
				}
			}
		}
		if server.whole != 1 {
			t.Errorf("everything was asked for %d times, want once", server.whole)
		}
	})
}

func TestOnlyWatchesWait(t *testing.T) {
	server := &api{away: true}
	ended, end := context.WithCancel(t.Context())
	end()
	for name, tc := range map[string]struct {
		ctx context.Context
		url string
	}{
		"who asks for an object hears at once":           {t.Context(), "http://api/api/v1/namespaces/n/configmaps/one"},
		"who asks for a list hears at once":              {t.Context(), "http://api/api/v1/configmaps?limit=500"},
		"a watch nobody waits for any more ends at once": {ended, "http://api/api/v1/configmaps?watch=true"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(tc.ctx, http.MethodGet, tc.url, nil)
			if err != nil {
				t.Fatal(err)
			}
			if answer, err := (way{server}).RoundTrip(r); !errors.Is(err, errAway) {
				t.Errorf("got %v, %v; want to hear that nobody answers", answer, err)
			}
		})
	}
}

// answers is a server that says one thing.
type answers http.Response

func (a *answers) RoundTrip(*http.Request) (*http.Response, error) { return (*http.Response)(a), nil }

func TestARefusalIsAnAnswer(t *testing.T) {
	for _, status := range []int{http.StatusGone, http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError, http.StatusServiceUnavailable} {
		answer, err := (way{&answers{StatusCode: status, Body: http.NoBody}}).RoundTrip(&http.Request{
			Method: http.MethodGet, URL: &url.URL{Path: "/api/v1/pods", RawQuery: "watch=true"},
		})
		if err != nil || answer.StatusCode != status {
			t.Errorf("a watch that is answered with %d ends with %v, %v", status, answer, err)
		}
	}
}

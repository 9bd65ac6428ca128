package usage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func text(cpu float64, at time.Time) string {
	ms := at.UnixMilli()
	return fmt.Sprintf(`# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="app",namespace="shop",pod="web"} %[1]g %[2]d
container_memory_working_set_bytes{container="app",namespace="shop",pod="web"} 4096 %[2]d
container_start_time_seconds{container="app",namespace="shop",pod="web"} 1.7e+09
container_cpu_usage_seconds_total{container="half",namespace="shop",pod="web"} 1 %[2]d
node_cpu_usage_seconds_total %[1]g %[2]d
node_memory_working_set_bytes 8192 %[2]d
pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 7 %[2]d
`, cpu, ms)
}

func TestParse(t *testing.T) {
	got, err := parse(strings.NewReader(text(2.5, now)), now)
	if err != nil {
		t.Fatal(err)
	}
	want := map[of]counter{
		{}:                     {at: now, cpu: 2500 * time.Millisecond, memory: 8192, whole: true},
		{"shop", "web", "app"}: {at: now, since: time.Unix(1_700_000_000, 0), cpu: 2500 * time.Millisecond, memory: 4096, whole: true},
	}
	if diff := cmp.Diff(want, got.counters, cmp.AllowUnexported(counter{})); diff != "" {
		t.Errorf("parse() (-want +got):\n%s", diff)
	}
	if _, err := parse(strings.NewReader("<html>"), now); err == nil {
		t.Error("what is no metrics was understood")
	}
}

func TestBetween(t *testing.T) {
	begun := now.Add(-time.Hour)
	took := func(at time.Time, since time.Time, cpu time.Duration) *sample {
		return &sample{asked: at, counters: map[of]counter{{}: {at: at, since: since, cpu: cpu, memory: 1, whole: true}}}
	}
	on := func(s *sample, clock time.Duration) *sample { // the same, on a node whose clock was set
		c := s.counters[of{}]
		c.at = c.at.Add(clock)
		s.counters[of{}] = c
		return s
	}
	later := now.Add(10 * time.Second)
	tests := map[string]struct {
		before, after *sample
		cpu           int64 // thousandths
		window        time.Duration
	}{
		"half a core over ten seconds":                        {took(now, begun, time.Second), took(later, begun, 6*time.Second), 500, 10 * time.Second},
		"a young container from its beginning":                {nil, took(now, now.Add(-4*time.Second), 2*time.Second), 500, 4 * time.Second},
		"also when it was started again in between":           {took(now, begun, time.Hour), took(later, now.Add(5*time.Second), time.Second), 200, 5 * time.Second},
		"one just started says nothing yet":                   {nil, took(now, now.Add(-100*time.Millisecond), time.Second), 0, 0},
		"an old one nothing without a sample before":          {nil, took(now, begun, time.Second), 0, 0},
		"nor after too long":                                  {took(now.Add(-2*time.Minute), begun, 0), took(now, begun, time.Second), 0, 0},
		"a node's clock that was set forward":                 {took(now, begun, time.Second), on(took(later, begun, 2*time.Second), 365*24*time.Hour), 0, 0},
		"and back":                                            {took(now, begun, time.Second), on(took(later, begun, 2*time.Second), -365*24*time.Hour), 0, 0},
		"a node that is an hour ahead all the time":           {on(took(now, begun, time.Second), time.Hour), on(took(later, begun, 2*time.Second), time.Hour), 100, 10 * time.Second},
		"a counter that began again, as after a node's start": {took(now, time.Time{}, time.Hour), took(later, time.Time{}, time.Second), 0, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, known := between(tc.before, tc.after)[of{}]
			if known != (tc.window > 0) || r.CPU/1e6 != tc.cpu || r.Window != tc.window {
				t.Errorf("between() = %+v, %t; want %d thousandths over %v", r, known, tc.cpu, tc.window)
			}
		})
	}
}

// cluster of nodes that each use half a core; what is not there does not answer.
type cluster map[string]*int

func (c cluster) collector() *Collector {
	began := time.Now()
	return &Collector{clock: clock.RealClock{}, nodes: map[string]*node{}, ask: func(ctx context.Context, name string) (*sample, error) {
		asked := c[name]
		if asked == nil {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		*asked++
		at := time.Now()
		return &sample{asked: at, counters: map[of]counter{{}: {at: at, cpu: at.Sub(began) / 2, memory: 1, whole: true}}}, nil
	}}
}

func TestCollectorMeasuresOnDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := 0, 0
		c := cluster{"one": &one, "two": &two}.collector()
		start := time.Now()
		check := func(what string, wantOne int, wantWindow time.Duration, nodes ...string) {
			t.Helper()
			used := c.Of(t.Context(), nodes)
			r, known := used.Node("one")
			if !known || r.CPU != 500_000_000 || r.Window != wantWindow || one != wantOne {
				t.Errorf("%s: %+v, %t after asking %d times; want half a core over %v after %d", what, r, known, one, wantWindow, wantOne)
			}
		}
		check("the first time it is asked twice", 2, first, "one")
		if took := time.Since(start); took != first {
			t.Errorf("the first answer took %v, want %v", took, first)
		}
		check("then it is remembered", 2, first, "one", "two")
		time.Sleep(15 * time.Second)
		check("later it is asked once, and compared with before", 3, 15*time.Second+first, "one")
		if two != 2 {
			t.Errorf("node two was asked %d times, want 2: only when somebody wants to know", two)
		}
		time.Sleep(10 * time.Minute)
		if c.mu.Lock(); len(c.nodes) != 0 || c.idle != nil {
			t.Errorf("after ten minutes of silence %d nodes are remembered, timer %v", len(c.nodes), c.idle)
		}
		c.mu.Unlock()
		check("after a long time it is asked twice again", 5, first, "one")
		time.Sleep(10 * time.Minute)
	})
}

func TestSilentNodesAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one := 0
		c := cluster{"one": &one}.collector()
		start := time.Now()
		used := c.Of(t.Context(), []string{"silent", "one", "dead"})
		if _, known := used.Node("one"); !known || len(used) != 1 {
			t.Errorf("Of() = %v, want node one", used)
		}
		if took := time.Since(start); took > patience {
			t.Errorf("it took %v, want %v at most", took, patience)
		}
		start = time.Now()
		if c.Of(t.Context(), []string{"silent"}); time.Since(start) > 0 {
			t.Error("a node that was silent just now was asked again")
		}
		gone, cancel := context.WithCancel(t.Context())
		time.Sleep(holdFailure)
		cancel()
		if used := c.Of(gone, []string{"silent"}); len(used) != 0 {
			t.Errorf("Of() = %v for a request that is over", used)
		}
		time.Sleep(10 * time.Minute)
	})
}

// agentAt connects to one server whatever the node.
type agentAt string

func (a agentAt) Connect(_ context.Context, name string) (*url.URL, http.RoundTripper, error) {
	if name == "unknown" {
		return nil, nil, errors.New("no such node")
	}
	base, err := url.Parse(string(a))
	return base, http.DefaultTransport, err
}

func TestAsk(t *testing.T) {
	status := http.StatusOK
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics/resource" {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text(1, now)))
	}))
	defer agent.Close()
	got, err := ask(t.Context(), agentAt(agent.URL), "one")
	if err != nil || len(got.counters) != 2 {
		t.Fatalf("ask() = %v, %v", got, err)
	}
	if _, err := ask(t.Context(), agentAt(agent.URL), "unknown"); err == nil {
		t.Error("an unknown node answered")
	}
	status = http.StatusForbidden
	if _, err := ask(t.Context(), agentAt(agent.URL), "one"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("ask() = %v, want what the node answered", err)
	}
}

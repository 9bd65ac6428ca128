// Package usage knows what nodes and containers use, measured when somebody asks.
//
// In:       the agents' /metrics/resource, asked side by side over the connections the API server has to them.
// Out:      Readings: the mean of CPU use over a window, memory, and when that was.
// Promise:  nothing is asked while nobody asks us; the window is the one measured, whatever clocks do; a node that does
//
//	not answer is left out within seconds and delays nobody else.
//
// Not here: the API objects (appliance/apiserver/virtual), what the agent counts (workloads/agent/nodeapi/stats).
package usage

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	// hold is how long a measurement answers questions: shorter than the 15 s at which autoscalers ask, so that each of
	// their passes sees a new one and windows are 15 s.
	hold = 10 * time.Second
	// holdFailure is shorter, for nodes that come back.
	holdFailure = 5 * time.Second
	// first is the window of a node nobody has asked about lately: two samples this far apart. On machines that count
	// CPU time in ticks of 10 ms it is exact to 1 %.
	first = time.Second
	// minWindow and maxWindow bound what a mean is worth.
	minWindow = 500 * time.Millisecond
	maxWindow = time.Minute
	// patience with one request to one agent, and with one measurement.
	patience        = 2 * time.Second
	patienceInTotal = 2*patience + first
	// forget is when samples go that nobody has asked for.
	forget = 2 * maxWindow
	// maxAnswer bounds what is read of an agent: a thousand containers are 1 MB.
	maxAnswer = 64 << 20
)

// Nodes connects to the agents.
type Nodes interface {
	Connect(ctx context.Context, node string) (*url.URL, http.RoundTripper, error)
}

// Collector measures.
type Collector struct {
	ask   func(ctx context.Context, node string) (*sample, error)
	clock clock.WithDelayedExecution

	mu    sync.Mutex
	nodes map[string]*node
	idle  clock.Timer // forgets, when nobody asks for a while
}

// node is what is known of one.
type node struct {
	last     *sample
	readings map[of]Reading
	until    time.Time     // readings answer until then
	running  chan struct{} // closed at the end of the measurement that runs, nil if none does
}

// New makes a collector that has asked nobody yet.
func New(nodes Nodes) *Collector {
	return &Collector{
		ask:   func(ctx context.Context, name string) (*sample, error) { return ask(ctx, nodes, name) },
		clock: clock.RealClock{},
		nodes: map[string]*node{},
	}
}

// Usage is what was measured, by node.
type Usage map[string]map[of]Reading

// Node is what a whole node uses.
func (u Usage) Node(name string) (Reading, bool) {
	r, known := u[name][of{}]
	return r, known
}

// Container is what a container on a node uses.
func (u Usage) Container(node, namespace, pod, container string) (Reading, bool) {
	r, known := u[node][of{namespace, pod, container}]
	return r, known
}

// Of measures the nodes that have not been lately, and waits for all of them. Nodes that did not answer are missing.
func (c *Collector) Of(ctx context.Context, names []string) Usage {
	running := make(map[string]<-chan struct{}, len(names))
	c.mu.Lock()
	c.touch()
	for _, name := range names {
		running[name] = c.start(ctx, name)
	}
	c.mu.Unlock()
	for _, ended := range running {
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Usage{}
	for name := range running {
		if n := c.nodes[name]; n != nil && n.readings != nil {
			out[name] = n.readings
		}
	}
	return out
}

// closed is the end of a measurement that need not be made.
var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// start begins a measurement unless one runs or the last still holds, and returns its end. It is called with mu held.
func (c *Collector) start(ctx context.Context, name string) <-chan struct{} {
	n := c.nodes[name]
	if n == nil {
		n = &node{}
		c.nodes[name] = n
	}
	if n.running == nil && c.clock.Now().Before(n.until) {
		return closed
	}
	if n.running == nil {
		n.running = make(chan struct{})
		// Others may wait for it as well: it does not end with the request that began it, but soon.
		go c.measure(context.WithoutCancel(ctx), name, n)
	}
	return n.running
}

// measure asks a node, twice if what is known of it is too old to compare with.
func (c *Collector) measure(ctx context.Context, name string, n *node) {
	ctx, cancel := context.WithTimeout(ctx, patienceInTotal)
	defer cancel()
	c.mu.Lock()
	before := n.last
	c.mu.Unlock()
	after, err := c.ask(ctx, name)
	if err == nil && !comparable(before, after) {
		select {
		case <-c.clock.After(first):
			before = after
			after, err = c.ask(ctx, name)
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		n.last, n.readings, n.until = nil, nil, c.clock.Now().Add(holdFailure)
	} else {
		n.last, n.readings, n.until = after, between(before, after), c.clock.Now().Add(hold)
	}
	close(n.running)
	n.running = nil
}

// comparable says whether two samples of a node tell how busy it is now.
func comparable(before, after *sample) bool {
	if before == nil {
		return false
	}
	_, known := between(before, after)[of{}]
	return known
}

// touch notes that somebody asks, and forgets what it knows when nobody has for a while. It is called with mu held.
func (c *Collector) touch() {
	if c.idle != nil {
		return
	}
	c.idle = c.clock.AfterFunc(forget, c.tidy)
}

// tidy drops nodes nobody has asked for lately; those that are gone with them.
func (c *Collector) tidy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock.Now()
	for name, n := range c.nodes {
		if n.running == nil && now.Sub(n.until) > maxWindow {
			delete(c.nodes, name)
		}
	}
	c.idle = nil
	if len(c.nodes) > 0 {
		c.idle = c.clock.AfterFunc(forget, c.tidy)
	}
}

// ask reads one agent's counters.
func ask(ctx context.Context, nodes Nodes, name string) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	base, transport, err := nodes.Connect(ctx, name)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("/metrics/resource").String(), nil)
	if err != nil {
		return nil, err
	}
	asked := time.Now()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("ask node %s for its metrics: %w", name, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask node %s for its metrics: it answered %s", name, response.Status)
	}
	return parse(io.LimitReader(response.Body, maxAnswer), asked)
}

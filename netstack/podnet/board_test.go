package podnet_test

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/test/lab/lab"
)

// board is what an API server is to nodes: everyone sees what each says of itself.
type board struct {
	t       *testing.T
	mu      sync.Mutex
	nodes   map[string]*node
	objects map[string]corev1.Node
	keys    map[string]string
}

func newBoard(t *testing.T) *board {
	return &board{t: t, nodes: map[string]*node{}, objects: map[string]corev1.Node{}, keys: map[string]string{}}
}

// node starts one that publishes here.
func (b *board) node(m *lab.Machine, said node, ips []netip.Addr, pods ...string) *node {
	b.t.Helper()
	said.heard = func(line string) {
		if _, quoted, found := strings.Cut(line, "msg=published "+overlay.KeyAnnotation+"="); found {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.keys[m.Name()] = strings.Trim(quoted, `"`)
			b.tell()
		}
	}
	n := newNodeSaid(b.t, m, said, ips, pods...)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes[n.Name()] = n
	return n
}

// show everybody a node as it is now.
func (b *board) show(n *node, podRanges ...string) {
	b.add(n.object(podRanges...))
}

// add a node, or what is new of one.
func (b *board) add(object corev1.Node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects[object.Name] = object
	b.tell()
}

// hide a node from everybody.
func (b *board) hide(n *node) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, n.Name())
	b.tell()
}

// tell everybody. Those that do not run miss it, and see it the next time.
func (b *board) tell() {
	var all []corev1.Node
	for _, name := range slices.Sorted(maps.Keys(b.objects)) {
		object := b.objects[name]
		if key := b.keys[name]; key != "" {
			object.Annotations = map[string]string{overlay.KeyAnnotation: key}
		}
		all = append(all, object)
	}
	for _, n := range b.nodes {
		_ = n.send(all)
	}
}

// loseRoutes removes every route by these machines, as somebody may who cleans up.
func loseRoutes(via []netip.Addr) error {
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump.Routes(family, &netlink.Route{}, 0)
		errs = append(errs, err)
		for _, route := range routes {
			if gw, ok := netip.AddrFromSlice(route.Gw); ok && slices.Contains(via, gw.Unmap()) {
				errs = append(errs, netlink.RouteDel(&route))
			}
		}
	}
	return errors.Join(errs...)
}

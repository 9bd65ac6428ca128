package garbagecollector

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// object says which object a node of the graph stands for.
type object struct {
	UID       types.UID
	Kind      schema.GroupVersionKind
	Namespace string
	Name      string
}

// String names an object in errors and logs.
func (o object) String() string {
	if o.Namespace == "" {
		return o.Kind.Kind + " " + o.Name
	}
	return o.Kind.Kind + " " + o.Namespace + "/" + o.Name
}

func gvkOf(ref metav1.OwnerReference) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
}

// node is an object that owns or is owned. Objects that do neither still have one: others may come to name them.
type node struct {
	object
	refs       []metav1.OwnerReference
	dependents map[types.UID]*node
	virtual    bool // named by a dependent, not seen itself
	deleting   bool
	foreground bool // waits for its dependents to go first
	orphans    bool // gives its dependents up before it goes
}

// work is what a change of the graph makes worth looking at.
type work struct {
	uid types.UID
	act act
}

type act int

const (
	check  act = iota // should it go?
	orphan            // its dependents are to be given up
	warn              // it names an owner in another namespace
)

// graph is who owns whom, as the watches show it. Watches of different kinds race each other, so it is a hint
// where to look; what is done is decided on what the API server says at that moment.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
	queue func(work)
}

func newGraph(queue func(work)) *graph {
	return &graph{nodes: map[types.UID]*node{}, queue: queue}
}

// set takes an object in, or its news.
func (g *graph) set(kind schema.GroupVersionKind, o metav1.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := object{UID: o.GetUID(), Kind: kind, Namespace: o.GetNamespace(), Name: o.GetName()}
	n := g.nodes[seen.UID]
	if n == nil {
		n = &node{object: seen}
		g.nodes[seen.UID] = n
	} else if n.virtual {
		n.virtual = false
		if n.object != seen {
			n.object = seen
			g.checkAll(n) // they named it wrongly; whether that counts is for the API server to say
		}
	}
	g.relate(n, slices.Clone(o.GetOwnerReferences()))

	wasForeground, wasOrphaning := n.foreground, n.orphans
	n.deleting = o.GetDeletionTimestamp() != nil
	n.foreground = n.deleting && slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents)
	n.orphans = n.deleting && slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents)
	if n.foreground && !wasForeground {
		g.checkAll(n)
		g.queue(work{n.UID, check})
	}
	if n.orphans && !wasOrphaning {
		g.queue(work{n.UID, orphan})
	}
}

// relate links n to the owners it names now, and unlinks it from those it no longer names.
func (g *graph) relate(n *node, refs []metav1.OwnerReference) {
	for _, ref := range n.refs {
		at := slices.IndexFunc(refs, func(r metav1.OwnerReference) bool { return r.UID == ref.UID })
		if at >= 0 && (ptr.Deref(refs[at].BlockOwnerDeletion, false) || !ptr.Deref(ref.BlockOwnerDeletion, false)) {
			continue
		}
		owner := g.nodes[ref.UID]
		if owner == nil {
			continue
		}
		if at < 0 {
			g.unlink(owner, n.UID)
		}
		if owner.foreground {
			g.queue(work{owner.UID, check}) // one less that holds it up
		}
	}
	for _, ref := range refs {
		owner := g.nodes[ref.UID]
		known := owner != nil && owner.dependents[n.UID] != nil
		if owner == nil {
			owner = &node{virtual: true, object: object{
				UID: ref.UID, Kind: gvkOf(ref), Namespace: n.Namespace, Name: ref.Name,
			}}
			g.nodes[ref.UID] = owner
			g.queue(work{ref.UID, check}) // it may never be seen
		}
		if known {
			continue
		}
		if owner.dependents == nil {
			owner.dependents = map[types.UID]*node{}
		}
		owner.dependents[n.UID] = n
		if !owner.virtual && owner.Namespace != "" && owner.Namespace != n.Namespace {
			g.queue(work{n.UID, warn})
			g.queue(work{n.UID, check})
		}
		if owner.foreground {
			g.queue(work{n.UID, check})
		}
	}
	n.refs = refs
}

// remove drops an object that is gone; its dependents are worth a look, and so is an owner that waited for it.
func (g *graph) remove(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return
	}
	delete(g.nodes, uid)
	for _, ref := range n.refs {
		if owner := g.nodes[ref.UID]; owner != nil {
			g.unlink(owner, uid)
			if owner.foreground {
				g.queue(work{owner.UID, check})
			}
		}
	}
	g.checkAll(n)
}

// removeKind drops all objects of a kind that is no longer served, or that a new list does not hold.
func (g *graph) removeKind(kind schema.GroupVersionKind, except map[types.UID]bool) {
	g.mu.Lock()
	var stale []types.UID
	for uid, n := range g.nodes {
		if n.Kind == kind && !n.virtual && !except[uid] {
			stale = append(stale, uid)
		}
	}
	g.mu.Unlock()
	for _, uid := range stale {
		g.remove(uid)
	}
}

// view is a copy of a node, for deciding without holding the graph up.
type view struct {
	node
	blocking []types.UID // dependents that hold its deletion up and are not going yet
	blocked  bool        // any dependent holds its deletion up
	waiting  bool        // a dependent itself waits for its own
	children []object
}

func (g *graph) view(uid types.UID) (view, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return view{}, false
	}
	v := view{node: *n}
	v.dependents = nil
	for _, d := range n.dependents {
		v.children = append(v.children, d.object)
		if d.foreground {
			v.waiting = true
		}
		for _, ref := range d.refs {
			if ref.UID == uid && ptr.Deref(ref.BlockOwnerDeletion, false) {
				v.blocked = true
				if !d.deleting {
					v.blocking = append(v.blocking, d.UID)
				}
			}
		}
	}
	return v, true
}

func (g *graph) checkAll(n *node) {
	for uid := range n.dependents {
		g.queue(work{uid, check})
	}
}

func (g *graph) unlink(owner *node, dependent types.UID) {
	delete(owner.dependents, dependent)
	if owner.virtual && len(owner.dependents) == 0 {
		delete(g.nodes, owner.UID) // nobody names it any more
	}
}

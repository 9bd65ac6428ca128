// Package expectations lets a controller remember its own writes until the cache shows them.
//
// In:       what a controller is about to create or delete, and what the cache has seen since.
// Out:      whether the cache is recent enough to count an owner's children.
// Promise:  a controller that asks Met before it counts never creates or deletes twice for one want.
// Not here: the writes (workloads/podcontrol).
package expectations

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

const (
	// doubtful is how long the cache may take to show a creation before the server is asked whether the child is still
	// there: a watch that starts over never shows one that was created and deleted meanwhile.
	doubtful = 10 * time.Second
	// patience is how long one missing deletion may hold an owner up. A watch that starts over shows what is gone, so
	// this is a net that nothing should ever fall into, and long on purpose.
	patience = 5 * time.Minute
)

// Expectations are the writes of one controller, by owner. Children are known by name: a name is chosen before
// the write, so an event that overtakes the write's own answer still finds what it settles.
type Expectations struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	created map[types.UID]map[string]time.Time // since when, or since the server last said that the child is there
	deleted map[types.UID]map[string]time.Time
}

// New returns an empty set.
func New(c clock.PassiveClock) *Expectations {
	return &Expectations{
		clock:   c,
		created: map[types.UID]map[string]time.Time{},
		deleted: map[types.UID]map[string]time.Time{},
	}
}

// Creating notes that owner's child is about to be created.
func (e *Expectations) Creating(owner types.UID, child string) { e.note(e.created, owner, child) }

// Deleting notes that owner's child is about to be deleted.
func (e *Expectations) Deleting(owner types.UID, child string) { e.note(e.deleted, owner, child) }

// Created settles a creation: the cache shows the child, it is gone again, or the write failed.
func (e *Expectations) Created(owner types.UID, child string) { e.settle(e.created, owner, child) }

// Doubt notes that nobody answered a creation: it stays expected, but the server should be asked.
func (e *Expectations) Doubt(owner types.UID, child string) { e.date(owner, child, time.Time{}) }

// Made settles a doubt: the child is there, and the cache will show it.
func (e *Expectations) Made(owner types.UID, child string) { e.date(owner, child, e.clock.Now()) }

// Doubted are the children of owner that the server should be asked about.
func (e *Expectations) Doubted(owner types.UID) (children []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for child, since := range e.created[owner] {
		if e.clock.Since(since) >= doubtful {
			children = append(children, child)
		}
	}
	return children
}

// Deleted settles a deletion: the cache shows the child going or gone, or the write failed.
func (e *Expectations) Deleted(owner types.UID, child string) { e.settle(e.deleted, owner, child) }

// Gone settles everything about a child that left the cache.
func (e *Expectations) Gone(owner types.UID, child string) {
	e.Created(owner, child)
	e.settle(e.deleted, owner, child)
}

// Forget drops an owner that is no more.
func (e *Expectations) Forget(owner types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.created, owner)
	delete(e.deleted, owner)
}

// Met says whether the cache has shown all of owner's writes; again is when to ask once more if it has not.
func (e *Expectations) Met(owner types.UID) (met bool, again time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	wait := func(left time.Duration) {
		if again == 0 || left < again {
			again = left
		}
	}
	for _, since := range e.created[owner] {
		wait(max(doubtful-e.clock.Since(since), time.Second)) // a second, when the server has not answered yet
	}
	for child, since := range e.deleted[owner] {
		if left := patience - e.clock.Since(since); left > 0 {
			wait(left)
		} else {
			delete(e.deleted[owner], child)
		}
	}
	return again == 0, again
}

// date sets the moment of a creation, if the cache has not shown it already.
func (e *Expectations) date(owner types.UID, child string, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, expected := e.created[owner][child]; expected {
		e.created[owner][child] = at
	}
}

func (e *Expectations) note(kind map[types.UID]map[string]time.Time, owner types.UID, child string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if kind[owner] == nil {
		kind[owner] = map[string]time.Time{}
	}
	kind[owner][child] = e.clock.Now()
}

func (e *Expectations) settle(kind map[types.UID]map[string]time.Time, owner types.UID, child string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(kind[owner], child)
	if len(kind[owner]) == 0 {
		delete(kind, owner)
	}
}

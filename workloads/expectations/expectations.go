// Package expectations lets a controller remember its own writes until the cache shows them.
//
// In:       what a controller is about to create or delete, and what the cache has seen since.
// Out:      whether the cache is recent enough to count an owner's children.
// Promise:  a controller that asks Met before it counts never creates or deletes twice for one want.
// Not here: the writes (workloads/podcontrol).
package expectations

import (
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
)

// patience is how long one missing observation may hold an owner up. Events are only lost when a watch restarts
// between a child's creation and its deletion, so this is a net for the rare case and long on purpose.
const patience = 5 * time.Minute

// Expectations are the writes of one controller, by owner. Children are known by name: a name is chosen before
// the write, so an event that overtakes the write's own answer still finds what it settles.
type Expectations struct {
	clock clock.PassiveClock

	mu      sync.Mutex
	created map[types.UID]map[string]time.Time
	deleted map[types.UID]map[string]time.Time
	doubted map[types.UID]map[string]time.Time // of the created
}

// New returns an empty set.
func New(c clock.PassiveClock) *Expectations {
	return &Expectations{
		clock:   c,
		created: map[types.UID]map[string]time.Time{},
		deleted: map[types.UID]map[string]time.Time{},
		doubted: map[types.UID]map[string]time.Time{},
	}
}

// Creating notes that owner's child is about to be created.
func (e *Expectations) Creating(owner types.UID, child string) { e.note(e.created, owner, child) }

// Deleting notes that owner's child is about to be deleted.
func (e *Expectations) Deleting(owner types.UID, child string) { e.note(e.deleted, owner, child) }

// Created settles a creation: the cache shows the child, or the write failed.
func (e *Expectations) Created(owner types.UID, child string) {
	e.settle(e.created, owner, child)
	e.settle(e.doubted, owner, child)
}

// Doubt notes that nobody answered a creation: it stays expected, but the server should be asked.
func (e *Expectations) Doubt(owner types.UID, child string) { e.note(e.doubted, owner, child) }

// Made settles a doubt: the child was created, and the cache will show it.
func (e *Expectations) Made(owner types.UID, child string) { e.settle(e.doubted, owner, child) }

// Doubted are the children of owner nobody knows to be created or not. Those the cache shows meanwhile are not.
func (e *Expectations) Doubted(owner types.UID) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Collect(maps.Keys(e.doubted[owner]))
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
	delete(e.doubted, owner)
}

// Met says whether the cache has shown all of owner's writes; again is when to ask once more if it has not.
func (e *Expectations) Met(owner types.UID) (met bool, again time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock.Now()
	for _, kind := range []map[types.UID]map[string]time.Time{e.created, e.deleted} {
		for child, since := range kind[owner] {
			if left := patience - now.Sub(since); left > 0 {
				again = max(again, left)
				continue
			}
			delete(kind[owner], child)
		}
	}
	return again == 0, again
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

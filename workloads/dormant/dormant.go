// Package dormant keeps controllers asleep until there is something for them to do.
//
// In:       the metadata of every object, from the garbage collector's watches.
// Out:      each controller started once, when the first object that concerns it is seen.
// Promise:  a controller nobody needs has no cache, no watch and no goroutine.
// Not here: what controllers do.
package dormant

import (
	"log/slog"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ward is the controllers that sleep.
type Ward struct {
	log *slog.Logger

	mu   sync.Mutex
	beds map[schema.GroupResource][]*Sleeper
}

// Sleeper is one of them.
type Sleeper struct {
	Name      string
	Resources []schema.GroupResource          // whose objects wake it
	Concerns  func(object metav1.Object) bool // nil: any of them. Kinds of the shared cache come whole, others without spec
	Start     func() error                    // may take its time

	awake bool
}

// New returns a ward with nobody in it.
func New(log *slog.Logger) *Ward {
	return &Ward{log: log, beds: map[schema.GroupResource][]*Sleeper{}}
}

// Add puts one to sleep. It is not called after the first Seen.
func (w *Ward) Add(s *Sleeper) {
	for _, resource := range s.Resources {
		w.beds[resource] = append(w.beds[resource], s)
	}
}

// Seen wakes whoever the object concerns. It returns at once.
func (w *Ward) Seen(resource schema.GroupResource, object metav1.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sleepers := w.beds[resource]
	if len(sleepers) == 0 {
		return
	}
	var left []*Sleeper
	for _, s := range sleepers {
		switch {
		case s.awake:
		case s.Concerns != nil && !s.Concerns(object):
			left = append(left, s)
		default:
			s.awake = true
			go w.wake(s)
		}
	}
	w.beds[resource] = left
}

// wake starts a controller. One that cannot be is as wrong as at the start of the machine, and needs a person.
func (w *Ward) wake(s *Sleeper) {
	if err := s.Start(); err != nil {
		w.log.Error("controller cannot start; restart knarr to try again", "controller", s.Name, "err", err)
		return
	}
	w.log.Debug("controller started", "controller", s.Name)
}

package garbagecollector

import (
	"errors"
	"slices"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// errUnknownKind means that no server serves a kind, or none did when last asked. Nothing is decided on that.
var errUnknownKind = errors.New("no server is known to serve this kind")

// served is which kinds there are, as discovery last told. A reference may name any version of a kind; objects are
// the same in all of them.
type served struct {
	mu    sync.RWMutex
	kinds map[schema.GroupKind]resource
}

// resource is where a kind's objects are found.
type resource struct {
	schema.GroupVersionResource
	kind       string
	namespaced bool
	watchable  bool
}

// find looks a kind up.
func (s *served) find(kind schema.GroupKind) (resource, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, known := s.kinds[kind]
	if !known {
		return resource{}, errUnknownKind
	}
	return r, nil
}

// learn takes in what discovery tells. Half an answer adds, a whole one replaces.
func (s *served) learn(lists []*metav1.APIResourceList, whole bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if whole || s.kinds == nil {
		s.kinds = map[schema.GroupKind]resource{}
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			s.kinds[schema.GroupKind{Group: gv.Group, Kind: r.Kind}] = resource{
				GroupVersionResource: gv.WithResource(r.Name), kind: r.Kind, namespaced: r.Namespaced,
				// Events expire, own nothing and are many.
				watchable: r.Kind != "Event" && holds(r.Verbs, "list") && holds(r.Verbs, "watch") && holds(r.Verbs, "delete"),
			}
		}
	}
}

// watchable are the kinds worth watching.
func (s *served) watchable() map[schema.GroupVersionKind]schema.GroupVersionResource {
	s.mu.RLock()
	defer s.mu.RUnlock()
	found := map[schema.GroupVersionKind]schema.GroupVersionResource{}
	for _, r := range s.kinds {
		if r.watchable {
			found[r.GroupVersion().WithKind(r.kind)] = r.GroupVersionResource
		}
	}
	return found
}

func holds(verbs metav1.Verbs, verb string) bool { return slices.Contains(verbs, verb) }

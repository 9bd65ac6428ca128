// Package endpoints joins Services with their EndpointSlices, once, for everyone on this node who needs both.
//
// In:       the two informers of the shared cache.
// Out:      a Service with its slices by name, owners of an address, and a call for every Service that changed.
// Promise:  lookups never walk the whole set; what they return is the cache's own and is never modified.
// Not here: rules in the kernel (netstack/proxy), names (netstack/dns), the controller that writes slices (workloads).
package endpoints

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Entry is one Service and what stands behind it. Either half may be missing: they arrive on two watches.
type Entry struct {
	Service *corev1.Service
	Slices  []*discoveryv1.EndpointSlice // by name; replaced, never changed in place
}

// View is the join. Lookups may come from any goroutine.
type View struct {
	informers cache.Informers
	synced    chan struct{}

	mu          sync.RWMutex
	entries     map[types.NamespacedName]Entry
	owners      map[netip.Addr][]types.NamespacedName
	perSpace    map[string]int // Services in a namespace
	subscribers map[int]func(types.NamespacedName)
	next        int
}

// New is a view over a cache that the caller starts.
func New(informers cache.Informers) *View {
	return &View{
		informers:   informers,
		synced:      make(chan struct{}),
		entries:     map[types.NamespacedName]Entry{},
		owners:      map[netip.Addr][]types.NamespacedName{},
		perSpace:    map[string]int{},
		subscribers: map[int]func(types.NamespacedName){},
	}
}

// Name of the component.
func (v *View) Name() string { return "endpoints" }

// Run follows the cache until ctx ends. It is ready when both kinds are complete.
func (v *View) Run(ctx context.Context, ready func()) error {
	var waits []<-chan struct{}
	for _, follow := range []struct {
		kind    client.Object
		handler toolscache.ResourceEventHandler
	}{
		{&corev1.Service{}, handler(v.setService, v.dropService)},
		{&discoveryv1.EndpointSlice{}, handler(v.setSlice, v.dropSlice)},
	} {
		// Not blocking here lets both lists be fetched side by side.
		informer, err := v.informers.GetInformer(ctx, follow.kind, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %T: %w", follow.kind, err)
		}
		registration, err := informer.AddEventHandler(follow.handler)
		if err != nil {
			return fmt.Errorf("follow %T: %w", follow.kind, err)
		}
		defer func() { _ = informer.RemoveEventHandler(registration) }()
		waits = append(waits, registration.HasSyncedChecker().Done())
	}
	for _, wait := range waits {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil
		}
	}
	close(v.synced)
	ready()
	<-ctx.Done()
	return nil
}

// Synced is closed once the view holds everything that existed at its start.
func (v *View) Synced() <-chan struct{} { return v.synced }

// Get returns one Service and its slices.
func (v *View) Get(key types.NamespacedName) Entry {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.entries[key]
}

// Owners returns the Services that have addr as a cluster address or behind them, in a stable order.
func (v *View) Owners(addr netip.Addr) []types.NamespacedName {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.owners[addr]
}

// HasServices tells whether a namespace holds any Service.
func (v *View) HasServices(namespace string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.perSpace[namespace] > 0
}

// Subscribe calls changed for every Service that exists and, from then on, for every one that changes, comes or goes.
// changed must return at once and may be called from several goroutines. The returned function ends it.
func (v *View) Subscribe(changed func(types.NamespacedName)) (cancel func()) {
	v.mu.Lock()
	id := v.next
	v.next++
	v.subscribers[id] = changed
	keys := make([]types.NamespacedName, 0, len(v.entries))
	for key := range v.entries {
		keys = append(keys, key)
	}
	v.mu.Unlock()
	for _, key := range keys {
		changed(key)
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.subscribers, id)
	}
}

func (v *View) setService(service *corev1.Service) {
	v.change(client.ObjectKeyFromObject(service), func(e *Entry) { e.Service = service })
}

func (v *View) dropService(service *corev1.Service) {
	v.change(client.ObjectKeyFromObject(service), func(e *Entry) { e.Service = nil })
}

func (v *View) setSlice(slice *discoveryv1.EndpointSlice) {
	v.change(serviceOf(slice), func(e *Entry) {
		at, found := find(e.Slices, slice.Name)
		e.Slices = slices.Clone(e.Slices)
		if found {
			e.Slices[at] = slice
			return
		}
		e.Slices = slices.Insert(e.Slices, at, slice)
	})
}

func (v *View) dropSlice(slice *discoveryv1.EndpointSlice) {
	v.change(serviceOf(slice), func(e *Entry) {
		if at, found := find(e.Slices, slice.Name); found {
			e.Slices = slices.Delete(slices.Clone(e.Slices), at, at+1)
		}
	})
}

// change applies one event to one entry, keeps the indexes in step and tells the subscribers.
func (v *View) change(key types.NamespacedName, apply func(*Entry)) {
	if key.Name == "" {
		return // a slice that belongs to no Service
	}
	v.mu.Lock()
	before := v.entries[key]
	after := before
	apply(&after)
	if after.Service == nil && len(after.Slices) == 0 {
		delete(v.entries, key)
	} else {
		v.entries[key] = after
	}
	v.reindex(key, addresses(before), addresses(after))
	v.perSpace[key.Namespace] += count(after.Service) - count(before.Service)
	if v.perSpace[key.Namespace] == 0 {
		delete(v.perSpace, key.Namespace)
	}
	tell := make([]func(types.NamespacedName), 0, len(v.subscribers))
	for _, changed := range v.subscribers {
		tell = append(tell, changed)
	}
	v.mu.Unlock()
	for _, changed := range tell {
		changed(key)
	}
}

func (v *View) reindex(key types.NamespacedName, before, after map[netip.Addr]bool) {
	for addr := range before {
		if after[addr] {
			continue
		}
		// Lists are replaced rather than edited: a lookup may still be reading the old one.
		rest := slices.DeleteFunc(slices.Clone(v.owners[addr]), func(k types.NamespacedName) bool { return k == key })
		if len(rest) == 0 {
			delete(v.owners, addr)
			continue
		}
		v.owners[addr] = rest
	}
	for addr := range after {
		if before[addr] {
			continue
		}
		list := append(slices.Clone(v.owners[addr]), key)
		slices.SortFunc(list, func(a, b types.NamespacedName) int { return strings.Compare(a.String(), b.String()) })
		v.owners[addr] = list
	}
}

// addresses an entry answers for: its cluster addresses and its endpoints.
func addresses(e Entry) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	add := func(text string) {
		if addr, err := netip.ParseAddr(text); err == nil {
			all[addr] = true
		}
	}
	if e.Service != nil {
		for _, ip := range e.Service.Spec.ClusterIPs {
			add(ip)
		}
	}
	for _, slice := range e.Slices {
		for i := range slice.Endpoints {
			for _, ip := range slice.Endpoints[i].Addresses {
				add(ip)
			}
		}
	}
	return all
}

func serviceOf(slice *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: slice.Namespace, Name: slice.Labels[discoveryv1.LabelServiceName]}
}

func find(list []*discoveryv1.EndpointSlice, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(s *discoveryv1.EndpointSlice, name string) int {
		return strings.Compare(s.Name, name)
	})
}

func count(service *corev1.Service) int {
	if service == nil {
		return 0
	}
	return 1
}

// handler turns the cache's untyped events into set and drop. A slice that changes its Service is dropped from the old one.
func handler[T client.Object](set, drop func(T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { set(obj.(T)) },
		UpdateFunc: func(before, after any) {
			old, now := before.(T), after.(T)
			if old.GetLabels()[discoveryv1.LabelServiceName] != now.GetLabels()[discoveryv1.LabelServiceName] {
				drop(old)
			}
			set(now)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if last, ok := obj.(T); ok {
				drop(last)
			}
		},
	}
}

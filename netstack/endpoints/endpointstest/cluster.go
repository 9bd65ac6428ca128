// Package endpointstest is an API server small enough for tests of the service network.
//
// In:       Services, EndpointSlices and nodes a test puts, changes and deletes.
// Out:      a running endpoints.View over controller-runtime's real cache, fed by watches as in a cluster.
// Promise:  everything ends with the test.
// Not here: validation, defaults, the EndpointSlice controller.
package endpointstest

import (
	"context"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/netstack/endpoints"
)

// Cluster holds the objects.
type Cluster struct {
	services, slices, nodes *source
	exists                  map[client.ObjectKey]bool
	cache                   cache.Cache
}

// source says about itself that it cannot stream its first list, which the fake does not tell.
type source struct{ *fcache.FakeControllerSource }

func (source) IsWatchListSemanticsUnSupported() bool { return true }

func (s source) List(options metav1.ListOptions) (runtime.Object, error) {
	return s.FakeControllerSource.List(options)
}

func (s source) Watch(options metav1.ListOptions) (watch.Interface, error) {
	return s.FakeControllerSource.Watch(options)
}

// New is a cluster that holds objects, and a view of it that is not running yet.
func New(t testing.TB, objects ...client.Object) (*Cluster, *endpoints.View) {
	t.Helper()
	c := &Cluster{
		services: &source{fcache.NewFakeControllerSource()},
		slices:   &source{fcache.NewFakeControllerSource()},
		nodes:    &source{fcache.NewFakeControllerSource()},
		exists:   map[client.ObjectKey]bool{},
	}
	c.Put(objects...)

	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Service"), meta.RESTScopeNamespace)
	mapper.Add(discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), meta.RESTScopeNamespace)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	shared, err := cache.New(&rest.Config{}, cache.Options{
		HTTPClient: &http.Client{},
		Scheme:     clientgoscheme.Scheme,
		Mapper:     mapper,
		NewInformer: func(_ toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers) toolscache.SharedIndexInformer {
			from := c.services
			switch object.(type) {
			case *discoveryv1.EndpointSlice:
				from = c.slices
			case *corev1.Node:
				from = c.nodes
			}
			return toolscache.NewSharedIndexInformer(from, object, resync, indexers)
		},
	})
	if err != nil {
		t.Fatalf("make a cache: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = shared.Start(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	c.cache = shared
	return c, endpoints.New(shared)
}

// Cache is what the view is over.
func (c *Cluster) Cache() cache.Cache { return c.cache }

// Running is New with the view running and complete.
func Running(t testing.TB, objects ...client.Object) (*Cluster, *endpoints.View) {
	t.Helper()
	c, view := New(t, objects...)
	Run(t, view)
	return c, view
}

// Component is what appliance/machine runs.
type Component interface {
	Name() string
	Run(ctx context.Context, ready func()) error
}

// Run starts a component, waits until it is ready and stops it at the end of the test, or by the returned function.
func Run(t testing.TB, component Component) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- component.Run(ctx, func() { close(ready) }) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-ended; err != nil {
			t.Errorf("%s ended with %v", component.Name(), err)
		}
	}
	t.Cleanup(stop)
	select {
	case <-ready:
	case err := <-ended:
		stopped = true
		t.Fatalf("%s ended before it was ready: %v", component.Name(), err)
	case <-time.After(20 * time.Second):
		t.Fatalf("%s is not ready after 20 s", component.Name())
	}
	return stop
}

// Put creates or changes objects.
func (c *Cluster) Put(objects ...client.Object) {
	for _, o := range objects {
		o = o.DeepCopyObject().(client.Object)
		if o.GetUID() == "" {
			o.SetUID(types.UID(o.GetNamespace() + "/" + o.GetName()))
		}
		from, key := c.of(o)
		if c.exists[key] {
			from.Modify(o)
		} else {
			from.Add(o)
		}
		c.exists[key] = true
	}
}

// Delete removes objects.
func (c *Cluster) Delete(objects ...client.Object) {
	for _, o := range objects {
		o = o.DeepCopyObject().(client.Object)
		if o.GetUID() == "" {
			o.SetUID(types.UID(o.GetNamespace() + "/" + o.GetName()))
		}
		from, key := c.of(o)
		from.FakeControllerSource.Delete(o)
		delete(c.exists, key)
	}
}

func (c *Cluster) of(o client.Object) (*source, client.ObjectKey) {
	key := client.ObjectKeyFromObject(o)
	switch o.(type) {
	case *discoveryv1.EndpointSlice:
		key.Name = "slice/" + key.Name
		return c.slices, key
	case *corev1.Node:
		key.Name = "node/" + key.Name
		return c.nodes, key
	}
	return c.services, key
}

package garbagecollector

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/workloads/events"
)

const (
	// patience is how long the first look at all kinds may take. A kind whose server is down must not keep the
	// others' garbage.
	patience = 30 * time.Second
	// settle gathers the changes an installer makes to several kinds at once.
	settle = time.Second
)

// shared are the kinds the shared cache holds anyhow; for all others the graph has watches of its own, which keep
// nothing but the graph.
var shared = map[schema.GroupVersionKind]client.Object{
	corev1.SchemeGroupVersion.WithKind("Pod"):                   &corev1.Pod{},
	corev1.SchemeGroupVersion.WithKind("Service"):               &corev1.Service{},
	corev1.SchemeGroupVersion.WithKind("Node"):                  &corev1.Node{},
	corev1.SchemeGroupVersion.WithKind("Namespace"):             &corev1.Namespace{},
	corev1.SchemeGroupVersion.WithKind("ServiceAccount"):        &corev1.ServiceAccount{},
	appsv1.SchemeGroupVersion.WithKind("ReplicaSet"):            &appsv1.ReplicaSet{},
	appsv1.SchemeGroupVersion.WithKind("Deployment"):            &appsv1.Deployment{},
	appsv1.SchemeGroupVersion.WithKind("StatefulSet"):           &appsv1.StatefulSet{},
	appsv1.SchemeGroupVersion.WithKind("DaemonSet"):             &appsv1.DaemonSet{},
	corev1.SchemeGroupVersion.WithKind("ReplicationController"): &corev1.ReplicationController{},
	corev1.SchemeGroupVersion.WithKind("ResourceQuota"):         &corev1.ResourceQuota{},
	batchv1.SchemeGroupVersion.WithKind("Job"):                  &batchv1.Job{},
	batchv1.SchemeGroupVersion.WithKind("CronJob"):              &batchv1.CronJob{},
	policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"): &policyv1.PodDisruptionBudget{},
	discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"):    &discoveryv1.EndpointSlice{},
}

// kinds is what discovery knows.
type kinds interface {
	ServerPreferredResources() ([]*metav1.APIResourceList, error)
}

// informers is the part of the shared cache the watcher listens to.
type informers interface {
	GetInformer(ctx context.Context, object client.Object, options ...cache.InformerGetOption) (cache.Informer, error)
}

// watcher feeds a Collector with every kind there is.
type watcher struct {
	*Collector
	kinds   kinds
	shared  informers
	begin   <-chan struct{}
	changed chan struct{} // the kinds there are may have changed
	others  Listener
	watches map[schema.GroupVersionKind]*kindWatch
	running sync.WaitGroup
}

// kindWatch is the watch of one kind.
type kindWatch struct {
	stop   func()
	synced <-chan struct{}
}

// Listener is told of every object of any kind: nobody else needs to watch them all. Its functions must return at once,
// and keep nothing of what they are shown.
type Listener struct {
	Seen func(resource schema.GroupResource, object metav1.Object) // when it comes, and when it changes
	Gone func(resource schema.GroupResource, namespace string)
}

// Register adds the collector to a manager. It waits for begin before it looks at anything: garbage can wait for
// a machine to get ready.
func Register(mgr manager.Manager, begin <-chan struct{}, log *slog.Logger, others Listener) error {
	objects, err := metadata.NewForConfigAndClient(metadata.ConfigFor(mgr.GetConfig()), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a metadata client: %w", err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a discovery client: %w", err)
	}
	w := &watcher{
		Collector: New(objects, events.Recorder(mgr, "garbage-collector-controller"), log),
		kinds:     kinds, shared: mgr.GetCache(), begin: begin,
		changed: make(chan struct{}, 1), others: others, watches: map[schema.GroupVersionKind]*kindWatch{},
	}
	if err := mgr.Add(w); err != nil {
		return fmt.Errorf("register the garbage collector: %w", err)
	}
	return nil
}

// Start watches and collects until ctx ends. It implements the manager's Runnable.
func (w *watcher) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-w.begin:
	}
	defer w.running.Wait()
	w.follow(ctx)
	w.awaitSync(ctx)
	w.running.Go(func() { w.run(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.changed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle):
		}
		w.follow(ctx)
	}
}

// follow brings the watches in line with the kinds there are.
func (w *watcher) follow(ctx context.Context) {
	lists, err := w.kinds.ServerPreferredResources()
	if err != nil {
		w.log.Warn("some kinds cannot be discovered; their garbage stays until they can", "err", err)
		time.AfterFunc(patience, w.noteChange)
	}
	w.served.learn(lists, err == nil)
	found := w.served.watchable()
	for kind, resource := range found {
		if w.watches[kind] != nil {
			continue
		}
		watch, err := w.watch(ctx, kind, resource)
		if err != nil {
			w.log.Warn("kind not watched", "kind", kind.String(), "err", err)
			continue
		}
		w.watches[kind] = watch
	}
	if err != nil {
		return // what is missing from half an answer may well be there
	}
	for kind, watch := range w.watches {
		if _, there := found[kind]; !there {
			watch.stop()
			delete(w.watches, kind)
			w.graph.removeKind(kind, nil)
		}
	}
}

func (w *watcher) awaitSync(ctx context.Context) {
	late := time.NewTimer(patience)
	defer late.Stop()
	for kind, watch := range w.watches {
		select {
		case <-watch.synced:
		case <-ctx.Done():
			return
		case <-late.C:
			w.log.Warn("kind not listed in time; collecting without it", "kind", kind.String())
			return
		}
	}
}

func (w *watcher) watch(ctx context.Context, kind schema.GroupVersionKind, resource schema.GroupVersionResource) (*kindWatch, error) {
	if object, ok := shared[kind]; ok {
		return w.watchShared(ctx, kind, resource, object)
	}
	ctx, cancel := context.WithCancel(ctx)
	objects := w.objects.Resource(resource)
	store := &store{watcher: w, kind: kind, resource: resource.GroupResource(), synced: make(chan struct{})}
	if resource.Resource == "customresourcedefinitions" || resource.Resource == "apiservices" {
		store.changed = w.noteChange
	}
	reflector := toolscache.NewReflectorWithOptions(&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return objects.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return objects.Watch(ctx, o)
		},
	}, &metav1.PartialObjectMetadata{}, store, toolscache.ReflectorOptions{Name: "garbagecollector", TypeDescription: kind.String()})
	w.running.Go(func() { reflector.RunWithContext(ctx) })
	return &kindWatch{stop: cancel, synced: store.synced}, nil
}

func (w *watcher) watchShared(ctx context.Context, kind schema.GroupVersionKind, resource schema.GroupVersionResource, object client.Object) (*kindWatch, error) {
	informer, err := w.shared.GetInformer(ctx, object)
	if err != nil {
		return nil, err
	}
	set := func(o any) { w.set(kind, resource.GroupResource(), o.(metav1.Object)) }
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, o any) { set(o) },
		DeleteFunc: func(o any) {
			if last, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			w.graph.remove(o.(metav1.Object).GetUID())
			w.others.Gone(resource.GroupResource(), o.(metav1.Object).GetNamespace())
		},
	})
	if err != nil {
		return nil, err
	}
	stop := func() { _ = informer.RemoveEventHandler(registration) } // the informer may be gone first
	return &kindWatch{stop: stop, synced: registration.HasSyncedChecker().Done()}, nil
}

func (w *watcher) set(kind schema.GroupVersionKind, resource schema.GroupResource, o metav1.Object) {
	w.graph.set(kind, o)
	w.others.Seen(resource, o)
}

func (w *watcher) noteChange() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// store is what a reflector fills: the graph, and nothing else.
type store struct {
	*watcher
	kind     schema.GroupVersionKind
	resource schema.GroupResource
	changed  func()
	once     sync.Once
	synced   chan struct{}
}

// Add implements toolscache.ReflectorStore.
func (s *store) Add(o any) error {
	s.set(s.kind, s.resource, o.(metav1.Object))
	s.tell()
	return nil
}

// Update implements toolscache.ReflectorStore.
func (s *store) Update(o any) error { return s.Add(o) }

// Delete implements toolscache.ReflectorStore.
func (s *store) Delete(o any) error {
	s.graph.remove(o.(metav1.Object).GetUID())
	s.others.Gone(s.resource, o.(metav1.Object).GetNamespace())
	s.tell()
	return nil
}

// Replace implements toolscache.ReflectorStore.
func (s *store) Replace(list []any, _ string) error {
	there := make(map[types.UID]bool, len(list))
	for _, o := range list {
		there[o.(metav1.Object).GetUID()] = true
		s.set(s.kind, s.resource, o.(metav1.Object))
	}
	s.graph.removeKind(s.kind, there)
	s.once.Do(func() { close(s.synced) })
	s.tell()
	return nil
}

// Resync implements toolscache.ReflectorStore; there is nothing to repeat.
func (s *store) Resync() error { return nil }

func (s *store) tell() {
	if s.changed != nil {
		s.changed()
	}
}

package pod

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	goruntime "runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/credentials"
	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/pulled"
	"knarr.dev/knarr/workloads/agent/runtime"
	"knarr.dev/knarr/workloads/agent/translate"
	"knarr.dev/knarr/workloads/agent/userns"
)

// Objects answers what pods refer to: for their environments, image pulls and sandboxes.
type Objects interface {
	Services(ctx context.Context, namespace string) ([]corev1.Service, error) // of the namespace, and default/kubernetes
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error)
}

// Config of the manager.
type Config struct {
	Node      translate.Node
	Dir       string // the agent's own folder; pods/<uid> and desired/ lie in it
	Runtime   *runtime.Runtime
	Cgroups   *cgroup.Tree
	Volumes   Volumes
	Prober    Prober
	Providers *credentials.Providers // of logins for images; nil: none
	Equipment []Equipment            // what gives containers devices
	Places    Places                 // nil: containers run on all CPUs
	Pulls     int                    // images at a time; 0: parallelPulls
	LogSize   int64                  // of a container's log, before another is begun; 0: the usual
	LogFiles  int                    // logs kept of one run, the one being written included; 0: the usual
	MaxDelay  time.Duration          // before a container that keeps ending is restarted; 0: the usual
	Objects   Objects
	Client    corev1client.PodsGetter
	Cache     Source
	Static    Static                     // nil: no static pods
	Pods      cgroup.Whole               // what all pods together may have
	Able      Able                       // what pods may ask of this machine
	Stopping  func() bool                // the machine is going down; nil: never
	Pressure  func() pressure.Conditions // what the node is short of; nil: nothing
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock // the time of day; a step of the machine's clock alone ends and starts nothing
	Log       *slog.Logger
}

// Manager has one actor for each pod of this node.
type Manager struct {
	conf   Config
	log    *slog.Logger
	store  store
	writer *writer
	users  *userns.Ranges
	slots  *semaphore.Weighted // sandboxes and containers being made
	pulls  *semaphore.Weighted
	pulled *pulled.Records
	grown  chan struct{} // some container's log, or there is a new one

	ctx    context.Context // of the actors: ends when the manager stops
	work   sync.WaitGroup
	live   sync.Mutex // guards closed and adding to work
	closed bool

	mu      sync.Mutex
	actors  map[types.UID]*actor
	synced  bool                                 // the API has said which pods there are
	static  map[types.UID]*corev1.Pod            // the static pods that are wanted; nil: not read yet
	mirrors map[types.NamespacedName]*corev1.Pod // as the API shows them
}

const (
	parallelPulls = 4
	relistEvery   = time.Minute
	// patience is how long a starting node waits for the API before it starts the pods it remembers.
	patience = 5 * time.Second
)

// NewManager makes a manager that Run will start.
func NewManager(conf Config) *Manager {
	conf.LogSize, conf.LogFiles = cmp.Or(conf.LogSize, usualLogSize), cmp.Or(conf.LogFiles, usualLogFiles)
	conf.MaxDelay = cmp.Or(conf.MaxDelay, maxDelay)
	if conf.Stopping == nil {
		conf.Stopping = func() bool { return false }
	}
	if conf.Pressure == nil {
		conf.Pressure = func() pressure.Conditions { return pressure.Conditions{} }
	}
	m := &Manager{
		conf: conf, log: conf.Log.With("component", "pods"), store: store{dir: filepath.Join(conf.Dir, "desired")},
		users: userns.In(filepath.Join(conf.Dir, "pods")),
		// Making a container is part waiting for the kernel, part work of runc: some more than there are cores keep
		// them busy, many more only make each one late.
		slots:  semaphore.NewWeighted(int64(2*goruntime.NumCPU() + 2)),
		pulls:  semaphore.NewWeighted(int64(cmp.Or(conf.Pulls, parallelPulls))),
		pulled: pulled.In(filepath.Join(conf.Dir, "images")),
		actors: map[types.UID]*actor{}, mirrors: map[types.NamespacedName]*corev1.Pod{},
		grown: make(chan struct{}, 1),
	}
	m.writer = &writer{m: m}
	return m
}

// now measures how long something takes or waits. The time of day is conf.Clock's.
func (m *Manager) now() time.Time { return time.Now() }

// spawn runs f unless the manager is stopping, and says whether it does.
func (m *Manager) spawn(f func()) bool {
	m.live.Lock()
	defer m.live.Unlock()
	if m.closed {
		return false
	}
	m.work.Go(f)
	return true
}

// Name is the component's name.
func (m *Manager) Name() string { return "pods" }

// Run adopts what runs, follows the API, and on the end of ctx leaves every container as it is.
func (m *Manager) Run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.ctx = ctx
	if err := m.conf.Runtime.Await(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	running, err := observed.ReadAll(ctx, m.conf.Runtime)
	if err != nil {
		return fmt.Errorf("look for running pods: %w", err)
	}
	saved, err := m.store.load()
	if err != nil {
		m.log.Warn("some remembered pods cannot be read", "error", err)
	}
	if err := m.conf.Cgroups.Init(m.conf.Pods); err != nil {
		return fmt.Errorf("prepare cgroups (does cgroup-root exist, and may knarr write to /sys/fs/cgroup?): %w", err)
	}
	m.conf.Runtime.Events(ctx, m.containerEvent)
	informer, err := m.conf.Cache.GetInformer(ctx, &corev1.Pod{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { m.arrived(o.(*corev1.Pod)) },
		UpdateFunc: func(_, o any) { m.arrived(o.(*corev1.Pod)) },
		DeleteFunc: m.deleted,
	})
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	m.spawn(func() {
		if err := m.rememberImages(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("forget images that are gone", "error", err)
		}
	})
	m.spawn(func() { m.adopt(ctx, registration.HasSynced, saved, running) })
	m.spawn(func() { m.relist(ctx) })
	m.spawn(func() { m.rotateLogs(ctx) })
	m.spawn(func() { m.followProbes(ctx) })
	ready()
	<-ctx.Done()
	err = informer.RemoveEventHandler(registration)
	m.live.Lock()
	m.closed = true
	m.live.Unlock()
	m.work.Wait()
	return err
}

// adopt waits for the API's word on which pods this node has, then ends those it does not name. Without the API it
// starts the pods it remembers.
func (m *Manager) adopt(ctx context.Context, synced func() bool, saved []*corev1.Pod, running map[types.UID]observed.Pod) {
	wait, cancel := context.WithTimeout(ctx, patience)
	ok := toolscache.WaitForCacheSync(wait.Done(), synced)
	cancel()
	if ctx.Err() != nil {
		return
	}
	if m.conf.Static != nil {
		m.setStatic(m.conf.Static.Read())
		m.spawn(func() { m.conf.Static.Run(ctx, m.followStatic) })
	} else {
		m.setStatic(nil)
	}
	if !ok {
		m.settleStatic()
		if len(saved) > 0 {
			m.log.Warn("the API does not answer; starting the pods this node remembers", "pods", len(saved))
		}
		for _, pod := range saved {
			m.update(pod)
		}
		if !toolscache.WaitForCacheSync(ctx.Done(), synced) {
			return
		}
	}
	wanted := map[types.UID]bool{}
	m.mu.Lock()
	m.synced = true
	for uid := range m.static {
		wanted[uid] = true
	}
	m.mu.Unlock()
	pods := &corev1.PodList{}
	if err := m.conf.Cache.List(ctx, pods); err != nil {
		m.log.Error("list pods; pods deleted while this node was away stay until its next start", "error", err)
		m.settleStatic()
		return
	}
	for i := range pods.Items {
		if pods.Items[i].Spec.NodeName == m.conf.Node.Name {
			wanted[pods.Items[i].UID] = true
		}
	}
	known := map[types.UID]*corev1.Pod{}
	for _, pod := range saved {
		known[pod.UID] = pod
	}
	m.endUnwanted(known, running, wanted)
	m.settleStatic()
}

// endUnwanted winds down every pod that left something on this machine and that the API does not name.
func (m *Manager) endUnwanted(known map[types.UID]*corev1.Pod, running map[types.UID]observed.Pod, wanted map[types.UID]bool) {
	for uid := range running {
		if known[uid] == nil {
			known[uid] = m.orphan(uid)
		}
	}
	withVolumes, err := m.conf.Volumes.Pods()
	if err != nil {
		m.log.Warn("list pods with volumes; volumes of forgotten pods stay mounted", "error", err)
	}
	for _, e := range m.conf.Equipment {
		withVolumes = append(withVolumes, e.Pods()...)
	}
	for _, uid := range append(withVolumes, m.conf.Cgroups.Uids()...) {
		if known[uid] == nil {
			known[uid] = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}
		}
	}
	for uid, pod := range known {
		if !wanted[uid] {
			m.end(pod)
		}
	}
}

// orphan is what the runtime knows of a pod nobody remembers: enough to end it.
func (m *Manager) orphan(uid types.UID) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}
	list, err := m.conf.Runtime.ListPodSandbox(m.ctx, &runtimeapi.ListPodSandboxRequest{
		Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{translate.LabelPodUID: string(uid)}},
	})
	if err == nil && len(list.Items) > 0 {
		pod.Name, pod.Namespace = list.Items[0].Metadata.GetName(), list.Items[0].Metadata.GetNamespace()
	}
	return pod
}

func (m *Manager) actor(uid types.UID, pod *corev1.Pod) *actor {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.actors[uid]
	if a == nil {
		a = newActor(m, uid)
		a.pod = pod
		m.actors[uid] = a
	}
	return a
}

// all actors there are now.
func (m *Manager) all() []*actor {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.actors))
}

func (m *Manager) lookup(uid types.UID) *actor {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.actors[uid]
}

// update takes in a pod as the API shows it.
func (m *Manager) update(pod *corev1.Pod) {
	if pod.Spec.NodeName != m.conf.Node.Name {
		return
	}
	pod, wish := m.take(pod)
	a := m.actor(pod.UID, pod)
	a.mu.Lock()
	changed := a.pod.Generation != pod.Generation || a.ungranted != nil && wish == nil
	if changed { // the change may be what the waiting steps waited for
		clear(a.notBefore)
		clear(a.tries)
	}
	a.relabeled = a.relabeled || relabeled(a.pod, pod)
	a.resized = a.resized || changed && !sameResources(a.pod, pod)
	save := changed && a.mounted
	news := wish != nil && (a.ungranted == nil || a.ungranted.why != wish.why)
	a.pod, a.ungranted = pod, wish
	a.mu.Unlock()
	if news {
		m.event(pod, corev1.EventTypeWarning, "Resize"+wish.why.Reason, "%s", wish.why.Message)
	}
	if save {
		m.spawn(func() {
			if err := m.store.save(pod); err != nil {
				m.log.Warn("note changed pod on disk", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			}
		})
	}
	a.poke()
}

// relabeled: do the volumes that show a pod's labels and annotations show others now?
func relabeled(old, pod *corev1.Pod) bool {
	return !maps.Equal(old.Labels, pod.Labels) || !maps.Equal(old.Annotations, pod.Annotations)
}

func (m *Manager) deleted(o any) {
	if tomb, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
		o = tomb.Obj
	}
	pod, ok := o.(*corev1.Pod)
	switch {
	case !ok || pod.Spec.NodeName != m.conf.Node.Name:
	case isMirror(pod):
		m.sawMirror(pod, true)
	default:
		m.end(pod)
	}
}

// end winds down a pod the API does not have.
func (m *Manager) end(pod *corev1.Pod) {
	a := m.actor(pod.UID, pod)
	a.mu.Lock()
	a.gone = true
	if pod.Spec.NodeName != "" {
		a.pod = pod
	}
	a.mu.Unlock()
	a.poke()
}

// forget drops an actor whose pod has left no trace.
func (m *Manager) forget(a *actor) {
	a.mu.Lock()
	a.over = true
	a.wakeAt(time.Time{})
	a.mu.Unlock()
	m.mu.Lock()
	delete(m.actors, a.uid)
	m.mu.Unlock()
	m.settleStatic() // its name is free
}

// containerEvent runs inside containerd and therefore only pokes.
func (m *Manager) containerEvent(e *runtimeapi.ContainerEventResponse) {
	uid := types.UID(e.GetPodSandboxStatus().GetLabels()[translate.LabelPodUID])
	if uid == "" && len(e.ContainersStatuses) > 0 {
		uid = types.UID(e.ContainersStatuses[0].GetLabels()[translate.LabelPodUID])
	}
	if a := m.lookup(uid); a != nil {
		a.poke()
	}
}

func (m *Manager) followProbes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-m.conf.Prober.Results():
			if a := m.lookup(r.PodUID); a != nil {
				a.probe(r)
			}
		}
	}
}

// relist is the net under the events: it looks at everything now and then, and at pods that changed without one.
func (m *Manager) relist(ctx context.Context) {
	tick := time.NewTicker(relistEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all, err := observed.ReadAll(ctx, m.conf.Runtime)
		if err != nil {
			m.log.Warn("look at all containers", "error", err)
			continue
		}
		m.mu.Lock()
		synced := m.synced
		actors := make(map[types.UID]*actor, len(m.actors))
		for uid, a := range m.actors {
			actors[uid] = a
		}
		m.mu.Unlock()
		for uid, a := range actors {
			a.mu.Lock()
			differs := !reflect.DeepEqual(a.runtime, all[uid])
			a.mu.Unlock()
			if differs {
				a.poke()
			}
		}
		for uid := range all {
			if synced && actors[uid] == nil {
				m.end(m.orphan(uid))
			}
		}
		m.settleStatic() // mirrors that could not be removed
		m.retryResizes()
	}
}

func (m *Manager) event(pod *corev1.Pod, kind, reason, format string, args ...any) {
	if m.conf.Recorder != nil && pod.Name != "" {
		m.conf.Recorder.Eventf(pod, kind, reason, format, args...)
	}
}

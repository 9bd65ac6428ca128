// Package devices gives containers the devices that plugins manage (device plugins, v1beta1).
//
// In:       plugins that register on device-plugins/kubelet.sock, pods that ask for their resources, what plugins prefer of what
// is free (GetPreferredAllocation).
// Out:      how many devices of each resource the node has and how many work; environment, mounts and devices of
// containers; which device is whose, on disk.
// Promise:  a device is given to one pod at a time, and a pod keeps its own over restarts of this process and of the
// plugin. A plugin that ends takes its devices out of service at once, and out of the node's capacity after five minutes.
// Not here: choosing a node (scheduler), which NUMA nodes they come from (workloads/agent/exclusive), drivers of dynamic
// resources (workloads/agent/claims).
package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	pluginv1 "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/plugins"
	"knarr.dev/knarr/workloads/agent/remembered"
	"knarr.dev/knarr/workloads/agent/translate"
)

// Folder is where device plugins look for this node, below the folder they know the agent's by.
const Folder = "device-plugins"

const (
	grace       = 5 * time.Minute // how long a plugin that ended may take to come back
	allocateFor = time.Minute
	prepareFor  = pluginv1.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
	// preferFor is what a wish may take: other pods wait to be let in meanwhile.
	preferFor = time.Second
)

// Config of a manager.
type Config struct {
	Dir     string // the plugins' sockets
	State   string // file that remembers whose a device is
	Changed func() // Resources are others now
	Log     *slog.Logger
}

// Manager is the component, and what the pods' actors ask.
type Manager struct {
	conf Config
	log  *slog.Logger
	ctx  context.Context // of Run
	work sync.WaitGroup
	wish time.Duration // how long a plugin may take to say what it prefers

	mu    sync.Mutex
	kinds map[string]*kind // by resource
	pods  map[types.UID]granted
	fresh bool                                           // pods say more than the disk does
	told  map[string]*pluginv1.ContainerAllocateResponse // by pod, container and resource: a container that restarts asks nobody
}

// kind is one resource, and its plugin while it runs.
type kind struct {
	plugin  *grpc.ClientConn // nil: it ended
	options *pluginv1.DevicePluginOptions
	devices map[string]device // by id
	ended   time.Time
}

type device struct {
	works bool
	nodes align.Nodes // where it is; Anywhere if its plugin does not say
}

// New reads whose the devices are.
func New(conf Config) (*Manager, error) {
	m := &Manager{
		conf: conf, log: conf.Log.With("component", "devices"), wish: preferFor,
		kinds: map[string]*kind{}, pods: map[types.UID]granted{}, told: map[string]*pluginv1.ContainerAllocateResponse{},
	}
	if err := remembered.Read(conf.State, &m.pods); err != nil {
		return nil, fmt.Errorf("whose the devices are: %w; stop the pods that use devices, then delete %s", err, conf.State)
	}
	return m, nil
}

// Name of the component.
func (m *Manager) Name() string { return "devices" }

// Run takes plugins in until ctx ends.
func (m *Manager) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(m.conf.Dir, 0o750); err != nil {
		return fmt.Errorf("make the device plugins' folder: %w", err)
	}
	socket := filepath.Join(m.conf.Dir, "kubelet.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) { // plugins register again when it is made anew
		return fmt.Errorf("remove an old socket: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen for device plugins: %w", err)
	}
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	server := grpc.NewServer()
	pluginv1.RegisterRegistrationServer(server, registrar{m: m})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	ready()
	err = server.Serve(listener)
	m.work.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve device plugins: %w", err)
}

// registrar is how plugins call; Register of plugin watchers is another way to the same.
type registrar struct {
	pluginv1.UnimplementedRegistrationServer
	m *Manager
}

func (r registrar) Register(ctx context.Context, q *pluginv1.RegisterRequest) (*pluginv1.Empty, error) {
	if q.Endpoint != filepath.Base(q.Endpoint) {
		return nil, fmt.Errorf("endpoint %q is not a name in the plugins' folder", q.Endpoint)
	}
	return &pluginv1.Empty{}, r.m.Register(ctx, q.ResourceName, filepath.Join(r.m.conf.Dir, q.Endpoint), []string{q.Version})
}

// Register takes a plugin in and follows its devices. A plugin that comes anew replaces its older self.
func (m *Manager) Register(_ context.Context, name, endpoint string, versions []string) error {
	switch {
	case !slices.Contains(versions, pluginv1.Version):
		return fmt.Errorf("device plugin of %s speaks versions %v: %s is needed", name, versions, pluginv1.Version)
	case len(validation.IsQualifiedName(name)) > 0 || !strings.Contains(name, "/") || strings.Contains(strings.SplitN(name, "/", 2)[0], "kubernetes.io"):
		return fmt.Errorf("%q is not the name of an extended resource: it is one such as example.com/gpu", name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil || m.ctx.Err() != nil {
		return errors.New("this node is not ready for device plugins")
	}
	conn, err := plugins.Dial(endpoint)
	if err != nil {
		return fmt.Errorf("reach device plugin of %s: %w", name, err)
	}
	m.work.Go(func() { m.follow(m.ctx, name, conn) })
	return nil
}

// Deregister is for plugins whose socket went: their stream ends by itself.
func (m *Manager) Deregister(string, string) {}

// follow keeps a resource's devices up to date while its plugin runs.
func (m *Manager) follow(ctx context.Context, name string, conn *grpc.ClientConn) {
	defer conn.Close()
	client := pluginv1.NewDevicePluginClient(conn)
	asked, cancel := context.WithTimeout(ctx, allocateFor)
	options, err := client.GetDevicePluginOptions(asked, &pluginv1.Empty{})
	cancel()
	var stream grpc.ServerStreamingClient[pluginv1.ListAndWatchResponse]
	if err == nil {
		stream, err = client.ListAndWatch(ctx, &pluginv1.Empty{})
	}
	for err == nil {
		var list *pluginv1.ListAndWatchResponse
		if list, err = stream.Recv(); err == nil {
			m.has(name, conn, options, list.Devices)
		}
	}
	if m.end(name, conn) && ctx.Err() == nil {
		m.log.Warn("device plugin ended; its devices are out of service until it comes back", "resource", name, "error", err)
		m.conf.Changed()
		select {
		case <-ctx.Done():
		case <-time.After(grace):
			m.conf.Changed()
		}
	}
}

// has notes what a plugin says it has.
func (m *Manager) has(name string, conn *grpc.ClientConn, options *pluginv1.DevicePluginOptions, list []*pluginv1.Device) {
	devices := map[string]device{}
	for _, d := range list {
		devices[d.ID] = device{works: d.Health == pluginv1.Healthy, nodes: nodesOf(d)}
	}
	m.mu.Lock()
	k := m.kinds[name]
	same := k != nil && k.plugin == conn && maps.Equal(k.devices, devices)
	m.kinds[name] = &kind{plugin: conn, options: options, devices: devices}
	m.mu.Unlock()
	if !same {
		m.log.Info("devices changed", "resource", name, "devices", len(devices))
		m.conf.Changed()
	}
}

func nodesOf(d *pluginv1.Device) align.Nodes {
	var nodes align.Nodes
	for _, n := range d.GetTopology().GetNodes() {
		if n.ID >= 0 && n.ID <= align.MaxNode {
			nodes |= align.Of(int(n.ID))
		}
	}
	return cmp.Or(nodes, align.Anywhere)
}

// end notes that a plugin is gone, unless another has taken its place.
func (m *Manager) end(name string, conn *grpc.ClientConn) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.kinds[name]
	if k == nil || k.plugin != conn {
		return false
	}
	m.kinds[name] = &kind{devices: k.devices, ended: time.Now()}
	return true
}

// Resources are the node's: how many devices there are, and how many work.
func (m *Manager) Resources() (capacity, allocatable corev1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	for name, k := range m.kinds {
		all, working := len(k.devices), 0
		for _, d := range k.devices {
			if d.works && k.plugin != nil {
				working++
			}
		}
		if k.plugin == nil && time.Since(k.ended) >= grace {
			all = 0
		}
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(int64(all), resource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(int64(working), resource.DecimalSI)
	}
	return capacity, allocatable
}

// Admit sets a new pod's devices aside. What it cannot have is an error.
func (m *Manager) Admit(pod *corev1.Pod) error {
	for _, d := range m.demands(pod) {
		if err := m.grant(pod, d, align.Anywhere); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.fresh {
		return nil
	}
	return m.save()
}

// Allocate sets the devices of one of a pod's containers aside, of these NUMA nodes as far as there are. Containers are
// named in the order they run.
func (m *Manager) Allocate(pod *corev1.Pod, c *corev1.Container, from align.Nodes) error {
	for _, d := range m.demands(pod) {
		if d.container == c.Name {
			return m.grant(pod, d, from) // Admit, which follows when all have theirs, puts it on disk
		}
	}
	return nil
}

// Hints are the NUMA nodes the devices of a container, or without one of the whole pod, could come from.
func (m *Manager) Hints(pod *corev1.Pod, c *corev1.Container, machine align.Nodes) map[string][]align.Hint {
	wanted := m.demands(pod)
	counts := together(wanted)
	if c != nil {
		counts = nil
		for _, d := range wanted {
			if d.container == c.Name {
				counts = d.counts
			}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string][]align.Hint{}
	if m.pods[pod.UID] != nil && (c == nil || m.pods[pod.UID][c.Name] != nil) {
		return out // it was decided
	}
	r := m.room(pod.UID, wanted)
	for name, n := range counts {
		var working []string
		for id, d := range m.kinds[name].devices {
			if d.works {
				working = append(working, id)
			}
		}
		if hints := r.hints(name, n, working, machine); hints != nil {
			out[name] = hints
		}
	}
	return out
}

func (m *Manager) demands(pod *corev1.Pod) []demand {
	m.mu.Lock()
	defer m.mu.Unlock()
	return demands(pod, func(resource string) bool { return m.kinds[resource] != nil })
}

// grant chooses a container's devices unless it has them.
func (m *Manager) grant(pod *corev1.Pod, d demand, from align.Nodes) error {
	preferred := m.prefer(pod, d, from)
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, has := m.pods[pod.UID][d.container]; has {
		return nil
	}
	wanted := demands(pod, func(resource string) bool { return m.kinds[resource] != nil })
	ids, err := m.room(pod.UID, wanted).choose(d, from, preferred) // others may have taken what was preferred
	if err != nil {
		return err
	}
	if m.pods[pod.UID] == nil {
		m.pods[pod.UID] = granted{}
	}
	m.pods[pod.UID][d.container], m.fresh = ids, true
	return nil
}

// prefer asks plugins that have preferences which of the usable devices a container should have. One that does not answer
// has none.
func (m *Manager) prefer(pod *corev1.Pod, d demand, from align.Nodes) map[string][]string {
	m.mu.Lock()
	if _, has := m.pods[pod.UID][d.container]; has {
		m.mu.Unlock()
		return nil
	}
	asked := map[*grpc.ClientConn]question{}
	r := m.room(pod.UID, demands(pod, func(resource string) bool { return m.kinds[resource] != nil }))
	for name, n := range d.counts {
		k := m.kinds[name]
		ids, near := r.usable(name, from)
		if q := r.question(name, n, ids, near); k != nil && k.plugin != nil && k.options.GetGetPreferredAllocationAvailable() && q.open() {
			asked[k.plugin] = q
		}
	}
	ctx := m.ctx
	m.mu.Unlock()
	out := map[string][]string{}
	for plugin, q := range asked {
		ctx, cancel := context.WithTimeout(ctx, m.wish)
		answer, err := pluginv1.NewDevicePluginClient(plugin).GetPreferredAllocation(ctx, &pluginv1.PreferredAllocationRequest{
			ContainerRequests: []*pluginv1.ContainerPreferredAllocationRequest{{
				AvailableDeviceIDs: q.among, MustIncludeDeviceIDs: q.must, AllocationSize: int32(q.size),
			}},
		})
		cancel()
		if err != nil || len(answer.ContainerResponses) != 1 {
			m.log.Warn("a device plugin does not say which devices it prefers; the first ones are given", "resource", q.resource, "pod", pod.Namespace+"/"+pod.Name, "error", err)
			continue
		}
		out[q.resource] = answer.ContainerResponses[0].DeviceIDs
	}
	return out
}

// room is what is left for the containers of a pod that have none yet; m.mu is held.
func (m *Manager) room(pod types.UID, wanted []demand) room {
	r := room{free: m.free(pod), passed: map[string][]string{}, nodes: func(resource, id string) align.Nodes { return m.kinds[resource].devices[id].nodes }}
	for _, d := range wanted {
		if has, given := m.pods[pod][d.container]; given {
			r.give(d, has)
		}
	}
	return r
}

// free are the devices that work and are no other pod's, by resource; m.mu is held.
func (m *Manager) free(pod types.UID) map[string][]string {
	used := map[string]map[string]bool{}
	for uid, containers := range m.pods {
		if uid == pod {
			continue
		}
		for _, resources := range containers {
			for name, ids := range resources {
				if used[name] == nil {
					used[name] = map[string]bool{}
				}
				for _, id := range ids {
					used[name][id] = true
				}
			}
		}
	}
	out := map[string][]string{}
	for name, k := range m.kinds {
		for id, d := range k.devices {
			if d.works && k.plugin != nil && !used[name][id] {
				out[name] = append(out[name], id)
			}
		}
		slices.Sort(out[name])
	}
	return out
}

func (m *Manager) save() error {
	if err := remembered.Write(m.conf.State, m.pods); err != nil {
		return fmt.Errorf("remember whose the devices are: %w", err)
	}
	m.fresh = false
	return nil
}

// Equip asks the plugins what a container needs for its devices.
func (m *Manager) Equip(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (translate.Extras, error) {
	var out translate.Extras
	if err := m.Admit(pod); err != nil { // it was admitted before there was a plugin
		return out, err
	}
	mine := m.Given(pod.UID, c.Name)
	for _, name := range slices.Sorted(maps.Keys(mine)) {
		answer, err := m.allocate(ctx, pod.UID, c.Name, name, mine[name])
		if err != nil {
			return out, fmt.Errorf("allocate %d of %s: %w", len(mine[name]), name, err)
		}
		add(&out, answer)
	}
	return out, nil
}

func (m *Manager) allocate(ctx context.Context, pod types.UID, container, name string, ids []string) (*pluginv1.ContainerAllocateResponse, error) {
	key := strings.Join([]string{string(pod), container, name}, "/")
	m.mu.Lock()
	k, known := m.kinds[name], m.told[key]
	m.mu.Unlock()
	if k == nil || k.plugin == nil {
		return nil, fmt.Errorf("its device plugin is not registered: is its pod running on this node?")
	}
	client := pluginv1.NewDevicePluginClient(k.plugin)
	if known == nil {
		asked, cancel := context.WithTimeout(ctx, allocateFor)
		defer cancel()
		answer, err := client.Allocate(asked, &pluginv1.AllocateRequest{ContainerRequests: []*pluginv1.ContainerAllocateRequest{{DevicesIds: ids}}})
		if err != nil {
			return nil, err
		}
		if len(answer.ContainerResponses) != 1 {
			return nil, fmt.Errorf("its device plugin answered for %d containers, asked for one", len(answer.ContainerResponses))
		}
		known = answer.ContainerResponses[0]
		m.mu.Lock()
		if m.pods[pod] != nil { // it may have ended meanwhile
			m.told[key] = known
		}
		m.mu.Unlock()
	}
	if k.options.GetPreStartRequired() {
		asked, cancel := context.WithTimeout(ctx, prepareFor)
		defer cancel()
		if _, err := client.PreStartContainer(asked, &pluginv1.PreStartContainerRequest{DevicesIds: ids}); err != nil {
			return nil, fmt.Errorf("prepare for the container's start: %w", err)
		}
	}
	return known, nil
}

// Release gives back what a pod had.
func (m *Manager) Release(_ context.Context, pod types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	had, has := m.pods[pod]
	if !has {
		return nil
	}
	delete(m.pods, pod)
	if err := m.save(); err != nil {
		m.pods[pod] = had
		return err
	}
	maps.DeleteFunc(m.told, func(key string, _ *pluginv1.ContainerAllocateResponse) bool {
		return strings.HasPrefix(key, string(pod)+"/")
	})
	return nil
}

// Given are a container's devices, by resource.
func (m *Manager) Given(pod types.UID, container string) map[string][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.pods[pod][container])
}

// Working are the devices that can be given, by resource, and where each is.
func (m *Manager) Working() map[string]map[string]align.Nodes {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]map[string]align.Nodes{}
	for name, k := range m.kinds {
		for id, d := range k.devices {
			if d.works && k.plugin != nil {
				if out[name] == nil {
					out[name] = map[string]align.Nodes{}
				}
				out[name][id] = d.nodes
			}
		}
	}
	return out
}

// Pods are those that have devices.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.pods), func(a, b types.UID) int { return cmp.Compare(a, b) })
}

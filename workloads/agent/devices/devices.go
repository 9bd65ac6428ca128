// Package devices gives containers the devices that plugins manage (device plugins, v1beta1).
//
// In:       plugins that register on device-plugins/kubelet.sock, pods that ask for their resources.
// Out:      how many devices of each resource the node has and how many work; environment, mounts and devices of
// containers; which device is whose, on disk.
// Promise:  a device is given to one pod at a time, and a pod keeps its own over restarts of this process and of the
// plugin. A plugin that ends takes its devices out of service at once, and out of the node's capacity after five minutes.
// Not here: choosing a node (scheduler), drivers of dynamic resources (workloads/agent/claims).
package devices

import (
	"cmp"
	"context"
	"encoding/json"
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

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/workloads/agent/plugins"
	"knarr.dev/knarr/workloads/agent/translate"
)

// Folder is where device plugins look for this node, below the folder they know the agent's by.
const Folder = "device-plugins"

const (
	grace       = 5 * time.Minute // how long a plugin that ended may take to come back
	allocateFor = time.Minute
	prepareFor  = pluginv1.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
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

	mu    sync.Mutex
	kinds map[string]*kind // by resource
	pods  map[types.UID]granted
	told  map[string]*pluginv1.ContainerAllocateResponse // by pod, container and resource: a container that restarts asks nobody
}

// kind is one resource, and its plugin while it runs.
type kind struct {
	plugin  *grpc.ClientConn // nil: it ended
	options *pluginv1.DevicePluginOptions
	devices map[string]bool // by id: does it work?
	ended   time.Time
}

// New reads whose the devices are.
func New(conf Config) (*Manager, error) {
	m := &Manager{
		conf: conf, log: conf.Log.With("component", "devices"),
		kinds: map[string]*kind{}, pods: map[types.UID]granted{}, told: map[string]*pluginv1.ContainerAllocateResponse{},
	}
	text, err := os.ReadFile(conf.State)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &m.pods)
	}
	if err != nil {
		return nil, fmt.Errorf("read whose the devices are: %w; stop the pods that use devices, then delete %s", err, conf.State)
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
	devices := map[string]bool{}
	for _, d := range list {
		devices[d.ID] = d.Health == pluginv1.Healthy
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
		for _, works := range k.devices {
			if works && k.plugin != nil {
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
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.grant(pod)
}

// grant chooses a pod's devices unless it has them; m.mu is held.
func (m *Manager) grant(pod *corev1.Pod) error {
	wanted := demands(pod, func(resource string) bool { return m.kinds[resource] != nil })
	if _, has := m.pods[pod.UID]; has || len(wanted) == 0 {
		return nil
	}
	given, err := choose(wanted, m.free())
	if err != nil {
		return err
	}
	m.pods[pod.UID] = given
	if err := m.save(); err != nil {
		delete(m.pods, pod.UID)
		return err
	}
	return nil
}

// free are the devices that work and are nobody's, by resource; m.mu is held.
func (m *Manager) free() map[string][]string {
	used := map[string]map[string]bool{}
	for _, containers := range m.pods {
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
		for id, works := range k.devices {
			if works && k.plugin != nil && !used[name][id] {
				out[name] = append(out[name], id)
			}
		}
		slices.Sort(out[name])
	}
	return out
}

func (m *Manager) save() error {
	text, err := json.Marshal(m.pods)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.conf.State), 0o700); err != nil {
		return fmt.Errorf("remember whose the devices are: %w", err)
	}
	return durable.Write(m.conf.State, text, 0o600)
}

// Equip asks the plugins what a container needs for its devices.
func (m *Manager) Equip(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (translate.Extras, error) {
	var out translate.Extras
	m.mu.Lock()
	err := m.grant(pod) // it was admitted before there was a plugin
	mine := maps.Clone(m.pods[pod.UID][c.Name])
	m.mu.Unlock()
	if err != nil {
		return out, err
	}
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

// Pods are those that have devices.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.pods), func(a, b types.UID) int { return cmp.Compare(a, b) })
}

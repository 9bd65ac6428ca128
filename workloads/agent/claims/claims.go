// Package claims gives containers the devices of resource claims (dynamic resource allocation, resource.k8s.io/v1).
//
// In:       drivers that register as plugins (DRAPlugin, v1), claims the scheduler has allocated for pods of this node.
// Out:      claims prepared once a node, the devices' CDI names for each container, ResourceSlices of drivers that left
// removed.
// Promise:  which claim is prepared for whom is on disk before a driver hears of it; a claim is unprepared when its last pod
// here has ended, after a crash too.
// Not here: allocating (scheduler), publishing slices (drivers), device plugins (workloads/agent/devices).
package claims

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"

	"knarr.dev/knarr/workloads/agent/plugins"
	"knarr.dev/knarr/workloads/agent/remembered"
	"knarr.dev/knarr/workloads/agent/translate"
)

const (
	askFor = 45 * time.Second // one call of a driver
	// grace is how long a driver that left may take to come back before the scheduler is told that its devices are gone.
	grace = 30 * time.Second
)

// Config of a manager.
type Config struct {
	NodeName string
	State    string // file that remembers what is prepared
	Client   kubernetes.Interface
	Log      *slog.Logger
}

// Manager knows the drivers here, and what they have prepared.
type Manager struct {
	conf Config
	log  *slog.Logger

	preparing sync.Mutex // one claim at a time: pods that share one must not prepare it twice

	mu      sync.Mutex
	drivers map[string]*driver
	claims  map[types.UID]prepared
}

type driver struct {
	endpoint string
	conn     *grpc.ClientConn
	left     *time.Timer // nil while it is here
}

// prepared is a claim on this node.
type prepared struct {
	Namespace string              `json:"namespace"`
	Name      string              `json:"name"`
	Pods      []types.UID         `json:"pods"`
	Drivers   map[string][]device `json:"drivers"` // what each has prepared
	Done      bool                `json:"done"`
}

// device is one of a claim's.
type device struct {
	Requests []string `json:"requests"`
	CDI      []string `json:"cdi"`
	Pool     string   `json:"pool,omitempty"`
	Name     string   `json:"name,omitempty"`
	Share    *string  `json:"share,omitempty"`
}

// New reads what an earlier process had prepared.
func New(conf Config) (*Manager, error) {
	m := &Manager{conf: conf, log: conf.Log.With("component", "claims"), drivers: map[string]*driver{}, claims: map[types.UID]prepared{}}
	if err := remembered.Read(conf.State, &m.claims); err != nil {
		return nil, fmt.Errorf("which resource claims are prepared: %w; stop the pods that use claims, then delete %s", err, conf.State)
	}
	return m, nil
}

// Register takes a driver in.
func (m *Manager) Register(_ context.Context, name, endpoint string, versions []string) error {
	if !slices.Contains(versions, drav1.DRAPluginService) {
		return fmt.Errorf("driver %s offers %v: %s is needed", name, versions, drav1.DRAPluginService)
	}
	conn, err := plugins.Dial(endpoint)
	if err != nil {
		return fmt.Errorf("reach driver %s: %w", name, err)
	}
	m.mu.Lock()
	old := m.drivers[name]
	m.drivers[name] = &driver{endpoint: endpoint, conn: conn}
	m.mu.Unlock()
	if old != nil {
		_ = old.conn.Close()
		if old.left != nil {
			old.left.Stop()
		}
	}
	return nil
}

// Deregister notes that a driver left. If it does not come back, its slices go: nothing of it can be used here.
func (m *Manager) Deregister(name, endpoint string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.drivers[name]
	if d == nil || d.endpoint != endpoint || d.left != nil {
		return
	}
	d.left = time.AfterFunc(grace, func() { m.forget(name, d) })
}

func (m *Manager) forget(name string, d *driver) {
	m.mu.Lock()
	ours := m.drivers[name] == d
	if ours {
		delete(m.drivers, name)
	}
	m.mu.Unlock()
	if !ours {
		return
	}
	_ = d.conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	defer cancel()
	err := m.conf.Client.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: fields.Set{
		resourcev1.ResourceSliceSelectorNodeName: m.conf.NodeName, resourcev1.ResourceSliceSelectorDriver: name,
	}.String()})
	if err != nil {
		m.log.Warn("remove the ResourceSlices of a driver that left; pods that need it may still be sent here", "driver", name, "error", err)
	}
}

// Admit implements pod.Equipment: what a pod's claims have was decided by the scheduler.
func (m *Manager) Admit(*corev1.Pod) error { return nil }

// Equip prepares a pod's claims, if they are not, and returns the devices one of its containers asks for.
func (m *Manager) Equip(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (translate.Extras, error) {
	var out translate.Extras
	for _, want := range wanted(pod, c) {
		if want.claim == "" {
			return out, fmt.Errorf("resource claim %q of the pod is not made yet: it waits for the controller of resource claims", want.name)
		}
		p, err := m.prepare(ctx, pod, want.claim)
		if err != nil {
			return out, err
		}
		for _, name := range slices.Sorted(maps.Keys(p.Drivers)) {
			for _, d := range p.Drivers[name] {
				if d.serves(want.request) {
					out.CDI = append(out.CDI, d.CDI...)
				}
			}
		}
	}
	slices.Sort(out.CDI)
	out.CDI = slices.Compact(out.CDI)
	return out, nil
}

// prepare has a claim's drivers prepare it for a pod.
func (m *Manager) prepare(ctx context.Context, pod *corev1.Pod, name string) (prepared, error) {
	m.preparing.Lock()
	defer m.preparing.Unlock()
	if p, done := m.known(pod.UID, pod.Namespace, name); done {
		return p, nil
	}
	read, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	claim, err := m.conf.Client.ResourceV1().ResourceClaims(pod.Namespace).Get(read, name, metav1.GetOptions{})
	if err != nil {
		return prepared{}, fmt.Errorf("read resourceclaim %s/%s: %w", pod.Namespace, name, err)
	}
	if err := usable(claim, pod); err != nil {
		return prepared{}, err
	}
	p, err := m.begin(claim, pod.UID)
	if err != nil || p.Done {
		return p, err
	}
	for _, name := range driversOf(claim) {
		devices, err := m.ask(ctx, name, claim)
		if err != nil {
			return p, fmt.Errorf("prepare resourceclaim %s/%s: driver %s: %w", claim.Namespace, claim.Name, name, err)
		}
		p.Drivers[name] = devices
	}
	p.Done = true
	return p, m.set(claim.UID, p)
}

// known finds a claim that is prepared for a pod.
func (m *Manager) known(pod types.UID, namespace, name string) (prepared, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.claims {
		if p.Done && p.Namespace == namespace && p.Name == name && slices.Contains(p.Pods, pod) {
			return p, true
		}
	}
	return prepared{}, false
}

// begin notes that a pod uses a claim, and which drivers are about to hear of it.
func (m *Manager) begin(claim *resourcev1.ResourceClaim, pod types.UID) (prepared, error) {
	m.mu.Lock()
	old := m.claims[claim.UID]
	m.mu.Unlock()
	p := prepared{Namespace: claim.Namespace, Name: claim.Name, Pods: slices.Clone(old.Pods), Drivers: map[string][]device{}, Done: old.Done}
	maps.Copy(p.Drivers, old.Drivers)
	if !slices.Contains(p.Pods, pod) {
		p.Pods = append(p.Pods, pod)
	}
	for _, name := range driversOf(claim) {
		if _, there := p.Drivers[name]; !there {
			p.Drivers[name] = nil
		}
	}
	return p, m.set(claim.UID, p)
}

// set changes what is known of a claim, on disk first; without pods it is forgotten.
func (m *Manager) set(claim types.UID, p prepared) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := maps.Clone(m.claims)
	if next[claim] = p; len(p.Pods) == 0 {
		delete(next, claim)
	}
	if err := remembered.Write(m.conf.State, next); err != nil {
		return fmt.Errorf("remember which resource claims are prepared: %w", err)
	}
	m.claims = next
	return nil
}

func (m *Manager) client(name string) (drav1.DRAPluginClient, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d := m.drivers[name]; d != nil {
		return drav1.NewDRAPluginClient(d.conn), nil
	}
	return nil, fmt.Errorf("it is not registered on node %s: is its pod running here?", m.conf.NodeName)
}

func (m *Manager) ask(ctx context.Context, name string, claim *resourcev1.ResourceClaim) ([]device, error) {
	client, err := m.client(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	answer, err := client.NodePrepareResources(ctx, &drav1.NodePrepareResourcesRequest{
		Claims: []*drav1.Claim{{Namespace: claim.Namespace, Name: claim.Name, Uid: string(claim.UID)}},
	})
	if err != nil {
		return nil, err
	}
	result := answer.Claims[string(claim.UID)]
	switch {
	case result == nil:
		return nil, errors.New("it did not answer for the claim")
	case result.Error != "":
		return nil, errors.New(result.Error)
	}
	var out []device
	for _, d := range result.Devices {
		out = append(out, device{Requests: d.RequestNames, CDI: d.CdiDeviceIds, Pool: d.PoolName, Name: d.DeviceName, Share: d.ShareId})
	}
	return out, nil
}

// Release gives up a pod's claims; those nobody here uses any more are unprepared.
func (m *Manager) Release(ctx context.Context, pod types.UID) error {
	if !slices.Contains(m.Pods(), pod) {
		return nil
	}
	m.preparing.Lock()
	defer m.preparing.Unlock()
	m.mu.Lock()
	mine := maps.Clone(m.claims)
	m.mu.Unlock()
	var errs []error
	for uid, p := range mine {
		if !slices.Contains(p.Pods, pod) {
			continue
		}
		left := slices.DeleteFunc(slices.Clone(p.Pods), func(other types.UID) bool { return other == pod })
		if len(left) == 0 {
			if err := m.unprepare(ctx, uid, p); err != nil {
				errs = append(errs, fmt.Errorf("unprepare resourceclaim %s/%s: %w", p.Namespace, p.Name, err))
				continue
			}
		}
		p.Pods = left
		errs = append(errs, m.set(uid, p))
	}
	return errors.Join(errs...)
}

func (m *Manager) unprepare(ctx context.Context, uid types.UID, p prepared) error {
	for _, name := range slices.Sorted(maps.Keys(p.Drivers)) {
		client, err := m.client(name)
		if err != nil {
			return fmt.Errorf("driver %s: %w", name, err)
		}
		asked, cancel := context.WithTimeout(ctx, askFor)
		answer, err := client.NodeUnprepareResources(asked, &drav1.NodeUnprepareResourcesRequest{
			Claims: []*drav1.Claim{{Namespace: p.Namespace, Name: p.Name, Uid: string(uid)}},
		})
		cancel()
		if err == nil && answer.Claims[string(uid)].GetError() != "" {
			err = errors.New(answer.Claims[string(uid)].GetError())
		}
		if err != nil {
			return fmt.Errorf("driver %s: %w", name, err)
		}
	}
	return nil
}

// Given are the devices of claims that are prepared for a container, by claim.
func (m *Manager) Given(pod *corev1.Pod, c *corev1.Container) []Given {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Given
	for _, want := range wanted(pod, c) {
		for _, p := range m.claims {
			if want.claim == "" || p.Namespace != pod.Namespace || p.Name != want.claim || !slices.Contains(p.Pods, pod.UID) {
				continue
			}
			given := Given{Namespace: p.Namespace, Claim: p.Name}
			for _, name := range slices.Sorted(maps.Keys(p.Drivers)) {
				for _, d := range p.Drivers[name] {
					if d.serves(want.request) {
						given.Devices = append(given.Devices, Device{Driver: name, Pool: d.Pool, Name: d.Name, Share: d.Share, CDI: d.CDI})
					}
				}
			}
			out = append(out, given)
		}
	}
	return out
}

// Given is a claim a container uses.
type Given struct {
	Namespace, Claim string
	Devices          []Device
}

// Device is one of a claim's, and its names in the Container Device Interface.
type Device struct {
	Driver, Pool, Name string
	Share              *string
	CDI                []string
}

// Pods are those that use claims here.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []types.UID
	for _, p := range m.claims {
		out = append(out, p.Pods...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

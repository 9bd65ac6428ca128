// Package node tells the cluster that this machine exists, what it has, and that it is alive.
//
// In:       the machine itself (/proc, /sys), the runtime's own status, the Node object as the API has it.
// Out:      the Node object with its labels, status and conditions; a lease in kube-node-lease renewed every 10 s.
// Promise:  Ready follows its reasons by milliseconds; a Node someone deleted comes back; no news, no writes.
// Not here: taints and what a silent node costs its pods (workloads/nodelifecycle), its pod range (workloads/nodeipam).
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/settings"
)

const (
	lookEvery   = 10 * time.Second // how old a view of the machine may be once the node is Ready
	reportEvery = 5 * time.Minute  // a status that says the same is sent this rarely: the lease shows that we live
	imagesEvery = time.Minute      // the list of images only helps the scheduler's taste
)

// Runtime is what the node asks its container runtime; workloads/agent/runtime has it.
type Runtime interface {
	Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error)
	Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error)
	ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error)
}

// Informer is a watch that shows this node's object, among others or alone: client-go's and controller-runtime's fit.
type Informer interface {
	AddEventHandler(cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error)
	RemoveEventHandler(cache.ResourceEventHandlerRegistration) error
}

// Events is where users read what happened; client-go's record.EventRecorder is one.
type Events interface {
	Event(about runtime.Object, eventType, reason, message string)
}

// Config is what a node is told.
type Config struct {
	Name    string
	Version string            // shown as the kubelet's
	Port    int32             // of the node's HTTPS API; 0 means 10250
	Labels  map[string]string // beside those every node has
	// RoleLabels are set with Privileged, a client of the control plane's own: NodeRestriction keeps nodes from giving
	// themselves roles. Both are empty on machines without a control plane.
	RoleLabels map[string]string
	Privileged kubernetes.Interface

	Settings settings.Settings                // what of the machine is for pods
	DataDir  string                           // its filesystem is the node's ephemeral storage
	Stopping func() bool                      // the machine is going down; nil: never
	Pressure func() pressure.Conditions       // what the machine is short of; nil: nothing
	InUse    func() []corev1.UniqueVolumeName // must not be detached from this machine; nil: none
	// Devices of plugins, by resource: how many there are and how many work; nil: none.
	Devices   func() (capacity, allocatable corev1.ResourceList)
	Addresses func() []netip.Addr // of this machine now, the one others should use first
	External  bool                // a cloud controller manager makes the node ready for pods, and knows its addresses
	Client    kubernetes.Interface
	Nodes     Informer
	Runtime   Runtime
	Events    Events // nil: nobody listens
	Log       *slog.Logger
}

// Validate says what is missing.
func (c *Config) Validate() error {
	switch {
	case c.Name == "":
		return errors.New("the node has no name: set node-name")
	case c.Client == nil || c.Nodes == nil || c.Runtime == nil || c.Addresses == nil:
		return errors.New("the node needs a client, a watch on nodes, a runtime and its addresses")
	}
	return nil
}

// Node is the component.
type Node struct {
	config  Config
	machine machine
	wake    chan struct{}

	mu       sync.Mutex
	current  *corev1.Node // newest version seen, nil when there is none
	reported time.Time

	// Of keepStatus's goroutine alone:
	ready    func()     // of Run, nil once called
	adopted  *types.UID // the object whose labels were seen to, nil before
	images   []corev1.ContainerImage
	imagesAt time.Time
}

// New makes a node of this machine; nothing is read or written before Run.
func New(config Config) (*Node, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Port == 0 {
		config.Port = 10250
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Stopping == nil {
		config.Stopping = func() bool { return false }
	}
	if config.InUse == nil {
		config.InUse = func() []corev1.UniqueVolumeName { return nil }
	}
	if config.Devices == nil {
		config.Devices = func() (capacity, allocatable corev1.ResourceList) { return nil, nil }
	}
	if config.Pressure == nil {
		config.Pressure = func() pressure.Conditions { return pressure.Conditions{} }
	}
	config.Log = config.Log.With("component", "node")
	return &Node{config: config, wake: make(chan struct{}, 1)}, nil
}

// Name of the component.
func (n *Node) Name() string { return "node" }

// Wake makes the node look at itself now: its runtime, network or addresses changed.
func (n *Node) Wake() {
	select {
	case n.wake <- struct{}{}:
	default: // a look is due already
	}
}

// Allocatable is what pods may use on this machine, nil before the first look.
func (n *Node) Allocatable() corev1.ResourceList {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current == nil {
		return nil
	}
	return n.current.Status.Allocatable
}

// Run registers the node and keeps its status and lease until ctx ends. It is ready when the API holds the node as
// Ready for the first time, which needs the runtime, the network and the control plane: start it beside them.
func (n *Node) Run(ctx context.Context, ready func()) error {
	var err error
	if n.machine, err = readMachine(); err != nil {
		return err
	}
	watch, err := n.config.Nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { n.saw(object) },
		UpdateFunc: func(_, object any) { n.saw(object) },
		DeleteFunc: n.sawDeleted,
	})
	if err != nil {
		return fmt.Errorf("watch node %s: %w", n.config.Name, err)
	}
	defer func() { _ = n.config.Nodes.RemoveEventHandler(watch) }() // fails only when the watch has ended itself

	n.ready = ready
	group, ctx := errgroup.WithContext(ctx)
	registered := make(chan struct{})
	group.Go(func() error {
		n.keepStatus(ctx, sync.OnceFunc(func() { close(registered) }))
		return nil
	})
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-registered:
			n.keepLease(ctx)
		}
		return nil
	})
	return group.Wait()
}

// keepStatus makes pass after pass: at once when something moved, soon when the node is not Ready yet, else rarely.
func (n *Node) keepStatus(ctx context.Context, registered func()) {
	waiting := time.Now() // since then the node is not as it should be
	timer := time.NewTimer(0)
	defer timer.Stop()
	var lastError string
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		case <-timer.C:
		}
		settled, err := n.pass(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && err.Error() != lastError: // once a reason: an API that is away says the same every second
			lastError = err.Error()
			n.config.Log.Warn("node status not reported", "node", n.config.Name, "err", err)
		case err == nil:
			lastError = ""
			registered()
		}
		if settled && err == nil {
			waiting = time.Now()
		}
		timer.Reset(again(settled, err, time.Since(waiting)))
	}
}

// again is when to look next. A machine that starts is waited for closely, because its pods wait as well; one that is
// broken for longer needs no hurry. An API server that refuses is not pressed.
func again(settled bool, err error, waiting time.Duration) time.Duration {
	switch {
	case err != nil:
		return min(max(waiting, 50*time.Millisecond), 2*time.Second)
	case settled:
		return lookEvery
	case waiting < 10*time.Second:
		return 20 * time.Millisecond
	}
	return time.Second
}

// pass looks at the machine once and writes what changed. Settled means Ready, and so in no hurry.
func (n *Node) pass(ctx context.Context) (settled bool, err error) {
	n.mu.Lock()
	old := n.current
	n.mu.Unlock()
	now := time.Now()
	observed := n.observe(ctx, old, now)
	if old == nil || n.adopted == nil || *n.adopted != old.UID {
		if old, err = n.register(ctx, old, observed); err != nil {
			return false, err
		}
		n.adopted = &old.UID
		observed.podRange = old.Spec.PodCIDR != ""
	}
	next := judge(old.Status, observed)
	if !worthReporting(old.Status, next, n.reportedAt(), now) {
		n.noteReady(next)
		return isReady(next), nil
	}
	stamp(&next, now)
	written, err := n.patchStatus(ctx, old, next)
	if err != nil {
		return false, err
	}
	n.remember(written, now)
	n.tell(news(n.config.Name, old.Status, next))
	n.noteReady(next)
	if isReady(old.Status) != isReady(next) {
		condition := find(next.Conditions, corev1.NodeReady)
		n.config.Log.Info("node readiness changed", "node", n.config.Name, "ready", condition.Status, "why", condition.Message)
	}
	return isReady(next), nil
}

// tell publishes events about the node. By old custom they name it by its name for a uid as well, and kubectl describe
// looks for them that way.
func (n *Node) tell(news []told) {
	if n.config.Events == nil {
		return
	}
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: n.config.Name, UID: types.UID(n.config.Name)}
	for _, told := range news {
		n.config.Events.Event(about, told.kind, told.reason, told.message)
	}
}

// noteReady ends the start the first time the API holds this status.
func (n *Node) noteReady(held corev1.NodeStatus) {
	if isReady(held) && n.ready != nil {
		n.ready()
		n.ready = nil
	}
}

func (n *Node) reportedAt() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reported
}

// remember keeps the API's answer unless the watch was faster.
func (n *Node) remember(node *corev1.Node, reported time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if newer(n.current, node) {
		n.current = node
	}
	if !reported.IsZero() {
		n.reported = reported
	}
}

// saw takes a version of our object from the watch; a change we did not make ourselves is worth a look.
func (n *Node) saw(object any) {
	node, ok := object.(*corev1.Node)
	if !ok || node.Name != n.config.Name {
		return
	}
	n.mu.Lock()
	fresh := newer(n.current, node)
	if fresh {
		n.current = node
	}
	n.mu.Unlock()
	if fresh {
		n.Wake()
	}
}

func (n *Node) sawDeleted(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	node, ok := object.(*corev1.Node)
	if !ok || node.Name != n.config.Name {
		return
	}
	n.mu.Lock()
	gone := n.current != nil && n.current.UID == node.UID
	if gone {
		n.current = nil
	}
	n.mu.Unlock()
	if gone {
		n.config.Log.Info("node was deleted; registering it again", "node", n.config.Name)
		n.Wake()
	}
}

// newer tells whether b was written after a. Versions that cannot be compared count as newer.
func newer(a, b *corev1.Node) bool {
	if a == nil || a.UID != b.UID {
		return true
	}
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err != nil || order < 0
}

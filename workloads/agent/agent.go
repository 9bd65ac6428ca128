// Package agent is the node agent: pods bound to this machine become containers on it.
//
// In:       the shared cache, the node's identity, containerd (workloads/agent/runtime), and from the appliance:
//
//	volumes and a prober.
//
// Out:      running pods and their status; for the node's HTTPS server, pods, places of containers, and streams.
// Promise:  knarr may stop, crash or be replaced at any time without a container noticing.
// Not here: node status and lease (workloads/agent/node), the HTTPS server (workloads/agent/nodeapi), probes
//
//	(workloads/agent/probe), how each is done (the packages below this one).
package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	nodev1client "k8s.io/client-go/kubernetes/typed/node/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/credentials"
	"knarr.dev/knarr/workloads/agent/exclusive"
	"knarr.dev/knarr/workloads/agent/garbage"
	"knarr.dev/knarr/workloads/agent/pod"
	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/runtime"
	"knarr.dev/knarr/workloads/agent/settings"
	"knarr.dev/knarr/workloads/agent/static"
	"knarr.dev/knarr/workloads/agent/topology"
	"knarr.dev/knarr/workloads/agent/translate"
)

// Config of the agent.
type Config struct {
	NodeName      string
	NodeIPs       []string // the first is the one other machines reach
	ClusterDNS    []string
	ClusterDomain string
	CgroupRoot    string
	Paths         config.Paths
	Settings      settings.Settings
	ResolvConf    string // the machine's resolver configuration; "" means /etc/resolv.conf

	Runtime   *runtime.Runtime
	Cache     pod.Source                   // pods, services
	Client    corev1client.CoreV1Interface // with the node's identity
	Classes   nodev1client.RuntimeClassesGetter
	Gauge     *pressure.Gauge // of this machine; the node's status shows the same one
	Stopping  func() bool     // the machine is going down; nil: never
	Pressed   func()          // the node has other conditions now
	Volumes   pod.Volumes
	Prober    pod.Prober
	Equipment []pod.Equipment        // what gives containers devices
	Devices   exclusive.Devices      // those of them whose NUMA nodes matter; nil: none
	Logins    *credentials.Providers // for images; nil: none but those of pull secrets
	Pulls     int                    // images fetched at a time; 0: the usual
	// CompletePod gives a pod from a file what the API server gives one that says nothing about it, and says what is wrong
	// with it.
	CompletePod func(*corev1.Pod) error
	Events      record.EventRecorder
	Clock       clock.PassiveClock // the time of day
	Log         *slog.Logger
}

// Validate says what is missing.
func (c *Config) Validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("the agent needs %s", what))
		}
	}
	need(c.NodeName != "", "a node name")
	need(len(c.NodeIPs) > 0, "a node address")
	need(c.Runtime != nil, "a runtime")
	need(c.Cache != nil, "a cache")
	need(c.Client != nil && c.Classes != nil, "an API client")
	need(c.Gauge != nil && c.Pressed != nil, "a gauge of pressure and somebody to tell of it")
	need(c.Volumes != nil, "volumes")
	need(c.Prober != nil, "a prober")
	need(c.Events != nil, "a recorder of events")
	need(c.Clock != nil, "a clock")
	need(c.Settings.StaticPods == "" || c.CompletePod != nil, "somebody to complete static pods")
	return errors.Join(errs...)
}

// Agent is the component.
type Agent struct {
	conf    Config
	pods    *pod.Manager
	own     *exclusive.Manager // nil: all containers share all CPUs
	keeper  *pressure.Keeper
	garbage *garbage.Collector
}

// New makes an agent that Run will start, once the runtime is ready.
func New(conf Config) (*Agent, error) {
	if err := conf.Validate(); err != nil {
		return nil, err
	}
	if conf.Log == nil {
		conf.Log = slog.Default()
	}
	if conf.ResolvConf == "" {
		conf.ResolvConf = "/etc/resolv.conf"
	}
	node, err := describe(conf)
	if err != nil {
		return nil, err
	}
	groups := cgroup.New(conf.CgroupRoot).BoundPids(conf.Settings.PodPids)
	node.Unified, node.PageSizes = groups.Unified(), groups.PageSizes()
	node.Swap.Bounded, node.Swap.Limited = groups.BoundsSwap(), conf.Settings.LimitedSwap
	a := &Agent{conf: conf}
	pods := pod.Config{
		Node:      node,
		Dir:       conf.Paths.Agent(),
		Runtime:   conf.Runtime,
		Cgroups:   groups,
		Volumes:   conf.Volumes,
		Prober:    conf.Prober,
		Providers: conf.Logins,
		Equipment: conf.Equipment,
		Pulls:     conf.Pulls,
		LogSize:   conf.Settings.LogSize,
		LogFiles:  conf.Settings.LogFiles,
		MaxDelay:  conf.Settings.MaxDelay,
		Objects:   objects{reader: conf.Cache, client: conf.Client, classes: conf.Classes},
		Client:    conf.Client,
		Cache:     conf.Cache,
		Stopping:  conf.Stopping,
		Pods:      cgroup.Sharing(capacity(node), conf.Settings.Reserved),
		Able:      pod.Able{UnsafeSysctls: conf.Settings.UnsafeSysctls, AppArmor: hasAppArmor()},
		Pressure:  conf.Gauge.Conditions,
		Recorder:  conf.Events,
		Clock:     conf.Clock,
		Log:       conf.Log,
	}
	if conf.Settings.Exclusive.On() {
		if a.own, err = a.exclusive(node); err != nil {
			return nil, err
		}
		groups.OwnCPUs(a.own.HasCPUs)
		pods.Places = a.own
		pods.Equipment = append([]pod.Equipment{a.own}, conf.Equipment...) // it chooses for those that come after it
	}
	if conf.Settings.StaticPods != "" {
		pods.Static = static.New(static.Config{
			Dir: conf.Settings.StaticPods, NodeName: conf.NodeName, Complete: conf.CompletePod, Events: conf.Events, Log: conf.Log,
		})
	}
	a.pods = pod.NewManager(pods)
	a.garbage = garbage.New(garbage.Config{
		NodeName: conf.NodeName, Runtime: conf.Runtime, Bounds: conf.Settings.Images, Pods: a.pods.Pods, Sweep: a.pods.Sweep, Events: conf.Events, Log: conf.Log,
		Room: func() (total, available uint64) {
			room := conf.Gauge.Read().Images.Bytes
			return room.Total, room.Available
		},
	})
	a.keeper = pressure.NewKeeper(pressure.Config{
		NodeName: conf.NodeName, Gauge: conf.Gauge, Pods: a.pods, Garbage: a.garbage, Changed: conf.Pressed, Events: conf.Events, Log: conf.Log,
		Meter: pressure.Meter{Groups: groups, Runtime: conf.Runtime, LogRoot: conf.Paths.PodLogs()},
	})
	return a, nil
}

// exclusive is who gives containers CPUs and memory of their own.
func (a *Agent) exclusive(node translate.Node) (*exclusive.Manager, error) {
	machine, err := topology.Read("/sys", "/proc")
	if err != nil {
		return nil, err
	}
	reserved := corev1.ResourceList{corev1.ResourceCPU: a.conf.Settings.Reserved[corev1.ResourceCPU]}
	kept := capacity(node)[corev1.ResourceMemory]
	kept.Sub(node.Allocatable[corev1.ResourceMemory])
	reserved[corev1.ResourceMemory] = kept
	return exclusive.New(exclusive.Config{
		Policy: a.conf.Settings.Exclusive, Machine: machine, Reserved: reserved, State: filepath.Join(a.conf.Paths.Agent(), "exclusive.json"),
		Devices: a.conf.Devices, Changed: func() { a.pods.Replace() }, Log: a.conf.Log,
	})
}

// describe collects what pods learn about this machine.
func describe(conf Config) (translate.Node, error) {
	node := translate.Node{
		Name: conf.NodeName, IPs: conf.NodeIPs, ClusterDNS: conf.ClusterDNS, ClusterDomain: conf.ClusterDomain,
		LogRoot:     conf.Paths.PodLogs(),
		SeccompRoot: conf.Paths.Agent() + "/seccomp",
	}
	var err error
	if node.Hostname, err = os.Hostname(); err != nil {
		return node, fmt.Errorf("ask for the machine's hostname: %w", err)
	}
	if f, err := os.Open(conf.ResolvConf); err == nil {
		node.DNS, err = translate.ParseResolvConf(f)
		if err := errors.Join(err, f.Close()); err != nil {
			return node, fmt.Errorf("read %s: %w", conf.ResolvConf, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return node, fmt.Errorf("open %s: %w", conf.ResolvConf, err)
	}
	if node.MemoryBytes, node.Swap.Bytes, err = machineMemory(); err != nil {
		return node, err
	}
	if node.CPUs, err = topology.Online("/sys"); err != nil {
		return node, err
	}
	node.Allocatable = conf.Settings.Allocatable(capacity(node))
	return node, nil
}

func capacity(node translate.Node) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewQuantity(int64(node.CPUs), resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(node.MemoryBytes, resource.BinarySI),
	}
}

// hasAppArmor: does this machine's kernel confine by AppArmor?
func hasAppArmor() bool {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(enabled), "Y")
}

// machineMemory is the memory and the swap there are, in bytes.
func machineMemory() (memory, swap int64, err error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("ask for the machine's memory: %w", err)
	}
	defer f.Close()
	wanted := map[string]*int64{"MemTotal:": &memory, "SwapTotal:": &swap}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || wanted[fields[0]] == nil {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("ask for the machine's memory: %w", err)
		}
		*wanted[fields[0]] = kib << 10
	}
	if memory == 0 {
		return 0, 0, errors.New("ask for the machine's memory: /proc/meminfo does not say")
	}
	return memory, swap, nil
}

// Name is the component's name.
func (a *Agent) Name() string { return "agent" }

// Run runs the node's pods until ctx ends, and then leaves them running.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return a.pods.Run(ctx, func() {
			group.Go(func() error { return a.keeper.Run(ctx, func() {}) })
			group.Go(func() error { return a.garbage.Run(ctx, func() {}) })
			ready()
		})
	})
	return group.Wait()
}

// Manager is who has this node's pods, for those who end them.
func (a *Agent) Manager() *pod.Manager { return a.pods }

// Exclusive is who knows what containers have to themselves; nil where they share everything.
func (a *Agent) Exclusive() *exclusive.Manager { return a.own }

// Pods are this node's pods with their newest status. They must not be modified.
func (a *Agent) Pods() []*corev1.Pod { return a.pods.Pods() }

// VolumePaths are where a pod's volumes lie, by their names, once they are mounted.
func (a *Agent) VolumePaths(uid types.UID) map[string]string { return a.pods.VolumePaths(uid) }

// Find looks up a container of a pod of this node; see pod.Manager.Find. Errors wrap pod.ErrNotFound.
func (a *Agent) Find(namespace, name string, uid types.UID, container string, previous bool) (pod.Place, error) {
	return a.pods.Find(namespace, name, uid, container, previous)
}

// Exec, Attach and PortForward prepare a stream and return the URL, on this machine's loopback, that serves it once.
// It speaks the protocols kubectl does (WebSocket and SPDY); the caller's HTTP request is forwarded to it.
func (a *Agent) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (string, error) {
	answer, err := a.conf.Runtime.Exec(ctx, q)
	return answer.GetUrl(), err
}

func (a *Agent) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (string, error) {
	answer, err := a.conf.Runtime.Attach(ctx, q)
	return answer.GetUrl(), err
}

func (a *Agent) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (string, error) {
	answer, err := a.conf.Runtime.PortForward(ctx, q)
	return answer.GetUrl(), err
}

// objects reads services from the shared cache and the rest from the API: a node may read the configuration of its own
// pods one by one, not list it, and a container starts seldom.
type objects struct {
	reader  client.Reader
	client  corev1client.CoreV1Interface
	classes nodev1client.RuntimeClassesGetter
}

func (o objects) Services(ctx context.Context, namespace string) ([]corev1.Service, error) {
	list := &corev1.ServiceList{}
	if err := o.reader.List(ctx, list, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	if namespace == metav1.NamespaceDefault {
		return list.Items, nil
	}
	kubernetes := &corev1.Service{}
	err := o.reader.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}, kubernetes)
	if client.IgnoreNotFound(err) != nil {
		return nil, err
	}
	if err == nil {
		list.Items = append(list.Items, *kubernetes)
	}
	return list.Items, nil
}

func (o objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return o.client.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.client.Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o objects) RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	return o.classes.RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
}

package machine

import (
	"cmp"
	"context"
	"crypto/ecdh"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	registerv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/announce"
	"knarr.dev/knarr/netstack/cni"
	"knarr.dev/knarr/netstack/dns"
	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/firewall"
	"knarr.dev/knarr/netstack/healthcheck"
	"knarr.dev/knarr/netstack/heartbeat"
	"knarr.dev/knarr/netstack/listeners"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/netstack/podnet"
	"knarr.dev/knarr/netstack/policy"
	"knarr.dev/knarr/netstack/proxy"
	"knarr.dev/knarr/storage/localpath"
	"knarr.dev/knarr/storage/volume"
	"knarr.dev/knarr/workloads/agent"
	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/claims"
	"knarr.dev/knarr/workloads/agent/credentials"
	"knarr.dev/knarr/workloads/agent/devices"
	"knarr.dev/knarr/workloads/agent/node"
	"knarr.dev/knarr/workloads/agent/nodeapi"
	"knarr.dev/knarr/workloads/agent/plugins"
	"knarr.dev/knarr/workloads/agent/pod"
	"knarr.dev/knarr/workloads/agent/podresources"
	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/probe"
	"knarr.dev/knarr/workloads/agent/registries"
	"knarr.dev/knarr/workloads/agent/runtime"
	"knarr.dev/knarr/workloads/agent/settings"
	"knarr.dev/knarr/workloads/agent/shutdown"
)

// nodeInput is what a node is made from, on servers and agents alike.
type nodeInput struct {
	ranges     ranges
	cache      cache.Cache
	everyone   policy.Everyone // the pods of all nodes, where cache does not have them
	api        *rest.Config    // with the node's own identity
	privileged *rest.Config    // on servers: may give the node its role, and be asked how the API server is

	clientCA, servingCert, servingKey string // files
}

// nodeParts are the components of a node: the runtime can start before there is an API server.
type nodeParts struct {
	runtime Component
	rest    []Component
}

func (b *builder) node(ctx context.Context, in nodeInput) (*nodeParts, error) {
	client, err := kubernetes.NewForConfig(in.api)
	if err != nil {
		return nil, err
	}
	from, err := registries.Read(b.cfg.Registries)
	if err != nil {
		return nil, err
	}
	containers, err := b.runtime(from)
	if err != nil {
		return nil, err
	}
	told := newEvents(client, b.cfg.NodeName)
	gauge := pressure.NewGauge(b.cfg.DataDir, containers.ImageFolder, b.tuned.Eviction)
	down := &shutdown.Notice{}
	var self *node.Node
	more, err := b.extensions(client, func() *node.Node { return self })
	if err != nil {
		return nil, err
	}
	if self, err = b.self(ctx, in, client, containers, told, gauge, down, more); err != nil {
		return nil, err
	}
	pods, err := b.pods(in, client, containers, told, self, gauge, down, more)
	if err != nil {
		return nil, err
	}
	network, err := b.network(in, client)
	if err != nil {
		return nil, err
	}
	return &nodeParts{runtime: containers, rest: slices.Concat([]Component{told}, network, pods, []Component{self})}, nil
}

// runtime is what runs containers here.
func (b *builder) runtime(from *registries.Registries) (*runtime.Runtime, error) {
	conf := runtime.Config{Paths: b.cfg.Paths(), HelperDir: b.helpers, Registries: from, Log: b.log}
	conf.CNIConfigDir, conf.CNIBinDir = b.cfg.CNIDirs(b.endpoint)
	if b.endpoint != "" {
		var err error
		if conf.Socket, err = config.Socket(b.endpoint); err != nil {
			return nil, err
		}
	}
	return runtime.New(conf)
}

// pods are what turns pods into containers and shows them to the API server.
func (b *builder) pods(in nodeInput, client kubernetes.Interface, containers *runtime.Runtime, told *events, self *node.Node, gauge *pressure.Gauge, down *shutdown.Notice, more *extensions) ([]Component, error) {
	paths := b.cfg.Paths()
	var logins *credentials.Providers
	if b.cfg.CredentialProviders != "" {
		var err error
		if logins, err = credentials.Load(b.cfg.CredentialProviders, b.cfg.CredentialProvidersDir, client.CoreV1(), b.log); err != nil {
			return nil, err
		}
	}
	prober := probe.New(probe.Config{Runtime: containers, Events: told.recorder, Log: b.log})
	pods, err := agent.New(agent.Config{
		NodeName: b.cfg.NodeName, NodeIPs: texts(in.ranges.nodes),
		ClusterDNS: []string{in.ranges.dns.String()}, ClusterDomain: b.cfg.ClusterDomain,
		CgroupRoot: b.cfg.CgroupRoot, Paths: paths, Settings: b.tuned,
		Runtime: containers, Cache: in.cache, Client: client.CoreV1(), Classes: client.NodeV1(), Gauge: gauge, Pressed: self.Wake, Stopping: down.Underway, Volumes: more.volumes, Equipment: []pod.Equipment{more.devices, more.claims}, Devices: more.devices, CompletePod: completeStatic,
		Logins: logins, Pulls: b.cfg.ParallelImagePulls,
		Prober: prober, Events: told.recorder, Clock: b.steady, Log: b.log,
	})
	if err != nil {
		return nil, err
	}
	shown := prometheus.Gatherers{nodeMetrics}
	if own := pods.Exclusive(); own != nil {
		shown = append(shown, own.Metrics())
	}
	server, err := nodeapi.New(nodeapi.Config{
		NodeName: b.cfg.NodeName, DataDir: b.cfg.DataDir,
		VolumeRoots: []string{filepath.Join(paths.Agent(), "pods"), paths.Volumes()}, LogRoot: paths.PodLogs(), Drivers: more.volumes.Drivers(),
		CertFile: in.servingCert, KeyFile: in.servingKey, ClientCAFile: in.clientCA,
		Client: client, Agent: pods, Runtime: containers, Groups: cgroup.New(b.cfg.CgroupRoot), Volumes: localpath.Folders{Root: paths.Volumes()}, Metrics: shown, Probes: prober.Metrics(),
		Checkpoints: filepath.Join(paths.Agent(), "checkpoints"), Log: b.log,
		Settings: b.tuned.InForce(settings.Place{
			ClusterDNS: []string{in.ranges.dns.String()}, ClusterDomain: b.cfg.ClusterDomain, CgroupRoot: b.cfg.CgroupRoot,
			Endpoint: cmp.Or(b.endpoint, "unix://"+paths.ContainerdSocket()), ClientCA: in.clientCA, Certificate: in.servingCert, Key: in.servingKey,
			Pulls: b.cfg.ParallelImagePulls, Resolv: "/etc/resolv.conf",
		}),
	})
	if err != nil {
		return nil, err
	}
	given := podresources.Config{Dir: filepath.Join(paths.Agent(), podresources.Folder), Pods: pods.Pods, Devices: more.devices, Claims: more.claims, Log: b.log}
	if own := pods.Exclusive(); own != nil {
		given.Exclusive = own
	}
	parts := []Component{more.volumes, more.devices, more.plugins, pods, server, podresources.New(given)}
	if len(b.tuned.Shutdown) > 0 {
		parts = append(parts, shutdown.New(shutdown.Config{Steps: b.tuned.Shutdown, Notice: down, Pods: pods.Manager(), Changed: self.Wake, Log: b.log}))
	}
	return parts, nil
}

// extensions are what other people's programs do on this machine: storage and devices.
type extensions struct {
	volumes *volume.Manager
	devices *devices.Manager
	claims  *claims.Manager
	plugins *plugins.Watcher
}

// extensions are made before the node that shows them; self is asked once they run.
func (b *builder) extensions(client kubernetes.Interface, self func() *node.Node) (*extensions, error) {
	folder := b.cfg.Paths().Agent()
	told, err := plugins.Prepare(b.cfg.KubeletDir, folder)
	if err != nil {
		b.log.Warn("plugins whose manifests name another folder will not find this node", "error", err)
	}
	changed := func() { self().Wake() }
	e := &extensions{volumes: volume.New(volume.Config{
		Root: filepath.Join(folder, "pods"), Told: told, NodeName: b.cfg.NodeName, Client: client,
		Allocatable: func() corev1.ResourceList { return self().Allocatable() }, Changed: changed, Log: b.log,
	})}
	e.devices, err = devices.New(devices.Config{
		Dir: filepath.Join(folder, devices.Folder), State: filepath.Join(folder, "devices.json"), Changed: changed, Log: b.log,
	})
	if err != nil {
		return nil, err
	}
	e.claims, err = claims.New(claims.Config{NodeName: b.cfg.NodeName, State: filepath.Join(folder, "claims.json"), Client: client, Log: b.log})
	if err != nil {
		return nil, err
	}
	e.plugins = plugins.New(filepath.Join(folder, plugins.Folder), map[string]plugins.Handler{
		registerv1.CSIPlugin: e.volumes.Drivers(), registerv1.DevicePlugin: e.devices, registerv1.DRAPlugin: e.claims,
	}, b.log)
	return e, nil
}

// self is the Node object of this machine; it is ready when the node is.
func (b *builder) self(ctx context.Context, in nodeInput, client kubernetes.Interface, containers *runtime.Runtime, told *events, gauge *pressure.Gauge, down *shutdown.Notice, more *extensions) (*node.Node, error) {
	nodes, err := in.cache.GetInformer(ctx, &corev1.Node{}, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	conf := node.Config{
		Name: b.cfg.NodeName, Version: b.version, Port: kubeletPort, DataDir: b.cfg.DataDir,
		Addresses: func() []netip.Addr { return in.ranges.nodes },
		Settings:  b.tuned,
		Stopping:  down.Underway,
		Pressure:  gauge.Conditions,
		InUse:     more.volumes.Drivers().InUse,
		Devices:   more.devices.Resources,
		External:  b.cfg.CloudProvider == config.External,
		Client:    client, Nodes: nodes, Runtime: containers, Events: told.recorder, Log: b.log,
	}
	if in.privileged != nil {
		if conf.Privileged, err = kubernetes.NewForConfig(in.privileged); err != nil {
			return nil, err
		}
		conf.RoleLabels = map[string]string{"node-role.kubernetes.io/control-plane": ""}
	}
	return node.New(conf)
}

// links are what connects pods, and keeps apart those that must not meet.
func (b *builder) links(in nodeInput, client kubernetes.Interface) ([]Component, error) {
	paths := b.cfg.Paths()
	configDir, clientDir := b.cfg.CNIDirs(b.endpoint)
	log := b.log.With("component", "podnet")
	if b.cfg.PodNetwork == config.NoNetwork {
		return []Component{podnet.Elsewhere{ConfigDir: configDir, DNS: in.ranges.dns, Log: log}}, nil
	}
	rules, err := policy.New(policy.Config{
		Paths: paths, Node: b.cfg.NodeName, PodRanges: in.ranges.pods, DNS: in.ranges.dns, IPTables: b.ipTables, Log: b.log,
	}, in.cache, in.everyone)
	if err != nil {
		return nil, err
	}
	pods, err := podnet.New(podnet.Config{
		Paths: paths, NodeName: b.cfg.NodeName, NodeIPs: in.ranges.nodes, ClusterRanges: in.ranges.pods,
		ClusterDNS: in.ranges.dns, Overhead: overlay.Overhead(b.cfg.Overlay, in.ranges.nodes[0]), Policy: rules, IPTables: b.ipTables,
		ConfigDir: configDir, ClientDir: clientDir, Client: b.helper(cni.PluginType),
	}, in.cache, log)
	if err != nil {
		return nil, err
	}
	return []Component{
		rules,
		pods,
		firewall.New(b.log),
		overlay.New(overlay.Config{
			Paths: paths, NodeName: b.cfg.NodeName, Mode: b.cfg.Overlay, Pods: in.ranges.pods,
			Publish: annotate(client, b.cfg.NodeName), Log: b.log.With("component", "overlay"),
		}, in.cache),
	}, nil
}

// helper is where one of the programs lies that have to be processes of their own.
func (b *builder) helper(name string) string {
	if b.helpers == "" {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return filepath.Join(b.helpers, name)
}

// network is what lets pods, services and names be reached from this machine.
func (b *builder) network(in nodeInput, client kubernetes.Interface) ([]Component, error) {
	parts, err := b.links(in, client)
	if err != nil {
		return nil, err
	}
	privileged := client
	if in.privileged != nil { // a server's node is there before the roles of nodes are written
		if privileged, err = kubernetes.NewForConfig(in.privileged); err != nil {
			return nil, err
		}
	}
	view := endpoints.New(in.cache)
	b.names = dns.New(dns.Config{
		Address: in.ranges.dns, Domain: b.cfg.ClusterDomain, Inherited: inherit(),
		Ranges: slices.Concat(in.ranges.pods, in.ranges.services), Log: b.log,
	}, view)
	api := map[netip.AddrPort]netip.AddrPort{}
	for _, ip := range in.ranges.nodes {
		if port := uint16(b.cfg.HTTPSPort); in.ranges.virtual.IsValid() && ip.Is4() == in.ranges.virtual.Is4() {
			api[netip.AddrPortFrom(in.ranges.virtual, port)] = netip.AddrPortFrom(ip, port)
		}
	}
	parts = append(parts,
		view,
		proxy.New(proxy.Config{
			Node: b.cfg.NodeName, Nodes: in.cache, PodRanges: in.ranges.pods, ServiceRanges: in.ranges.services,
			Reserved: []netip.Addr{in.ranges.dns}, Own: api, IPTables: b.ipTables, Log: b.log,
		}, view),
		healthcheck.New(b.cfg.NodeName, view, b.log),
		b.names,
		dnsSettings{privileged, b.names.Follow},
	)
	if b.cfg.LoadBalancerAddresses == config.OwnAddresses {
		parts = append(parts, listeners.New(listeners.Config{
			Node: b.cfg.NodeName, NodeIPs: in.ranges.nodes, Nodes: in.cache, Annotate: annotate(client, b.cfg.NodeName), Log: b.log,
		}, view))
	}
	if b.cfg.CloudProvider == config.External && !in.ranges.virtual.IsValid() { // a cloud's load balancers have their addresses themselves
		return parts, nil
	}
	announcer := announce.New(announce.Config{
		Node: b.cfg.NodeName, NodeIPs: in.ranges.nodes, Nodes: in.cache, API: in.ranges.virtual, Foreign: b.cfg.CloudProvider == config.External,
		Key: func() (*ecdh.PrivateKey, error) {
			return heartbeat.LoadKey(filepath.Join(b.cfg.Paths().Network(), "heartbeat.key"))
		},
		Introduce: annotate(client, b.cfg.NodeName), Log: b.log,
	}, view)
	parts = append(parts, announcer)
	if in.ranges.virtual.IsValid() {
		parts = append(parts, apiHealth{privileged, announcer.Serve})
	}
	return parts, nil
}

// annotate says something of this node on its object; "" is nothing.
func annotate(client kubernetes.Interface, node string) func(ctx context.Context, annotation, value string) error {
	return func(ctx context.Context, annotation, value string) error {
		var said any
		if value != "" {
			said = value
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotation: said}}})
		if err != nil {
			return fmt.Errorf("write annotation %s: %w", annotation, err)
		}
		if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return fmt.Errorf("annotate node %s: %w", node, err)
		}
		return nil
	}
}

func texts(addresses []netip.Addr) []string {
	all := make([]string, len(addresses))
	for i, ip := range addresses {
		all[i] = ip.String()
	}
	return all
}

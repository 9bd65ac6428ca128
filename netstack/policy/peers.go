package policy

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"golang.org/x/sys/unix"
)

// peers is what is known of the cluster's pods and namespaces while there are policies.
type peers struct {
	stops []func()

	mu         sync.Mutex
	pods       map[types.NamespacedName]neighbour
	namespaces map[string]labels.Set
	own        map[types.NamespacedName]Pod // as last seen, to notice changes
}

// neighbour is a pod and where it runs.
type neighbour struct {
	Pod
	node string
}

func (p *peers) stop() {
	if p == nil {
		return
	}
	for _, stop := range p.stops {
		stop()
	}
}

// followPeers begins with the first policy and ends with the last.
func (p *Policy) followPeers(ctx context.Context, wait bool) error {
	p.mu.Lock()
	wanted := len(p.policies) > 0
	p.mu.Unlock()
	if !wanted {
		p.peers.stop()
		p.peers = nil
		return nil
	}
	if p.peers != nil {
		return nil
	}
	peers := &peers{pods: map[types.NamespacedName]neighbour{}, namespaces: map[string]labels.Set{}, own: map[types.NamespacedName]Pod{}}
	synced, err := p.startPeers(ctx, peers)
	if err != nil {
		peers.stop()
		return err
	}
	if wait {
		for _, done := range synced {
			select {
			case <-done:
			case <-ctx.Done():
				peers.stop()
				return ctx.Err()
			}
		}
	}
	p.peers = peers
	return nil
}

func (p *Policy) startPeers(ctx context.Context, peers *peers) (synced []<-chan struct{}, err error) {
	var source informers = p.own
	if p.everyone != nil {
		source = p.everyone
		for _, kind := range []client.Object{&corev1.Pod{}, &corev1.Namespace{}} {
			// Stopped last: nobody else reads them.
			peers.stops = append(peers.stops, func() { _ = p.everyone.RemoveInformer(context.WithoutCancel(ctx), kind) })
		}
	}
	follow := func(stop func(), done <-chan struct{}, failed error) {
		if failed != nil {
			err = cmp.Or(err, failed)
			return
		}
		peers.stops = slices.Insert(peers.stops, 0, stop)
		synced = append(synced, done)
	}
	follow(followKind(ctx, source, &corev1.Pod{}, onChange(p, peers.setPod), onChange(p, peers.dropPod)))
	follow(followKind(ctx, source, &corev1.Namespace{}, onChange(p, peers.setNamespace), onChange(p, peers.dropNamespace)))
	// Of the pods here, what counts is what the agent knows: it makes them from the same cache.
	follow(followKind(ctx, p.own, &corev1.Pod{}, onChange(p, func(pod *corev1.Pod) bool {
		return pod.Spec.NodeName == p.cfg.Node && peers.setOwn(pod)
	}), peers.dropOwn))
	return synced, err
}

// observe is the cluster as it is known now.
func (p *Policy) observe(ctx context.Context) (Cluster, error) {
	p.mu.Lock()
	c := Cluster{Local: make(map[netip.Addr]*Pod, len(p.assigned))}
	for _, policy := range p.policies {
		c.Policies = append(c.Policies, policy)
	}
	assigned := make(map[netip.Addr]types.NamespacedName, len(p.assigned))
	for address, key := range p.assigned {
		assigned[address] = key
	}
	p.mu.Unlock()
	if p.peers == nil {
		return Cluster{}, nil
	}
	c.Namespaces, c.Pods = p.peers.snapshot(p.cfg.Node)
	if p.cfg.DNS.IsValid() {
		c.Pods = append(c.Pods, nameServer(p.cfg.DNS))
	}
	for address, key := range assigned {
		var object corev1.Pod
		err := p.own.Get(ctx, key, &object, &client.GetOptions{UnsafeDisableDeepCopy: ptr.To(true)})
		if apierrors.IsNotFound(err) {
			c.Local[address] = nil
			continue
		}
		if err != nil {
			return Cluster{}, fmt.Errorf("observe pod %s: %w", key, err)
		}
		pod := describe(&object)
		pod.Addresses = []netip.Addr{address}
		c.Local[address] = &pod
		c.Pods = append(c.Pods, pod)
	}
	return c, nil
}

// nameServer is this cluster's DNS, which no pod serves, as policies know it.
func nameServer(address netip.Addr) Pod {
	return Pod{
		NamespacedName: types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: "kube-dns"},
		Labels:         labels.Set{"k8s-app": "kube-dns"}, Addresses: []netip.Addr{address},
		Ports: []NamedPort{{"dns", unix.IPPROTO_UDP, 53}, {"dns-tcp", unix.IPPROTO_TCP, 53}},
	}
}

// snapshot leaves out the pods of one node.
func (p *peers) snapshot(without string) (map[string]labels.Set, []Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	namespaces := make(map[string]labels.Set, len(p.namespaces))
	for name, set := range p.namespaces {
		namespaces[name] = set
	}
	pods := make([]Pod, 0, len(p.pods))
	for _, pod := range p.pods {
		if pod.node != without {
			pods = append(pods, pod.Pod)
		}
	}
	return namespaces, pods
}

// describe takes what rules need.
func describe(pod *corev1.Pod) Pod {
	d := Pod{NamespacedName: client.ObjectKeyFromObject(pod), Labels: pod.Labels}
	for _, ip := range pod.Status.PodIPs {
		if address, err := netip.ParseAddr(ip.IP); err == nil {
			d.Addresses = append(d.Addresses, address)
		}
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for _, port := range containers[i].Ports {
				if port.Name != "" {
					d.Ports = append(d.Ports, NamedPort{port.Name, protocolNumber(port.Protocol), uint16(port.ContainerPort)})
				}
			}
		}
	}
	return d
}

// Strip leaves of a cached pod what rules are made from: a cache for policies alone need not hold more.
func Strip(object any) (any, error) {
	pod, isPod := object.(*corev1.Pod)
	if !isPod {
		return object, nil
	}
	small := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion, Labels: pod.Labels},
		Spec:       corev1.PodSpec{NodeName: pod.Spec.NodeName, HostNetwork: pod.Spec.HostNetwork},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase, PodIPs: pod.Status.PodIPs},
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			small.Spec.Containers = append(small.Spec.Containers, corev1.Container{Ports: containers[i].Ports})
		}
	}
	return small, nil
}

// setPod says whether anything changed that rules could follow from. A pod that has ended keeps its address in the API
// when another one has it already; one on its node's network has no address of its own.
func (p *peers) setPod(pod *corev1.Pod) bool {
	if pod.Spec.HostNetwork || len(pod.Status.PodIPs) == 0 || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return p.dropPod(pod)
	}
	now := neighbour{describe(pod), pod.Spec.NodeName}
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, there := p.pods[now.NamespacedName]; there && reflect.DeepEqual(before, now) {
		return false
	}
	p.pods[now.NamespacedName] = now
	return true
}

func (p *peers) dropPod(pod *corev1.Pod) bool {
	key := client.ObjectKeyFromObject(pod)
	p.mu.Lock()
	defer p.mu.Unlock()
	_, there := p.pods[key]
	delete(p.pods, key)
	return there
}

// setOwn says whether a pod of this node is not as it was last seen. Its address is podnet's to tell.
func (p *peers) setOwn(pod *corev1.Pod) bool {
	now := describe(pod)
	now.Addresses = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, there := p.own[now.NamespacedName]; there && reflect.DeepEqual(before, now) {
		return false
	}
	p.own[now.NamespacedName] = now
	return true
}

func (p *peers) dropOwn(pod *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.own, client.ObjectKeyFromObject(pod))
}

func (p *peers) setNamespace(namespace *corev1.Namespace) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if before, there := p.namespaces[namespace.Name]; there && reflect.DeepEqual(before, labels.Set(namespace.Labels)) {
		return false
	}
	p.namespaces[namespace.Name] = namespace.Labels
	return true
}

func (p *peers) dropNamespace(namespace *corev1.Namespace) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.namespaces, namespace.Name)
	return true
}

// onChange wakes when apply says that something changed.
func onChange[T any](p *Policy, apply func(T) bool) func(T) {
	return func(object T) {
		if apply(object) {
			p.wakeUp()
		}
	}
}

// informers is where kinds are watched.
type informers interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// followKind calls set and drop for a kind's objects until stop; synced is closed when it has for all there were.
func followKind[T client.Object](ctx context.Context, from informers, kind T, set, drop func(T)) (stop func(), synced <-chan struct{}, err error) {
	informer, err := from.GetInformer(ctx, kind, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, nil, fmt.Errorf("watch %T: %w", kind, err)
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { set(object.(T)) },
		UpdateFunc: func(_, object any) { set(object.(T)) },
		DeleteFunc: func(object any) {
			if gone, ok := object.(toolscache.DeletedFinalStateUnknown); ok {
				object = gone.Obj
			}
			if last, ok := object.(T); ok {
				drop(last)
			}
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("follow %T: %w", kind, err)
	}
	return func() { _ = informer.RemoveEventHandler(registration) }, registration.HasSyncedChecker().Done(), nil
}

package podnet

import (
	"context"
	"errors"
	"net/netip"

	"knarr.dev/knarr/netstack/cni"
)

// Network is the cni.Handler. Requests take their turn: each is a few netlink calls, and the kernel serves those one
// after the other anyway.

// Add connects a pod. Asked again for the same container, it builds the link anew with the same address.
func (n *Network) Add(ctx context.Context, r cni.Request, conf cni.NetConf) (*cni.Result, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.available(); err != nil {
		return nil, err
	}
	lease, err := n.lease(r, conf)
	if err != nil {
		return nil, err
	}
	w := n.wire(lease)
	n.cfg.Policy.Assign(map[netip.Addr]string{lease.Address: lease.Pod})
	err = n.cfg.Policy.Enforce(ctx) // before the link: no packet comes before its rules
	if err == nil {
		err = connect(w)
	}
	if err == nil && len(lease.Ports) > 0 {
		err = n.openPorts(lease)
	}
	if err != nil {
		err = errors.Join(err, removeLink(w.host), n.leases.drop(lease))
		n.cfg.Policy.Release(lease.Address)
		return nil, err
	}
	return &cni.Result{
		Interfaces: []cni.Interface{
			{Name: w.host, Mac: hardware(w.gateway).String()},
			{Name: w.ifName, Mac: hardware(w.address).String(), Sandbox: w.netns},
		},
		IPs:    []cni.IP{{Address: netip.PrefixFrom(w.address, w.address.BitLen()).String(), Gateway: w.gateway.String(), Interface: 1}},
		Routes: []cni.Route{{Dst: "0.0.0.0/0", GW: w.gateway.String()}},
	}, nil
}

// lease finds or makes the lease of a request, and has it on disk.
func (n *Network) lease(r cni.Request, conf cni.NetConf) (Lease, error) {
	lease, found := n.leases.find(r.ContainerID, r.IfName)
	if !found || !n.podRange.Contains(lease.Address) {
		if found {
			if err := n.release([]Lease{lease}); err != nil {
				return Lease{}, err
			}
		}
		address, ok := next(n.podRange, n.leases.held, n.leases.cursor)
		if !ok {
			if err := n.release(leaked(n.leases.all(), alive)); err != nil {
				return Lease{}, err
			}
			if address, ok = next(n.podRange, n.leases.held, n.leases.cursor); !ok {
				return Lease{}, cni.Errorf(cni.CodeTryLater, "all addresses of %s are taken: this node has as many pods as its range holds", n.podRange)
			}
		}
		lease = Lease{Address: address, ContainerID: r.ContainerID, IfName: r.IfName}
	}
	lease.Netns, lease.Pod, lease.Ports = r.Netns, podName(r.Args), conf.RuntimeConfig.PortMappings
	if _, err := forwards(lease.Address, lease.Ports); err != nil {
		return Lease{}, err
	}
	return lease, n.leases.put(lease)
}

// openPorts brings the rules up to date after lease came or went.
func (n *Network) openPorts(lease Lease) error {
	all := hostPorts(n.leases.all())
	if err := writeHostPorts(all); err != nil {
		// Somebody took our table away: make it anew.
		if err := writeRules(n.podRange, n.cfg.ClusterRange, all); err != nil {
			return err
		}
	}
	changed, err := forwards(lease.Address, lease.Ports)
	if err != nil {
		return err
	}
	return forgetFlows(changed)
}

// Del takes a pod's link and address back; what is gone already is as good.
func (n *Network) Del(_ context.Context, r cni.Request, _ cni.NetConf) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := removeLink(hostLink(r.ContainerID, r.IfName)); err != nil {
		return err
	}
	lease, found := n.leases.find(r.ContainerID, r.IfName)
	if !found {
		return nil
	}
	if err := n.leases.drop(lease); err != nil {
		return err
	}
	n.cfg.Policy.Release(lease.Address)
	if len(lease.Ports) > 0 && n.podRange.IsValid() {
		return n.openPorts(lease)
	}
	return nil
}

// Check says whether a pod's network is still what Add made.
func (n *Network) Check(_ context.Context, r cni.Request, _ cni.NetConf) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	lease, found := n.leases.find(r.ContainerID, r.IfName)
	if !found {
		return cni.Errorf(cni.CodeUnknown, "container %s has no address here", r.ContainerID)
	}
	return connected(n.wire(lease))
}

// Status says whether Add can be served.
func (n *Network) Status(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.available() != nil {
		return cni.Errorf(cni.CodeNotAvailable, "node %s has no pod range yet", n.cfg.NodeName)
	}
	return nil
}

// GC takes back everything the runtime doesn't list.
func (n *Network) GC(_ context.Context, keep []cni.Attachment) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	gone := unlisted(n.leases.all(), keep)
	if err := n.release(gone); err != nil {
		return err
	}
	if len(gone) == 0 || !n.podRange.IsValid() {
		return nil
	}
	return writeRules(n.podRange, n.cfg.ClusterRange, hostPorts(n.leases.all()))
}

func (n *Network) available() error {
	if n.podRange.IsValid() {
		return nil
	}
	return cni.Errorf(cni.CodeTryLater, "node %s has no pod range yet: the controllers give it one when it has registered", n.cfg.NodeName)
}

func (n *Network) wire(lease Lease) wire {
	return wire{
		netns: lease.Netns, ifName: lease.IfName, host: hostLink(lease.ContainerID, lease.IfName),
		address: lease.Address, gateway: gateway(n.podRange), mtu: n.mtu,
	}
}

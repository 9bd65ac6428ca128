package podnet

import (
	"context"
	"errors"
	"net/netip"
	"slices"

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
	assigned := map[netip.Addr]string{}
	for _, address := range lease.addresses() {
		assigned[address] = lease.Pod
	}
	n.cfg.Policy.Assign(assigned)
	err = n.cfg.Policy.Enforce(ctx) // before the link: no packet comes before its rules
	if err == nil {
		err = connect(w)
	}
	if err == nil {
		err = restrict(w.host, lease.Bandwidth)
	}
	if err == nil && len(lease.Ports) > 0 {
		err = n.openPorts(lease)
	}
	if err != nil {
		err = errors.Join(err, removeLink(w.host), n.leases.drop(lease))
		n.forget(lease)
		return nil, err
	}
	return w.result(), nil
}

// lease finds or makes the lease of a request, and has it on disk.
func (n *Network) lease(r cni.Request, conf cni.NetConf) (Lease, error) {
	lease, found := n.leases.find(r.ContainerID, r.IfName)
	if !found || !lease.fits(n.ranges) {
		if found {
			if err := n.release([]Lease{lease}); err != nil {
				return Lease{}, err
			}
		}
		address, ok := next(n.ranges, n.leases.taken, n.leases.cursor)
		if !ok {
			if err := n.release(leaked(n.leases.all(), alive)); err != nil {
				return Lease{}, err
			}
			if address, ok = next(n.ranges, n.leases.taken, n.leases.cursor); !ok {
				return Lease{}, cni.Errorf(cni.CodeTryLater, "all addresses of %s are taken: this node has as many pods as its range holds", smallest(n.ranges))
			}
		}
		lease = Lease{Address: address, ContainerID: r.ContainerID, IfName: r.IfName}
		if len(n.ranges) > 1 {
			lease.Second = twin(address, n.ranges[0], n.ranges[1])
		}
	}
	lease.Netns, lease.Pod, lease.Ports, lease.Bandwidth = r.Netns, podName(r.Args), conf.RuntimeConfig.PortMappings, conf.RuntimeConfig.Bandwidth
	if _, err := lease.forwards(); err != nil {
		return Lease{}, err
	}
	return lease, n.leases.put(lease)
}

// smallest is the range with the fewest addresses.
func smallest(ranges []netip.Prefix) netip.Prefix {
	return slices.MinFunc(ranges, func(a, b netip.Prefix) int { return (a.Addr().BitLen() - a.Bits()) - (b.Addr().BitLen() - b.Bits()) })
}

// openPorts brings the rules up to date after lease came or went.
func (n *Network) openPorts(lease Lease) error {
	all := hostPorts(n.leases.all())
	if err := n.rules.writePorts(n.ranges, n.cfg.ClusterRanges, all); err != nil {
		// Somebody took our table away: make it anew.
		if err := n.rules.write(n.ranges, n.cfg.ClusterRanges, all); err != nil {
			return err
		}
	}
	changed, err := lease.forwards()
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
	n.forget(lease)
	if len(lease.Ports) > 0 && len(n.ranges) > 0 {
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
	if len(gone) == 0 || len(n.ranges) == 0 {
		return nil
	}
	return n.rules.write(n.ranges, n.cfg.ClusterRanges, hostPorts(n.leases.all()))
}

func (n *Network) available() error {
	if len(n.ranges) > 0 {
		return nil
	}
	return cni.Errorf(cni.CodeTryLater, "node %s has no pod range yet: the controllers give it one when it has registered", n.cfg.NodeName)
}

func (n *Network) wire(lease Lease) wire {
	w := wire{netns: lease.Netns, ifName: lease.IfName, host: hostLink(lease.ContainerID, lease.IfName), mtu: n.mtu}
	for _, address := range lease.addresses() {
		for _, r := range n.ranges {
			if r.Addr().Is4() == address.Is4() {
				w.ends = append(w.ends, end{address, gateway(r)})
			}
		}
	}
	return w
}

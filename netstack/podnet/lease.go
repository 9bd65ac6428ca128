package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/netstack/cni"
)

// Lease is one pod's address, and what has to be undone when the pod goes. It is one file, named after the address,
// so that neither a crash nor two requests at once can give an address twice.
type Lease struct {
	Address     netip.Addr `json:"address"`
	ContainerID string     `json:"containerID"`
	IfName      string     `json:"ifName"`
	Pod         string     `json:"pod,omitempty"` // namespace/name, for people
	Netns       string     `json:"netns"`
	// Ports the pod has on the node's own addresses.
	Ports []cni.PortMapping `json:"ports,omitempty"`
}

// leases is the set on disk, and its copy in memory.
type leases struct {
	dir    string
	held   map[netip.Addr]Lease
	cursor netip.Addr // given last: an address rests as long as possible before another pod gets it
}

// loadLeases reads what an earlier run gave. A file that cannot be read was cut short by a power cut, which took its
// pod with it: it is dropped. So is what a process left that was killed while it wrote.
func loadLeases(dir string) (*leases, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of address leases: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list address leases: %w", err)
	}
	l := &leases{dir: dir, held: map[netip.Addr]Lease{}}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read address lease: %w", err)
		}
		var lease Lease
		if json.Unmarshal(data, &lease) != nil || lease.Address.String() != entry.Name() {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove broken address lease: %w", err)
			}
			continue
		}
		l.held[lease.Address] = lease
		if !l.cursor.IsValid() || l.cursor.Less(lease.Address) {
			l.cursor = lease.Address
		}
	}
	return l, nil
}

// find is the lease of one interface of one container.
func (l *leases) find(containerID, ifName string) (Lease, bool) {
	for _, lease := range l.held {
		if lease.ContainerID == containerID && lease.IfName == ifName {
			return lease, true
		}
	}
	return Lease{}, false
}

// all leases in the order of their addresses.
func (l *leases) all() []Lease {
	all := make([]Lease, 0, len(l.held))
	for _, lease := range l.held {
		all = append(all, lease)
	}
	slices.SortFunc(all, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return all
}

// put writes the lease before anything is built on it.
func (l *leases) put(lease Lease) error {
	data, err := json.Marshal(lease)
	if err != nil {
		return fmt.Errorf("encode address lease: %w", err)
	}
	// Not synced: a lease must survive this process, not the kernel, whose end is also the pod's.
	if err := durable.Replace(filepath.Join(l.dir, lease.Address.String()), data, 0o600); err != nil {
		return fmt.Errorf("keep address lease: %w", err)
	}
	l.held[lease.Address] = lease
	l.cursor = lease.Address
	return nil
}

// drop releases the address.
func (l *leases) drop(lease Lease) error {
	err := os.Remove(filepath.Join(l.dir, lease.Address.String()))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove address lease: %w", err)
	}
	delete(l.held, lease.Address)
	return nil
}

// next is the first free address of the range after the one given last, going round. The network address belongs to
// the overlay, the first address is the gateway, the last one is the broadcast address.
func next(podRange netip.Prefix, held map[netip.Addr]Lease, after netip.Addr) (netip.Addr, bool) {
	first := gateway(podRange).Next()
	if !after.IsValid() || !podRange.Contains(after) || after.Less(first) {
		after = gateway(podRange)
	}
	usable := func(a netip.Addr) bool { return podRange.Contains(a) && podRange.Contains(a.Next()) }
	candidate := after.Next()
	for range len(held) + 2 { // one more than can be taken, and one for going round
		if !usable(candidate) {
			candidate = first
		}
		if !usable(candidate) {
			return netip.Addr{}, false
		}
		if _, taken := held[candidate]; !taken {
			return candidate, true
		}
		candidate = candidate.Next()
	}
	return netip.Addr{}, false
}

// gateway is the bridge's address: the first of the range.
func gateway(podRange netip.Prefix) netip.Addr { return podRange.Masked().Addr().Next() }

// leaked are the leases whose network namespace is gone: nobody will ask for their DEL any more.
func leaked(held []Lease, alive func(netns string) bool) []Lease {
	var gone []Lease
	for _, lease := range held {
		if !alive(lease.Netns) {
			gone = append(gone, lease)
		}
	}
	return gone
}

// unlisted are the leases that the runtime doesn't know any more.
func unlisted(held []Lease, keep []cni.Attachment) []Lease {
	var gone []Lease
	for _, lease := range held {
		if !slices.Contains(keep, cni.Attachment{ContainerID: lease.ContainerID, IfName: lease.IfName}) {
			gone = append(gone, lease)
		}
	}
	return gone
}

// podName reads namespace and name out of CNI_ARGS.
func podName(args string) string {
	var namespace, name string
	for pair := range strings.SplitSeq(args, ";") {
		switch key, value, _ := strings.Cut(pair, "="); key {
		case "K8S_POD_NAMESPACE":
			namespace = value
		case "K8S_POD_NAME":
			name = value
		}
	}
	if name == "" {
		return ""
	}
	return namespace + "/" + name
}

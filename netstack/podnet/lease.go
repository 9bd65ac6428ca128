package podnet

import (
	"encoding/binary"
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
// so that neither a crash nor two requests at once can give an address twice. Where there are two families the second
// address follows from the first: it is at the same place in its range.
type Lease struct {
	Address     netip.Addr `json:"address"`
	Second      netip.Addr `json:"second,omitzero"`
	ContainerID string     `json:"containerID"`
	IfName      string     `json:"ifName"`
	Pod         string     `json:"pod,omitempty"` // namespace/name, for people
	Netns       string     `json:"netns"`
	// Ports the pod has on the node's own addresses.
	Ports []cni.PortMapping `json:"ports,omitempty"`
	// Bandwidth the pod has, for people.
	Bandwidth cni.Bandwidth `json:"bandwidth,omitzero"`
}

// addresses of the pod, the first one first.
func (l Lease) addresses() []netip.Addr {
	if !l.Second.IsValid() {
		return []netip.Addr{l.Address}
	}
	return []netip.Addr{l.Address, l.Second}
}

// fits says whether a lease has an address in each of the node's ranges and no other.
func (l Lease) fits(ranges []netip.Prefix) bool {
	addresses := l.addresses()
	if len(addresses) != len(ranges) {
		return false
	}
	for i, r := range ranges {
		if !r.Contains(addresses[i]) {
			return false
		}
	}
	return true
}

// leases is the set on disk, and its copy in memory.
type leases struct {
	dir    string
	held   map[netip.Addr]Lease // by first address
	taken  map[netip.Addr]bool  // first and second addresses
	cursor netip.Addr           // given last: an address rests as long as possible before another pod gets it
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
	l := &leases{dir: dir, held: map[netip.Addr]Lease{}, taken: map[netip.Addr]bool{}}
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
		l.note(lease)
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
	l.note(lease)
	l.cursor = lease.Address
	return nil
}

func (l *leases) note(lease Lease) {
	l.held[lease.Address] = lease
	for _, address := range lease.addresses() {
		l.taken[address] = true
	}
}

// drop releases the address.
func (l *leases) drop(lease Lease) error {
	err := os.Remove(filepath.Join(l.dir, lease.Address.String()))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove address lease: %w", err)
	}
	delete(l.held, lease.Address)
	for _, address := range lease.addresses() {
		delete(l.taken, address)
	}
	return nil
}

// next is the first free address of the first range after the one given last, going round. Its twins in the other ranges
// must be free as well, so the smallest range says how many there are. The network address belongs to the overlay, the
// first address is the gateway, the last one is the broadcast address.
func next(ranges []netip.Prefix, taken map[netip.Addr]bool, after netip.Addr) (netip.Addr, bool) {
	podRange := ranges[0]
	first := gateway(podRange).Next()
	if !after.IsValid() || !podRange.Contains(after) || after.Less(first) {
		after = gateway(podRange)
	}
	usable := func(a netip.Addr) bool {
		return !slices.ContainsFunc(ranges, func(r netip.Prefix) bool {
			t := twin(a, podRange, r)
			return !r.Contains(t) || !r.Contains(t.Next())
		})
	}
	free := func(a netip.Addr) bool {
		return !slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return taken[twin(a, podRange, r)] })
	}
	candidate := after.Next()
	for range len(taken) + 2 { // one more than can be taken, and one for going round
		if !podRange.Contains(candidate) || !usable(candidate) {
			candidate = first
		}
		if !podRange.Contains(candidate) || !usable(candidate) {
			return netip.Addr{}, false
		}
		if free(candidate) {
			return candidate, true
		}
		candidate = candidate.Next()
	}
	return netip.Addr{}, false
}

// twin is the address that is at the same place in another range; not one of that range, if it is too small.
func twin(address netip.Addr, from, to netip.Prefix) netip.Addr {
	place := low(address) - low(from.Masked().Addr())
	raw := to.Masked().Addr().As16()
	binary.BigEndian.PutUint64(raw[8:], binary.BigEndian.Uint64(raw[8:])+place)
	return netip.AddrFrom16(raw).Unmap()
}

// low is the half of an address in which those of a node's range differ.
func low(address netip.Addr) uint64 {
	raw := address.As16()
	return binary.BigEndian.Uint64(raw[8:])
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

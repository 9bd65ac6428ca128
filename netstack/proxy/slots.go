package proxy

import "net/netip"

// Slots are the endpoints of a pool as the kernel has them, by number. Their order means nothing, so a change moves as
// few as it can: a pool of thousands that loses one endpoint changes in two places.

// refill returns the slots of a pool, given what they were, and the numbers of those that differ from before. Slots from
// the new length on are to be removed.
func refill(slots, pool []netip.AddrPort) (after []netip.AddrPort, changed []int) {
	wanted := make(map[netip.AddrPort]bool, len(pool))
	for _, endpoint := range pool {
		wanted[endpoint] = true
	}
	after = make([]netip.AddrPort, len(pool))
	var holes []int
	for i := range after {
		if i < len(slots) && wanted[slots[i]] {
			after[i] = slots[i]
			delete(wanted, slots[i])
			continue
		}
		holes = append(holes, i)
	}
	// What is left has no slot yet, or one that is to be removed. In the order of the pool, for the same result every time.
	for _, endpoint := range pool {
		if wanted[endpoint] {
			after[holes[0]] = endpoint
			changed, holes = append(changed, holes[0]), holes[1:]
		}
	}
	return after, changed
}

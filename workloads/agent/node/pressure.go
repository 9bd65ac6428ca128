package node

import "time"

// pressureHold keeps a condition for this long after its cause went, so that a node at the edge does not flip.
const pressureHold = 5 * time.Minute

// pressures remembers when each resource was short last.
type pressures struct{ memory, disk, pids time.Time }

// filesystem is the room on a disk.
type filesystem struct{ total, available, inodes, inodesFree uint64 }

// room is what is left of each resource.
type room struct {
	memoryAvailable uint64
	disks           []filesystem
	pids, pidLimit  uint64
}

// short judges one look. A limit of zero means the machine does not tell.
func short(r room) pressed {
	out := pressed{memory: r.memoryAvailable < memoryReserve}
	for _, disk := range r.disks {
		out.disk = out.disk || disk.total > 0 && disk.available < disk.total/100*storageReservePercent
		out.disk = out.disk || disk.inodes > 0 && disk.inodesFree < disk.inodes/100*inodeReservePercent
	}
	out.pids = r.pidLimit > 0 && r.pids > r.pidLimit-r.pidLimit/100 // the last hundredth is for the machine itself
	return out
}

// hold adds what was short a moment ago, and notes what is short now.
func (p *pressures) hold(now time.Time, seen pressed) pressed {
	one := func(last *time.Time, short bool) bool {
		if short {
			*last = now
		}
		return !last.IsZero() && now.Sub(*last) < pressureHold
	}
	return pressed{memory: one(&p.memory, seen.memory), disk: one(&p.disk, seen.disk), pids: one(&p.pids, seen.pids)}
}

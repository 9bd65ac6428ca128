package pressure

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Signal is one resource of the node that can run short.
type Signal string

// The signals, in the order they are answered: memory runs out fastest.
const (
	MemoryAvailable    Signal = "memory.available"
	NodeAvailable      Signal = "nodefs.available"
	NodeInodesFree     Signal = "nodefs.inodesFree"
	ImagesAvailable    Signal = "imagefs.available"
	ImagesInodesFree   Signal = "imagefs.inodesFree"
	ProcessesAvailable Signal = "pid.available"
)

// Room is how much there is of something. A total of zero means the machine does not tell.
type Room struct{ Total, Available uint64 }

// Disk is the room on a filesystem.
type Disk struct{ Bytes, Inodes Room }

// Reading is one look at the machine.
type Reading struct {
	Memory       Room
	Node, Images Disk // of pods' volumes and logs; of images and what containers write into their own files
	Shared       bool // both lie on one filesystem
	Processes    Room
}

// Shortage is a signal below its threshold.
type Shortage struct {
	Signal               Signal
	Threshold, Available uint64
}

// signalRoom says where in a reading a signal is.
type signalRoom struct {
	signal Signal
	room   func(Reading) Room
}

// signals in the order they are answered.
var signals = []signalRoom{
	{MemoryAvailable, func(r Reading) Room { return r.Memory }},
	{NodeAvailable, func(r Reading) Room { return r.Node.Bytes }},
	{NodeInodesFree, func(r Reading) Room { return r.Node.Inodes }},
	{ImagesAvailable, func(r Reading) Room { return r.Images.Bytes }},
	{ImagesInodesFree, func(r Reading) Room { return r.Images.Inodes }},
	{ProcessesAvailable, func(r Reading) Room { return r.Processes }},
}

// Short lists what is short, most urgent first.
func (t Thresholds) Short(r Reading) []Shortage {
	var out []Shortage
	for _, s := range signals {
		room := s.room(r)
		limit := t[s.signal].Of(room.Total)
		if room.Total > 0 && room.Available < limit {
			out = append(out, Shortage{s.signal, limit, room.Available})
		}
	}
	return out
}

// resource is what messages and requests call it.
func (s Signal) resource() corev1.ResourceName {
	switch s {
	case MemoryAvailable:
		return corev1.ResourceMemory
	case NodeInodesFree, ImagesInodesFree:
		return "inodes"
	case ProcessesAvailable:
		return "pids"
	}
	return corev1.ResourceEphemeralStorage
}

// ofDisk: is it about a disk, so that images and dead containers help?
func (s Signal) ofDisk() bool { return s != MemoryAvailable && s != ProcessesAvailable }

// Conditions says of which resource the node is short, or was a moment ago.
type Conditions struct{ Memory, Disk, Processes bool }

func conditionsOf(short []Shortage) Conditions {
	has := func(is func(Signal) bool) bool {
		return slices.ContainsFunc(short, func(s Shortage) bool { return is(s.Signal) })
	}
	return Conditions{
		Memory:    has(func(s Signal) bool { return s == MemoryAvailable }),
		Disk:      has(Signal.ofDisk),
		Processes: has(func(s Signal) bool { return s == ProcessesAvailable }),
	}
}

// hold keeps a condition for this long after its cause went, so that a node at the edge does not flip.
const hold = 5 * time.Minute

// held remembers when each condition was seen last.
type held struct{ memory, disk, processes time.Time }

// add notes what is so now, and returns it together with what was so a moment ago.
func (h *held) add(now time.Time, seen Conditions) Conditions {
	one := func(last *time.Time, short bool) bool {
		if short {
			*last = now
		}
		return !last.IsZero() && now.Sub(*last) < hold
	}
	return Conditions{Memory: one(&h.memory, seen.Memory), Disk: one(&h.disk, seen.Disk), Processes: one(&h.processes, seen.Processes)}
}

// Gauge shows the machine's state to whoever asks: the node's status, the admission of pods.
type Gauge struct {
	nodeDir    string
	imagesDir  func() string
	thresholds Thresholds

	mu   sync.Mutex
	held held
	now  Conditions
}

// NewGauge makes a gauge of this machine; the folders say which filesystems are meant. That of the images may not be known
// yet.
func NewGauge(nodeDir string, imagesDir func() string, thresholds Thresholds) *Gauge {
	return &Gauge{nodeDir: nodeDir, imagesDir: imagesDir, thresholds: thresholds}
}

// Conditions as of the last look.
func (g *Gauge) Conditions() Conditions {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

// note takes in a look and tells whether the conditions are others now.
func (g *Gauge) note(now time.Time, short []Shortage) (changed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.now
	g.now = g.held.add(now, conditionsOf(short))
	return g.now != before
}

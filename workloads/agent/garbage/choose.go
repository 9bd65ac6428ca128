package garbage

import (
	"cmp"
	"slices"
	"time"
)

// Image is one of the runtime's, as a decision needs it.
type Image struct {
	ID     string
	Bytes  uint64
	Pinned bool
	InUse  bool      // by a container, or named by a pod of this node
	Since  time.Time // when it came; zero: long ago
	Used   time.Time // when it was seen in use last; zero: never
}

// Bounds say when images go.
type Bounds struct {
	High, Low uint64 // percent of the images' disk in use: from here on images go, until this much is
	// Youngest is how long an image stays that nothing uses yet: the pod it was pulled for may be about to.
	Youngest time.Duration
}

// Usual are upstream's.
func Usual() Bounds { return Bounds{High: 85, Low: 80, Youngest: 2 * time.Minute} }

// need is how many bytes have to go, 0 while the disk is not full enough.
func (b Bounds) need(total, available uint64) uint64 {
	used := total - min(available, total)
	if total == 0 || used < total/100*b.High || b.High >= 100 {
		return 0
	}
	return used - total/100*b.Low
}

// choose lists the images to remove to get so many bytes back, those not used for longest first.
func (b Bounds) choose(images []Image, bytes uint64, now time.Time) []Image {
	free := slices.DeleteFunc(slices.Clone(images), func(i Image) bool {
		return i.Pinned || i.InUse || now.Sub(i.Since) < b.Youngest
	})
	slices.SortFunc(free, func(x, y Image) int {
		return cmp.Or(x.Used.Compare(y.Used), x.Since.Compare(y.Since), cmp.Compare(x.ID, y.ID))
	})
	var sum uint64
	for i := range free {
		if sum >= bytes {
			return free[:i]
		}
		sum += free[i].Bytes
	}
	return free
}

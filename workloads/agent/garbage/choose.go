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

const (
	high = 85 // percent of the images' disk in use, and images go
	low  = 80 // until this much is
	// youngest is how long an image stays that nothing uses yet: the pod it was pulled for may be about to.
	youngest = 2 * time.Minute
)

// need is how many bytes have to go, 0 while the disk is not full enough.
func need(total, available uint64) uint64 {
	used := total - min(available, total)
	if total == 0 || used < total/100*high {
		return 0
	}
	return used - total/100*low
}

// choose lists the images to remove to get so many bytes back, those not used for longest first.
func choose(images []Image, bytes uint64, now time.Time) []Image {
	free := slices.DeleteFunc(slices.Clone(images), func(i Image) bool {
		return i.Pinned || i.InUse || now.Sub(i.Since) < youngest
	})
	slices.SortFunc(free, func(a, b Image) int {
		return cmp.Or(a.Used.Compare(b.Used), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
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

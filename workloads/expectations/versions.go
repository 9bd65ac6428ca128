package expectations

import (
	"sync"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Versions are the versions one controller has written of its owners' children, for controllers whose decision about
// one child depends on what they wrote of another. Children are known by name.
type Versions struct {
	mu      sync.Mutex
	written map[types.UID]map[string]string
}

// unsure stands for the version of a child whose write nobody answered.
const unsure = ""

// Wrote notes the version that a write made.
func (v *Versions) Wrote(owner types.UID, child, version string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.written == nil {
		v.written = map[types.UID]map[string]string{}
	}
	if v.written[owner] == nil {
		v.written[owner] = map[string]string{}
	}
	v.written[owner][child] = version
}

// Doubt notes that a write may have been made or not.
func (v *Versions) Doubt(owner types.UID, child string) { v.Wrote(owner, child, unsure) }

// Dropped forgets a child that is no more the owner's.
func (v *Versions) Dropped(owner types.UID, child string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.written[owner], child)
}

// Forget drops an owner that is no more.
func (v *Versions) Forget(owner types.UID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.written, owner)
}

// Behind compares the versions the cache shows, by name, with those written. behind says that it shows an older one,
// whose newer one is on its way. ask are the children about which only the server knows: what is not shown may not be
// there yet or not any more.
func (v *Versions) Behind(owner types.UID, shown map[string]string) (behind bool, ask []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for child, version := range v.written[owner] {
		is, there := shown[child]
		if version == unsure || !there {
			ask = append(ask, child)
			continue
		}
		if order, err := resourceversion.CompareResourceVersion(is, version); err == nil && order < 0 {
			behind = true
			continue
		}
		delete(v.written[owner], child)
	}
	return behind, ask
}

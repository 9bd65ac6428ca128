package expectations

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// Written are the versions one controller has written of objects of its own kind, as long as the cache may be behind
// them. Another write from an older version would be refused.
type Written struct {
	mu       sync.Mutex
	versions map[types.UID]string
}

// Note remembers an object as the answer to its write shows it.
func (w *Written) Note(o metav1.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.versions == nil {
		w.versions = map[types.UID]string{}
	}
	w.versions[o.GetUID()] = o.GetResourceVersion()
}

// Behind says whether o, as the cache shows it, is older than what was written of it last.
func (w *Written) Behind(o metav1.Object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	version, known := w.versions[o.GetUID()]
	if !known {
		return false
	}
	if order, err := resourceversion.CompareResourceVersion(o.GetResourceVersion(), version); err == nil && order < 0 {
		return true
	}
	delete(w.versions, o.GetUID())
	return false
}

// Forget drops an object that is no more.
func (w *Written) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.versions, uid)
}

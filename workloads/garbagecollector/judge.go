package garbagecollector

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// standing is what the API server says about an owner.
type standing int

const (
	solid   standing = iota // there, and staying or going without us
	waiting                 // going, once its dependents are gone
	absent                  // not there, or another object of its name
)

// verdict is what becomes of an object.
type verdict struct {
	drop   []types.UID                 // owner references to remove
	delete *metav1.DeletionPropagation // nil: it stays
	free   bool                        // its own dependents may not hold it up: they wait in a circle
}

// judge decides about an object whose owners stand as given. An object stays while any owner keeps it.
func judge(o metav1.Object, owners map[types.UID]standing, hasDependents, dependentsWait bool) verdict {
	var v verdict
	var kept, waits bool
	for _, ref := range o.GetOwnerReferences() {
		switch owners[ref.UID] {
		case solid:
			kept = true
		case waiting:
			waits = true
			v.drop = append(v.drop, ref.UID)
		case absent:
			v.drop = append(v.drop, ref.UID)
		}
	}
	if kept || len(o.GetOwnerReferences()) == 0 {
		return v
	}
	v.drop = nil // they go with the object
	policy := metav1.DeletePropagationBackground
	switch {
	case waits && hasDependents:
		policy = metav1.DeletePropagationForeground
		v.free = dependentsWait
	case slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan // it was asked for before
	case slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	v.delete = &policy
	return v
}

// without are an object's owner references but some.
func without(refs []metav1.OwnerReference, drop []types.UID) []metav1.OwnerReference {
	kept := []metav1.OwnerReference{} // not nil: in a patch an empty list removes, null is the same but unclear
	for _, ref := range refs {
		if !slices.Contains(drop, ref.UID) {
			kept = append(kept, ref)
		}
	}
	return kept
}

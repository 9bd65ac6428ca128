// Package set fills fields that a client left out.
//
// In:       a field's address and its default.
// Out:      the field, set when it was not.
// Promise:  what a client wrote is never replaced.
// Not here: which field has which default (kinds, kinds/podspec).
package set

import "k8s.io/utils/ptr"

// Default sets a field that has its type's zero value.
func Default[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Pointer sets a field that is nil to the address of value.
func Pointer[T any](field **T, value T) {
	if *field == nil {
		*field = ptr.To(value)
	}
}

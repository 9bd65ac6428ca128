// Package table lists every resource the API server serves itself, a row each, a file a group.
//
// In:       kinds' rules (appliance/apiserver/kinds), columns (printing), subresources.
// Out:      Rows, from which resource.Build makes the REST storage.
// Promise:  what the group-versions of Kubernetes v1.37 serve by default is here, under the same names.
// Not here: custom resource definitions and APIServices, which are served by the libraries they come from.
package table

import (
	"slices"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// all is the category kubectl means by "get all".
var all = []string{"all"}

// Rows of every group. The slice is the caller's.
func Rows() []resource.Row {
	return slices.Concat(
		core(), events(),
		admissionregistration(), apps(), authentication(), authorization(), autoscaling(), batch(), certificates(),
		coordination(), discovery(), flowcontrol(), networking(), node(), policy(), rbac(), dra(), scheduling(),
		storage(), storagemigration(), metrics(),
	)
}

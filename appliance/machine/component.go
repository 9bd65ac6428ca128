// Package machine runs what one machine is made of, in order.
//
// In:       a configuration.
// Out:      its components, started stage by stage, and a report of what each took.
// Promise:  a stage starts when every member of the one before can serve; stopping walks backwards.
// Not here: what the components do.
package machine

import "context"

// Component is one long-lived part of a machine.
//
// Start: Run is called once everything in the stages before it is ready.
// Ready: Run calls ready exactly once, when it can serve rather than when it has begun.
// Stop:  its ctx ends; Run returns nil after its last goroutine. Any other return brings the machine down.
type Component interface {
	Name() string
	Run(ctx context.Context, ready func()) error
}

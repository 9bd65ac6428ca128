// Package events gives controllers the recorder their users read with kubectl describe.
//
// In:       the manager and a component's name.
// Out:      core/v1 Events, as upstream's controllers write them, one at a time.
// Promise:  two messages about one object stay two Events; a burst of Events waits, and holds nobody up.
// Not here: the wording, which each controller keeps in its events.go.
package events

import (
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// Recorder writes Events from component. All recorders of a manager share one broadcaster.
func Recorder(mgr manager.Manager, component string) record.EventRecorder {
	//lint:ignore SA1019 the recorder of events.k8s.io folds Events that differ only in their message into a series
	// with the first message, so "Scaled up ... from 1 to 2" would vanish behind "... from 0 to 1".
	return mgr.GetEventRecorderFor(component)
}

package table

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// eventTTL is what clients of Kubernetes are used to: long enough to look into what happened, short enough to
// keep the datastore small.
const eventTTL = time.Hour

func events() []resource.Row {
	return []resource.Row{
		{In: corev1.SchemeGroupVersion, AlsoIn: []schema.GroupVersion{eventsv1.SchemeGroupVersion}, Object: &corev1.Event{}, List: &corev1.EventList{}, Plural: "events", Hooks: resource.Erase(kinds.Event), Table: printing.Events(), Short: []string{"ev"}, Namespaced: true, TTL: eventTTL},
	}
}

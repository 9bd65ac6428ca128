package kinds

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Event is stored as its core version; the other one converts, and is held to stricter rules.
var Event = resource.Hooks[*corev1.Event]{
	Validate: func(ctx context.Context, e *corev1.Event) field.ErrorList {
		if newer(ctx) {
			return append(validateEvent(e, "reportingController"), validateNewEvent(e)...)
		}
		return validateEvent(e, "reportingComponent")
	},
	ValidateUpdate: func(ctx context.Context, e, old *corev1.Event) field.ErrorList {
		if newer(ctx) {
			return append(validateEvent(e, "reportingController"), eventStays(e, old)...)
		}
		return validateEvent(e, "reportingComponent")
	},
	LaxMetadata: true,
	Fields: func(e *corev1.Event) fields.Set {
		source := e.Source.Component
		if source == "" {
			source = e.ReportingController
		}
		return fields.Set{
			"involvedObject.kind":            e.InvolvedObject.Kind,
			"involvedObject.namespace":       e.InvolvedObject.Namespace,
			"involvedObject.name":            e.InvolvedObject.Name,
			"involvedObject.uid":             string(e.InvolvedObject.UID),
			"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
			"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
			"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
			"reason":                         e.Reason,
			"reportingComponent":             e.ReportingController,
			"source":                         source,
			"type":                           e.Type,
		}
	},
	AllowCreateOnUpdate: true,
}

// What the fields of an event that has a time hold at most, in bytes.
const (
	longestEventWord = 128
	longestEventNote = 1024
)

// newer is true of requests to events.k8s.io.
func newer(ctx context.Context) bool {
	info, ok := genericapirequest.RequestInfoFrom(ctx)
	return ok && info.APIGroup == eventsv1.GroupName
}

// validateEvent keeps events beside what they are about; those of the cluster belong to the default namespace. One that
// has an eventTime says in full who reports what, whichever version it came in; reporter is that version's name for who.
func validateEvent(e *corev1.Event, reporter string) field.ErrorList {
	about := e.InvolvedObject.Namespace
	elsewhere := field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), about, "does not match event.namespace")}
	if e.EventTime.IsZero() {
		if about == e.Namespace || about == "" && e.Namespace == "default" {
			return nil
		}
		return elsewhere
	}
	var errs field.ErrorList
	if about == "" && e.Namespace != "default" && e.Namespace != "kube-system" {
		errs = elsewhere
	}
	controller := field.NewPath(reporter)
	errs = append(errs, check.Needed(controller, e.ReportingController, nil)...)
	errs = append(errs, check.Text(controller, e.ReportingController, validation.IsQualifiedName)...)
	for _, word := range []struct{ name, value string }{
		{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason},
	} {
		errs = append(errs, check.Needed(field.NewPath(word.name), word.value, atMost(longestEventWord))...)
	}
	return append(errs, check.Text(field.NewPath("message"), e.Message, atMost(longestEventNote))...)
}

func atMost(bytes int) func(string) []string {
	return func(value string) []string {
		if len(value) > bytes {
			return []string{fmt.Sprintf("can have at most %d characters", bytes)}
		}
		return nil
	}
}

// validateNewEvent wants what events.k8s.io says, and nothing of what it has only to show the events of old.
func validateNewEvent(e *corev1.Event) field.ErrorList {
	errs := apivalidation.ValidateObjectMeta(&e.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, metaPath)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", "has invalid value: "+e.Type))
	}
	for _, old := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()}, {"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0}, {"source", e.Source != corev1.EventSource{}},
	} {
		if old.set {
			errs = append(errs, field.Invalid(field.NewPath(old.name), "", "needs to be unset"))
		}
	}
	return append(errs, validateSeries(e.Series)...)
}

// validateSeries wants a series to be one: of two at least.
func validateSeries(s *corev1.EventSeries) field.ErrorList {
	if s == nil {
		return nil
	}
	at := field.NewPath("series")
	var errs field.ErrorList
	if s.Count < 2 {
		errs = append(errs, field.Invalid(at.Child("count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(at.Child("lastObservedTime"), ""))
	}
	return errs
}

// eventStays lets nothing change but the series: what happened has happened.
func eventStays(e, old *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	if !apiequality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = validateSeries(e.Series)
	}
	for _, part := range []struct {
		name     string
		now, was any
	}{
		{"involvedObject", e.InvolvedObject, old.InvolvedObject}, {"reason", e.Reason, old.Reason}, {"message", e.Message, old.Message},
		{"source", e.Source, old.Source}, {"firstTimestamp", e.FirstTimestamp, old.FirstTimestamp}, {"lastTimestamp", e.LastTimestamp, old.LastTimestamp},
		{"count", e.Count, old.Count}, {"type", e.Type, old.Type}, {"eventTime", e.EventTime, old.EventTime}, {"action", e.Action, old.Action},
		{"related", e.Related, old.Related}, {"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, check.Unchanged(field.NewPath(part.name), part.now, part.was)...)
	}
	return errs
}

package kinds

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
)

func TestEvent(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	event := corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "web.1", Namespace: "shop"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: "web"},
		EventTime:      metav1.NewMicroTime(at), ReportingController: "example.com/keeper", ReportingInstance: "keeper-1",
		Action: "Keeping", Reason: "Kept", Type: corev1.EventTypeNormal,
	}
	long := strings.Repeat("x", 129)
	tests := map[string]struct {
		to     func(*corev1.Event)
		v1     string // what is wrong with it as one of v1
		events string // as one of events.k8s.io/v1
	}{
		"an event may be as it is":              {to: func(*corev1.Event) {}},
		"without a time it is of the old style": {to: func(e *corev1.Event) { e.EventTime = metav1.MicroTime{} }, events: "eventTime: Required value"},
		"one of the old style says little": {to: func(e *corev1.Event) {
			*e = corev1.Event{ObjectMeta: e.ObjectMeta, InvolvedObject: e.InvolvedObject}
		}, events: "type: Invalid value"},
		"one of the old style is where its object is": {to: func(e *corev1.Event) { e.EventTime, e.Namespace = metav1.MicroTime{}, "default" },
			v1: "involvedObject.namespace: Invalid value", events: "involvedObject.namespace: Invalid value"},
		"one of the new style may be elsewhere":      {to: func(e *corev1.Event) { e.Namespace = "default" }},
		"what is in no namespace is told in default": {to: func(e *corev1.Event) { e.InvolvedObject.Namespace, e.Namespace = "", "default" }},
		"and of the new style in the system's":       {to: func(e *corev1.Event) { e.InvolvedObject.Namespace, e.Namespace = "", "kube-system" }},
		"but nowhere else":                           {to: func(e *corev1.Event) { e.InvolvedObject.Namespace = "" }, v1: "involvedObject.namespace", events: "involvedObject.namespace"},
		"somebody reports it":                        {to: func(e *corev1.Event) { e.ReportingController = "" }, v1: "reportingComponent: Required value", events: "reportingController: Required value"},
		"somebody with a name":                       {to: func(e *corev1.Event) { e.ReportingController = "a b" }, v1: "reportingComponent: Invalid value", events: "reportingController: Invalid value"},
		"one of them":                                {to: func(e *corev1.Event) { e.ReportingInstance = "" }, v1: "reportingInstance: Required value", events: "reportingInstance: Required value"},
		"whose name has an end":                      {to: func(e *corev1.Event) { e.ReportingInstance = long }, v1: "reportingInstance: Invalid value", events: "can have at most 128 characters"},
		"something was done":                         {to: func(e *corev1.Event) { e.Action = "" }, v1: "action: Required value", events: "action: Required value"},
		"what was done is a word":                    {to: func(e *corev1.Event) { e.Action = long }, v1: "action: Invalid value", events: "action: Invalid value"},
		"for a reason":                               {to: func(e *corev1.Event) { e.Reason = "" }, v1: "reason: Required value", events: "reason: Required value"},
		"a reason is a word":                         {to: func(e *corev1.Event) { e.Reason = long }, v1: "reason: Invalid value", events: "reason: Invalid value"},
		"a note is short":                            {to: func(e *corev1.Event) { e.Message = strings.Repeat("x", 1025) }, v1: "can have at most 1024", events: "message: Invalid value"},
		"it is normal or a warning":                  {to: func(e *corev1.Event) { e.Type = "Odd" }, events: "type: Invalid value"},
		"a series is of two at least": {to: func(e *corev1.Event) {
			e.Series = &corev1.EventSeries{Count: 1, LastObservedTime: metav1.NewMicroTime(at)}
		}, events: "series.count: Invalid value"},
		"a series has a last one":                      {to: func(e *corev1.Event) { e.Series = &corev1.EventSeries{Count: 2} }, events: "series.lastObservedTime: Required value"},
		"counts are of the old style":                  {to: func(e *corev1.Event) { e.Count = 1 }, events: "count: Invalid value"},
		"sources are of the old style":                 {to: func(e *corev1.Event) { e.Source.Host = "n1" }, events: "source: Invalid value"},
		"first times are of the old style":             {to: func(e *corev1.Event) { e.FirstTimestamp = metav1.NewTime(at) }, events: "firstTimestamp: Invalid value"},
		"last times are of the old style":              {to: func(e *corev1.Event) { e.LastTimestamp = metav1.NewTime(at) }, events: "lastTimestamp: Invalid value"},
		"a name of the old style only fits into a URL": {to: func(e *corev1.Event) { e.Name = "Web" }, events: "metadata.name: Invalid value"},
	}
	v1 := genericapirequest.WithRequestInfo(context.Background(), &genericapirequest.RequestInfo{APIVersion: "v1"})
	events := genericapirequest.WithRequestInfo(context.Background(), &genericapirequest.RequestInfo{APIGroup: "events.k8s.io", APIVersion: "v1"})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := event.DeepCopy()
			tc.to(e)
			expect(t, Event.Validate(v1, e), tc.v1)
			expect(t, Event.ValidateUpdate(v1, e, &event), tc.v1)
			expect(t, Event.Validate(events, e), tc.events)
			if tc.events == "" { // what an old client stored may stay, and be counted on
				expect(t, Event.ValidateUpdate(events, e, e), "")
			}
		})
	}
	changed := event.DeepCopy()
	changed.Message = "another"
	expect(t, Event.ValidateUpdate(v1, changed, &event), "")
	expect(t, Event.ValidateUpdate(events, changed, &event), "message: Invalid value")
	counted := event.DeepCopy()
	counted.Series = &corev1.EventSeries{Count: 2, LastObservedTime: metav1.NewMicroTime(at)}
	expect(t, Event.ValidateUpdate(events, counted, &event), "")
	counted.Series.Count = 1
	expect(t, Event.ValidateUpdate(events, counted, &event), "series.count: Invalid value")
}

package scheduler

import (
	"testing"
	"time"
)

func TestNewsWaitForACalmMoment(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		does func(*herald)
		now  time.Time
		ok   bool
		wait time.Duration
	}{
		"told at once when there is nothing else to do": {does: func(*herald) {}, now: at, ok: true},
		"kept while pods are decided about":             {does: func(h *herald) { h.decides(true) }, now: at.Add(time.Second), wait: hold - time.Second},
		"kept while decisions are on their way":         {does: func(h *herald) { h.writes(1) }, now: at, wait: hold},
		"told when the last decision has arrived": {does: func(h *herald) {
			h.decides(true)
			h.writes(1)
			h.decides(false)
			h.writes(-1)
		}, now: at, ok: true},
		"told in the end however much there is to do": {does: func(h *herald) { h.decides(true) }, now: at.Add(hold), ok: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHerald()
			h.add(news{pod: "web", at: at})
			<-h.changed // it learns how long to wait
			tc.does(h)
			n, ok, wait := h.next(tc.now)
			if ok != tc.ok || wait != tc.wait {
				t.Errorf("next() = %v, wait %s; want %v, wait %s", ok, wait, tc.ok, tc.wait)
			}
			if n.pod != "web" {
				t.Errorf("next() is about %q", n.pod)
			}
		})
	}
}

func TestNewsWakeTheirTellerWhenItIsCalm(t *testing.T) {
	h := newHerald()
	h.decides(true)
	h.add(news{pod: "web"})
	<-h.changed
	h.decides(false)
	select {
	case <-h.changed:
	default:
		t.Error("nobody woke the teller")
	}
}

func TestNewsAreBounded(t *testing.T) {
	h := newHerald()
	for range keptNews + 1 {
		h.add(news{})
	}
	if len(h.waiting) != keptNews {
		t.Errorf("%d news wait, want %d", len(h.waiting), keptNews)
	}
}

package usage

import (
	"fmt"
	"io"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// of names what a counter is about: a container, or the node itself when nothing is set.
type of struct{ Namespace, Pod, Container string }

// counter is what an agent said about one thing.
type counter struct {
	at     time.Time     // by the node's clock
	since  time.Time     // by the node's clock, when counting began; zero for the node
	cpu    time.Duration // of one core, used since then
	memory int64         // working set, in bytes
	whole  bool          // cpu and memory are both known
}

// sample is what one agent said at one moment.
type sample struct {
	asked    time.Time // by our clock, which does not jump (monotonic)
	counters map[of]counter
}

// parse reads the answer of /metrics/resource, whose names and labels are part of Kubernetes (KEP-727).
func parse(text io.Reader, asked time.Time) (*sample, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	s := &sample{asked: asked, counters: map[of]counter{}}
	read := func(family string, set func(c *counter, value float64, at time.Time)) {
		for _, m := range families[family].GetMetric() {
			about := subject(m)
			c := s.counters[about]
			at := asked // an agent that does not say when measured now
			if ms := m.GetTimestampMs(); ms != 0 {
				at = time.UnixMilli(ms)
			}
			set(&c, m.GetCounter().GetValue()+m.GetGauge().GetValue()+m.GetUntyped().GetValue(), at)
			s.counters[about] = c
		}
	}
	cpu := func(c *counter, value float64, at time.Time) {
		c.cpu, c.at, c.whole = time.Duration(value*float64(time.Second)), at, true
	}
	memory := func(c *counter, value float64, _ time.Time) { c.memory = int64(value) }
	begun := func(c *counter, value float64, _ time.Time) { c.since = time.UnixMicro(int64(value * 1e6)) }
	read("node_cpu_usage_seconds_total", cpu)
	read("container_cpu_usage_seconds_total", cpu)
	read("node_memory_working_set_bytes", memory)
	read("container_memory_working_set_bytes", memory)
	read("container_start_time_seconds", begun)
	for about, c := range s.counters {
		if !c.whole || c.memory == 0 { // a container at its start or its end: half a figure misleads
			delete(s.counters, about)
		}
	}
	return s, nil
}

func subject(m *dto.Metric) of {
	var about of
	for _, label := range m.GetLabel() {
		switch label.GetName() {
		case "namespace":
			about.Namespace = label.GetValue()
		case "pod":
			about.Pod = label.GetValue()
		case "container":
			about.Container = label.GetValue()
		}
	}
	return about
}

// Reading is what something used. CPU is the mean over the window that ends at At.
type Reading struct {
	At     time.Time
	Window time.Duration
	CPU    int64 // billionths of a core
	Memory int64 // bytes of working set, at At
}

// maxDrift is how far the node's idea of the time between two samples may be from ours before its clock is taken for
// set rather than slow.
const maxDrift = 5 * time.Second

// between computes rates from two samples; before may be nil. What is in only one of them has a rate if it is young: then
// its beginning is the other end.
func between(before, after *sample) map[of]Reading {
	readings := map[of]Reading{}
	for about, now := range after.counters {
		from := counter{at: now.since}
		if before != nil {
			then, known := before.counters[about]
			same := then.since.Equal(now.since) && then.cpu <= now.cpu
			drift := now.at.Sub(then.at) - after.asked.Sub(before.asked)
			if known && same && drift.Abs() < maxDrift {
				from = then
			}
		}
		window := now.at.Sub(from.at)
		if from.at.IsZero() || window < minWindow || window > maxWindow {
			continue
		}
		readings[about] = Reading{
			At: now.at, Window: window, Memory: now.memory,
			CPU: int64(float64(now.cpu-from.cpu) / window.Seconds()),
		}
	}
	return readings
}

package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// table is what is printed in the end, and a line of it as soon as it is known.
type table struct{ rows []row }

type row struct {
	workload workload
	name     string
	result
}

func (t *table) add(w workload, c contender, r result) {
	t.rows = append(t.rows, row{w, c.name, r})
	fmt.Printf("%s %s: %.0f pods/s\n", w.name, c.name, r.rate())
}

// rate is how many pods of the backlog got a node in a second.
func (r result) rate() float64 { return float64(r.backlog-1) / r.took.Seconds() }

// at is the latency that share of the arrivals stayed below.
func (r result) at(share float64) time.Duration {
	if len(r.latency) == 0 {
		return 0
	}
	return r.latency[min(int(share*float64(len(r.latency))), len(r.latency)-1)]
}

func (t *table) print(to io.Writer) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "case\tnodes\tpods\tscheduler\tpods/s\tCPU ms/pod\tp50 ms\tp90 ms\tp99 ms\t")
	for _, r := range t.rows {
		fmt.Fprintf(out, "%s\t%d\t%d\t%s\t%.0f\t%.2f\t%.1f\t%.1f\t%.1f\t\n", r.workload.name, r.workload.nodes, r.backlog, r.name,
			r.rate(), milliseconds(r.cpu)/float64(r.backlog), milliseconds(r.at(.5)), milliseconds(r.at(.9)), milliseconds(r.at(.99)))
	}
	return out.Flush()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

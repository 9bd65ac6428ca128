package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// table is what is printed in the end, and a line of it as soon as it is known.
type table struct {
	path string // a file that keeps it, "" for none
	rows []row
}

// row is one scheduler on one case.
type row struct {
	Case      string          `json:"case"`
	Nodes     int             `json:"nodes"`
	Scheduler string          `json:"scheduler"`
	Backlog   int             `json:"backlog"`
	Took      time.Duration   `json:"tookNanoseconds"`    // from the first deed to the last binding of the backlog
	Latency   []time.Duration `json:"latencyNanoseconds"` // of the arrivals, in order
	CPU       time.Duration   `json:"cpuNanoseconds"`     // of the API server, the datastore and the scheduler, over the backlog
}

// readTable takes up what an earlier run measured, if it kept that.
func readTable(path string) (*table, error) {
	t := &table{path: path}
	if path == "" {
		return t, nil
	}
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &t.rows)
	}
	return t, err
}

func (t *table) has(w workload, c contender) bool {
	return slices.ContainsFunc(t.rows, func(r row) bool { return r.Case == w.name && r.Nodes == w.nodes && r.Scheduler == c.name })
}

func (t *table) add(w workload, c contender, r row) error {
	r.Case, r.Nodes, r.Scheduler = w.name, w.nodes, c.name
	t.rows = append(t.rows, r)
	fmt.Printf("%s %s: %.0f pods/s\n", w.name, c.name, r.rate())
	if t.path == "" {
		return nil
	}
	content, err := json.Marshal(t.rows)
	if err != nil {
		return err
	}
	if err := os.WriteFile(t.path+".part", content, 0o600); err != nil {
		return err
	}
	return os.Rename(t.path+".part", t.path)
}

// rate is how many pods of the backlog got a node in a second.
func (r row) rate() float64 { return float64(r.Backlog-1) / r.Took.Seconds() }

// at is the latency that share of the arrivals stayed below.
func (r row) at(share float64) time.Duration {
	if len(r.Latency) == 0 {
		return 0
	}
	return r.Latency[min(int(share*float64(len(r.Latency))), len(r.Latency)-1)]
}

func (t *table) print(to io.Writer) error {
	out := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "case\tnodes\tpods\tscheduler\tpods/s\tCPU ms/pod\tp50 ms\tp90 ms\tp99 ms\t")
	for _, r := range t.rows {
		fmt.Fprintf(out, "%s\t%d\t%d\t%s\t%.0f\t%.2f\t%.1f\t%.1f\t%.1f\t\n", r.Case, r.Nodes, r.Backlog, r.Scheduler,
			r.rate(), milliseconds(r.CPU)/float64(r.Backlog), milliseconds(r.at(.5)), milliseconds(r.at(.9)), milliseconds(r.at(.99)))
	}
	return out.Flush()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

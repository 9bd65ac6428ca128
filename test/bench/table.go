package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// table is the result: figures in the order they were taken.
type table struct{ rows [][2]string }

func (t *table) add(name, figure string) {
	t.rows = append(t.rows, [2]string{name, figure})
	fmt.Printf("... %s: %s\n", name, figure) // progress; the table comes last
}

func (t *table) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nWHAT\tMEASURED")
	for _, r := range t.rows {
		fmt.Fprintf(w, "%s\t%s\n", r[0], r[1])
	}
	return w.Flush()
}

// quantile of durations by the nearest-rank method.
func quantile(sorted []time.Duration, q float64) time.Duration {
	i := int(q * float64(len(sorted)))
	return sorted[min(i, len(sorted)-1)]
}

// spread tells p50, p99 and, when it says more, the highest.
func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "nothing measured"
	}
	sorted := slices.Sorted(slices.Values(d))
	return fmt.Sprintf("p50 %s  p99 %s  max %s", ms(quantile(sorted, 0.5)), ms(quantile(sorted, 0.99)), ms(sorted[len(sorted)-1]))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func seconds(d []time.Duration) string {
	if len(d) == 0 {
		return "nothing measured"
	}
	text := ""
	for i, one := range d {
		if i > 0 {
			text += "  "
		}
		text += fmt.Sprintf("%.2f s", one.Seconds())
	}
	return text
}

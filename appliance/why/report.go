package why

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is an explanation.
type Report struct {
	Cause    string    // in one sentence
	Sections []Section // what leads to it
	Do       []string  // what would change it, the smallest change first
	Unknown  []string  // what could not be read
}

// Section is one part of the chain.
type Section struct {
	Title string
	Lines []string // columns separated by tabs
}

func (r *Report) section(title string, lines ...string) {
	if len(lines) > 0 {
		r.Sections = append(r.Sections, Section{title, lines})
	}
}

func (r *Report) do(format string, args ...any) { r.Do = append(r.Do, fmt.Sprintf(format, args...)) }

// Print writes a report for people.
func (r *Report) Print(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintln(&out, r.Cause)
	sections := r.Sections
	for _, more := range []Section{{"What to do", r.Do}, {"Not known", r.Unknown}} {
		if len(more.Lines) > 0 {
			sections = append(sections, more)
		}
	}
	for _, s := range sections {
		fmt.Fprintf(&out, "\n%s\n", s.Title)
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		for _, line := range s.Lines {
			fmt.Fprintf(table, "  %s\n", line)
		}
		_ = table.Flush() // into memory
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// ago words how long something has lasted.
func ago(now, since time.Time) string {
	if since.IsZero() {
		return "an unknown time"
	}
	d := now.Sub(since)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(int(d.Seconds()), 0))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours())/24)
}

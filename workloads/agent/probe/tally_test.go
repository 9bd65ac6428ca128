package probe

import "testing"

func TestTally(t *testing.T) {
	tests := map[string]struct {
		start               verdict
		outcomes            []outcome
		successes, failures int32
		want                verdict
	}{
		"nothing was asked yet":                        {start: undecided, successes: 1, failures: 3, want: undecided},
		"one success is enough for a threshold of one": {start: unhealthy, outcomes: []outcome{success}, successes: 1, failures: 3, want: healthy},
		"two successes of three are not enough":        {start: unhealthy, outcomes: []outcome{success, success}, successes: 3, failures: 3, want: unhealthy},
		"successes have to follow each other":          {start: unhealthy, outcomes: []outcome{success, failure, success}, successes: 2, failures: 3, want: unhealthy},
		"failures below the threshold change nothing":  {start: healthy, outcomes: []outcome{failure, failure}, successes: 1, failures: 3, want: healthy},
		"failures have to follow each other":           {start: healthy, outcomes: []outcome{failure, failure, success, failure}, successes: 1, failures: 3, want: healthy},
		"the threshold of failures":                    {start: healthy, outcomes: []outcome{failure, failure, failure}, successes: 1, failures: 3, want: unhealthy},
		"an attempt that could not be made counts for nothing": {
			start: healthy, outcomes: []outcome{failure, unknown, failure, unknown, failure}, successes: 1, failures: 3, want: unhealthy},
		"an undecided startup that fails for good": {start: undecided, outcomes: []outcome{failure}, successes: 1, failures: 1, want: unhealthy},
		"recovery": {start: healthy, outcomes: []outcome{failure, success}, successes: 1, failures: 1, want: healthy},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tally := tally{verdict: tc.start}
			for _, o := range tc.outcomes {
				tally = tally.count(o, tc.successes, tc.failures)
			}
			if tally.verdict != tc.want {
				t.Errorf("verdict = %d, want %d", tally.verdict, tc.want)
			}
		})
	}
}

package probe

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// outcome of one attempt.
type outcome int

const (
	unknown outcome = iota // the attempt itself could not be made: counts for nothing
	success
	failure
)

// answer to one attempt.
type answer struct {
	outcome outcome
	message string
	warning string // a success the user should hear about
}

// verdict is what a probe has settled on.
type verdict int

const (
	undecided verdict = iota
	healthy
	unhealthy
)

// tally counts answers of one kind in a row until they make a verdict.
type tally struct {
	verdict verdict
	last    outcome
	run     int32
}

// count takes one more answer into account.
func (t tally) count(o outcome, successes, failures int32) tally {
	if o == unknown {
		return t
	}
	if o != t.last {
		t.last, t.run = o, 0
	}
	t.run++
	switch {
	case o == success && t.run >= successes:
		t.verdict = healthy
	case o == failure && t.run >= failures:
		t.verdict = unhealthy
	}
	return t
}

// The API server fills these in; pods from other sources may lack them.
func period(p *corev1.Probe) time.Duration  { return seconds(p.PeriodSeconds, 10) }
func timeout(p *corev1.Probe) time.Duration { return seconds(p.TimeoutSeconds, 1) }
func successes(p *corev1.Probe) int32       { return max(p.SuccessThreshold, 1) }
func failures(p *corev1.Probe) int32 {
	if p.FailureThreshold < 1 {
		return 3
	}
	return p.FailureThreshold
}

func seconds(n, otherwise int32) time.Duration {
	if n < 1 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}

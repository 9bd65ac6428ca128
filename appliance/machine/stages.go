package machine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Stage is a set of components that start side by side.
type Stage []Component

// Started tells how long a component took from the start of its stage until it could serve.
type Started struct {
	Component string        `json:"component"`
	Took      time.Duration `json:"took"`
}

// stopGrace is how long one stage may take to stop before the machine goes on without it: long enough for etcd to
// flush on a slow card, short enough for a service manager's usual 90 s.
const stopGrace = 20 * time.Second

// running is one started component: the machine's side of Component.Run.
type running struct {
	Component
	cancel context.CancelFunc
	ready  chan struct{}
	took   time.Duration // set before ready is closed
	done   chan struct{} // closed after err is set
	err    error
}

// runStages starts the stages in order, calls ready with what each component took when the last stage serves, and
// stops them in reverse when ctx ends or a component fails. The error names the first component that failed.
func runStages(ctx context.Context, log *slog.Logger, stages []Stage, ready func([]Started)) error {
	failed := make(chan *running, count(stages)) // every component can report its end without anybody listening
	var started [][]*running
	var report []Started

	err := func() error {
		for _, stage := range stages {
			members := start(ctx, stage, failed)
			started = append(started, members)
			took, err := await(ctx, log, members, failed)
			report = append(report, took...)
			if err != nil {
				return err
			}
		}
		ready(report)
		select {
		case <-ctx.Done():
			return nil
		case r := <-failed:
			return failure(ctx, r)
		}
	}()

	for i := len(started) - 1; i >= 0; i-- {
		err = errors.Join(err, stop(log, started[i], err == nil))
	}
	return err
}

func count(stages []Stage) int {
	n := 0
	for _, s := range stages {
		n += len(s)
	}
	return n
}

func start(ctx context.Context, stage Stage, failed chan<- *running) []*running {
	begin := time.Now()
	members := make([]*running, 0, len(stage))
	for _, c := range stage {
		// A component outlives ctx until its stage's turn to stop has come.
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		r := &running{Component: c, cancel: cancel, ready: make(chan struct{}), done: make(chan struct{})}
		members = append(members, r)
		go func() {
			var once sync.Once
			r.err = c.Run(own, func() { once.Do(func() { r.took = time.Since(begin); close(r.ready) }) })
			close(r.done)
			failed <- r
		}()
	}
	return members
}

// await returns when every member is ready, one component has ended, or ctx has.
func await(ctx context.Context, log *slog.Logger, members []*running, failed <-chan *running) ([]Started, error) {
	var took []Started
	for _, r := range members {
		select {
		case <-r.ready:
			s := Started{Component: r.Name(), Took: r.took}
			took = append(took, s)
			log.Info("component ready", "component", s.Component, "took", s.Took.Round(time.Millisecond))
		case f := <-failed:
			return took, failure(ctx, f)
		case <-ctx.Done():
			return took, nil
		}
	}
	return took, nil
}

// failure is what the end of a component means: an error, unless the machine was told to stop.
func failure(ctx context.Context, r *running) error {
	if ctx.Err() != nil {
		return nil
	}
	if r.err == nil {
		return fmt.Errorf("%s ended without being told to", r.Name())
	}
	return fmt.Errorf("%s: %w", r.Name(), r.err)
}

// stop cancels the members and waits for their last goroutine. Their errors matter only when nothing failed before.
func stop(log *slog.Logger, members []*running, report bool) error {
	for _, r := range members {
		r.cancel()
	}
	deadline := time.NewTimer(stopGrace)
	defer deadline.Stop()
	var errs []error
	for _, r := range members {
		select {
		case <-r.done:
			if report && r.err != nil && !errors.Is(r.err, context.Canceled) {
				errs = append(errs, fmt.Errorf("stop %s: %w", r.Name(), r.err))
			}
		case <-deadline.C:
			log.Warn("component did not stop in time", "component", r.Name(), "waited", stopGrace)
			return errors.Join(append(errs, fmt.Errorf("stop %s: still running after %s", r.Name(), stopGrace))...)
		}
	}
	return errors.Join(errs...)
}

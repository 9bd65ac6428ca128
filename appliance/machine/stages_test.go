package machine

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// diary records what happened, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) write(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]string(nil), d.lines...)
}

// part is a component that takes a while to start and may fail.
type part struct {
	name      string
	diary     *diary
	startup   time.Duration
	failStart error
	failLater error // after an hour of service
	stuck     bool  // never stops
}

func (p part) Name() string { return p.name }

func (p part) Run(ctx context.Context, ready func()) error {
	p.diary.write("start " + p.name)
	time.Sleep(p.startup)
	if p.failStart != nil {
		return p.failStart
	}
	p.diary.write("ready " + p.name)
	ready()
	if p.failLater != nil {
		time.Sleep(time.Hour)
		return p.failLater
	}
	<-ctx.Done()
	if p.stuck {
		time.Sleep(time.Hour)
	}
	p.diary.write("stop " + p.name)
	return nil
}

func TestRunStages(t *testing.T) {
	broken := errors.New("disk on fire")
	tests := map[string]struct {
		stages  func(d *diary) []Stage
		want    []string
		wantErr string
		ready   bool
	}{
		"stages start in order and stop in reverse": {
			stages: func(d *diary) []Stage {
				return []Stage{
					{part{name: "etcd", diary: d, startup: 2 * time.Second}},
					{part{name: "api", diary: d, startup: time.Second}},
				}
			},
			want:  []string{"start etcd", "ready etcd", "start api", "ready api", "stop api", "stop etcd"},
			ready: true,
		},
		"a part that cannot start stops what runs and is named": {
			stages: func(d *diary) []Stage {
				return []Stage{
					{part{name: "etcd", diary: d}},
					{part{name: "api", diary: d, failStart: broken}},
					{part{name: "agent", diary: d}},
				}
			},
			want:    []string{"start etcd", "ready etcd", "start api", "stop etcd"},
			wantErr: "api: disk on fire",
		},
		"a part of an earlier stage that dies while a later one starts ends the start": {
			stages: func(d *diary) []Stage {
				return []Stage{
					{part{name: "etcd", diary: d, failLater: broken}},
					{part{name: "api", diary: d, startup: 2 * time.Hour, failStart: errors.New("no etcd")}},
				}
			},
			want:    []string{"start etcd", "ready etcd", "start api"},
			wantErr: "etcd: disk on fire",
		},
		"a part that dies in service brings the machine down": {
			stages: func(d *diary) []Stage {
				return []Stage{{part{name: "etcd", diary: d}}, {part{name: "api", diary: d, failLater: broken}}}
			},
			want:    []string{"start etcd", "ready etcd", "start api", "ready api", "stop etcd"},
			wantErr: "api: disk on fire",
			ready:   true,
		},
		"a part that does not stop is named and does not hold the others": {
			stages: func(d *diary) []Stage {
				return []Stage{{part{name: "etcd", diary: d}}, {part{name: "api", diary: d, stuck: true}}}
			},
			want:    []string{"start etcd", "ready etcd", "start api", "ready api", "stop etcd"},
			wantErr: "stop api: still running after 20s",
			ready:   true,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &diary{}
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour)
				defer cancel()
				ready := false
				err := runStages(ctx, slog.New(slog.DiscardHandler), tc.stages(d), func([]Started) { ready = true })
				if diff := cmp.Diff(tc.want, d.read()); diff != "" {
					t.Errorf("order (-want +got):\n%s", diff)
				}
				if got := text(err); got != tc.wantErr && !(tc.wantErr != "" && strings.HasPrefix(got, tc.wantErr)) {
					t.Errorf("runStages() = %q; want %q", got, tc.wantErr)
				}
				if ready != tc.ready {
					t.Errorf("ready = %v; want %v", ready, tc.ready)
				}
				time.Sleep(3 * time.Hour) // lets the stuck ones end, so that no goroutine is left
			})
		})
	}
}

func TestMembersOfAStageStartSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		ctx, cancel := context.WithCancel(t.Context())
		begin := time.Now()
		err := runStages(ctx, slog.New(slog.DiscardHandler), []Stage{{
			part{name: "etcd", diary: d, startup: 3 * time.Second},
			part{name: "containerd", diary: d, startup: 2 * time.Second},
		}}, func(report []Started) {
			if took := time.Since(begin); took != 3*time.Second {
				t.Errorf("the stage took %s; want the 3s of its slowest member", took)
			}
			want := []Started{{"etcd", 3 * time.Second}, {"containerd", 2 * time.Second}}
			if diff := cmp.Diff(want, report); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			cancel()
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

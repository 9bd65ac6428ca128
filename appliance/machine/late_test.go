package machine

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestANodeDoesNotWaitForItsControlPlaneForLong(t *testing.T) {
	tests := map[string]struct {
		store time.Duration // until it serves
		want  []string      // what starts, serves and stops, in order
	}{
		"one that is in time comes first": {
			store: time.Second,
			want:  []string{"start etcd", "ready etcd", "start api", "ready api", "start pods", "ready pods", "stop pods", "stop api", "stop etcd"},
		},
		"one that is late comes later": {
			store: time.Minute,
			want:  []string{"start etcd", "start pods", "ready pods", "ready etcd", "start api", "ready api", "stop pods", "stop api", "stop etcd"},
		},
		"one that never comes is stopped": {
			store: time.Hour,
			want:  []string{"start etcd", "start pods", "ready pods", "stop pods", "ready etcd", "stop etcd"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &diary{}
				ctx, stop := context.WithTimeout(t.Context(), time.Hour-time.Second)
				defer stop()
				b := &builder{log: slog.New(slog.DiscardHandler)}
				store := b.late(part{name: "etcd", diary: d, startup: tc.store})
				stages := []Stage{{store}, {store.then(part{name: "api", diary: d})}, {part{name: "pods", diary: d}}}
				began := time.Now()
				served := time.Duration(0)
				err := runStages(ctx, b.log, stages, func([]Started) { served = time.Since(began) })
				if err != nil || served > controlPatience {
					t.Errorf("runStages() = %v, all served after %s", err, served)
				}
				if diff := cmp.Diff(tc.want, d.read()); diff != "" {
					t.Errorf("what happened (-want +got):\n%s", diff)
				}
			})
		})
	}
}

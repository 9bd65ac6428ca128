package sandbox

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheShimEndsWhenNothingNeedsIt(t *testing.T) {
	tests := map[string]struct {
		happens func(s *Service)
		want    bool
	}{
		"not while the sandbox is there": {func(s *Service) { s.count(1); s.count(-1) }, false},
		"when the sandbox is stopped":    {func(s *Service) { stopSandbox(s) }, true},
		"not while a container is there": {func(s *Service) { s.count(1); stopSandbox(s) }, false},
		"when the last one is deleted":   {func(s *Service) { s.count(1); stopSandbox(s); s.count(-1) }, true},
		"not when another one came late": {func(s *Service) { stopSandbox(s); s.count(1) }, false},
		"when the sandbox is shut down":  {func(s *Service) { _, _ = s.ShutdownSandbox(context.Background(), nil) }, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan struct{}, 2)
				tc.happens(New("", func() { ended <- struct{}{} }))
				time.Sleep(2 * lingering) // of the bubble's clock
				synctest.Wait()
				if got := len(ended) > 0; got != tc.want {
					t.Errorf("ended = %v; want %v", got, tc.want)
				}
			})
		})
	}
}

func stopSandbox(s *Service) { _, _ = s.StopSandbox(context.Background(), nil) }

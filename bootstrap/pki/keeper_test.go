package pki

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestKeeper(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(today)) // of the bubble's clock, which begins in the year 2000
		first := mustEnsure(t, dir, wanted(), time.Now())
		renewed := make(chan *PKI, 1)
		keeper := NewKeeper(dir, wanted(), func(p *PKI) error { renewed <- p; return nil }, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- keeper.Run(ctx, func() {}) }()
		p := <-renewed
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if p.APIServer.Cert.Equal(first.APIServer.Cert) || !p.ClusterCA.Cert.Equal(first.ClusterCA.Cert) {
			t.Error("renewed the wrong ones")
		}
		left := time.Until(first.APIServer.Cert.NotAfter)
		if left > renewBefore || left < renewBefore-2*lookEvery {
			t.Errorf("renewed %v before the end; want about %v", left, renewBefore)
		}
	})
}

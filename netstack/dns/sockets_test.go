package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

// What is asked while a process begins anew is answered when it has, and not with the failure that a view half read would be.
func TestQuestionsWaitForTheNextProcess(t *testing.T) {
	_, view := endpointstest.New(t, web())
	cfg := Config{Address: loopback, Port: freePort(t), Domain: "cluster.local", Resolv: resolvConf(t), Log: slog.New(slog.DiscardHandler)}
	at := netip.AddrPortFrom(loopback, cfg.Port).String()

	before := New(cfg, view)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- before.Run(ctx, func() {}) }()
	for { // until it listens; the view is not complete, so the answer is a failure
		if _, err := dns.Exchange(new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA), at); err == nil {
			break
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}

	replies := make(chan *dns.Msg, 2)
	for _, network := range []string{"udp", "tcp"} {
		go func() {
			client := &dns.Client{Net: network, Timeout: 30 * time.Second}
			reply, _, err := client.Exchange(new(dns.Msg).SetQuestion("web.shop.svc.cluster.local.", dns.TypeA), at)
			if err != nil {
				t.Errorf("asked over %s in between: %v", network, err)
			}
			replies <- reply
		}()
	}
	cfg.Inherited = before.Left()
	after := New(cfg, view)
	ctx, stop = context.WithCancel(t.Context())
	go func() { ended <- after.Run(ctx, func() {}) }()
	endpointstest.Run(t, view)
	for range 2 {
		if reply := <-replies; reply != nil && (reply.Rcode != dns.RcodeSuccess || len(reply.Answer) != 1) {
			t.Errorf("the answer to what was asked in between: %v", reply)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

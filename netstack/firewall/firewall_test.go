package firewall

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"knarr.dev/knarr/netstack/netlab"
	"knarr.dev/knarr/netstack/nft"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(m)) }

func TestWanted(t *testing.T) {
	drop, accept := nft.Verdict(expr.VerdictDrop, ""), nft.Verdict(expr.VerdictAccept, "")
	established := []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Cmp{Register: 1}, accept}
	cases := map[string]struct {
		rules rules
		want  bool
	}{
		"a chain that lets everything pass is left alone":                 {},
		"a policy that drops needs us":                                    {rules{drops: true}, true},
		"a last rule that rejects the rest does":                          {rules{all: [][]expr.Any{established, {&expr.Counter{}, &expr.Reject{}}}}, true},
		"a last rule that drops the rest does":                            {rules{all: [][]expr.Any{established, {drop}}}, true},
		"a last rule that drops some does not":                            {rules{all: [][]expr.Any{{&expr.Meta{}, &expr.Cmp{}, drop}}}, false},
		"a rule that drops everything before others is not ours to judge": {rules{all: [][]expr.Any{{drop}, established}}, false},
		"a jump at the end does not":                                      {rules{all: [][]expr.Any{{nft.Verdict(expr.VerdictJump, "more")}}}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := wanted(tc.rules); got != tc.want {
				t.Errorf("wanted() = %v", got)
			}
		})
	}
}

// The chains of a machine with Docker or ufw are those of iptables-nft: table filter of family ip, with policies.
func TestPodsPassAFirewallThatForwardsNothing(t *testing.T) {
	netlab.NeedKernel(t)
	gateway := netip.MustParseAddr("10.42.0.1")
	pod := netlab.Wire(t, "knarr-pod", "10.42.0.9", gateway) // a name of ours
	outside := netlab.Wire(t, "eth1", "192.168.9.2", netip.MustParseAddr("192.168.9.1"))
	stranger := netlab.Wire(t, "eth2", "192.168.8.2", netip.MustParseAddr("192.168.8.1"))
	pod.Serve("pod", 8080)
	outside.Serve("outside", 8080)
	reaches := func(from *netlab.Host, to string) bool {
		conn, err := from.DialWithin(100*time.Millisecond, "tcp", to)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	conn, err := nftables.New()
	netlab.Check(t, err)
	filter := conn.AddTable(&nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4})
	policy := nftables.ChainPolicyDrop
	chains := map[string]*nftables.ChainHook{"FORWARD": nftables.ChainHookForward, "INPUT": nftables.ChainHookInput}
	shut := func() {
		for name, hook := range chains {
			conn.AddChain(&nftables.Chain{Name: name, Table: filter, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy})
		}
		netlab.Check(t, conn.Flush())
	}
	shut()
	t.Cleanup(func() { conn.DelTable(filter); netlab.Check(t, conn.Flush()) })
	if reaches(pod, "192.168.9.2:8080") {
		t.Fatal("the firewall of this test forwards")
	}

	ctx, stop := context.WithCancel(t.Context())
	ended, ready := make(chan error, 1), make(chan struct{})
	f := New(slog.New(slog.DiscardHandler))
	go func() { ended <- f.Run(ctx, func() { close(ready) }) }()
	<-ready
	both := func() bool { return reaches(pod, "192.168.9.2:8080") && reaches(outside, "10.42.0.9:8080") }
	netlab.Eventually(t, "pods reach others and others pods", both)
	if reaches(stranger, "192.168.9.2:8080") {
		t.Error("what has nothing to do with pods is let through")
	}

	conn.DelTable(filter) // a firewall that is loaded anew
	filter = conn.AddTable(filter)
	shut()
	netlab.Eventually(t, "pods' packets pass again after the firewall was loaded anew", both)
	stop()
	netlab.Check(t, <-ended)

	netlab.Check(t, Remove())
	netlab.Check(t, Remove()) // nothing there is fine
	for name := range chains {
		left, err := conn.GetRules(filter, &nftables.Chain{Name: name, Table: filter})
		netlab.Check(t, err)
		if len(left) != 0 {
			t.Errorf("%d rules are left in %s", len(left), name)
		}
	}
}

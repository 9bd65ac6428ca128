package firewall

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"knarr.dev/knarr/netstack/netlab"
	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
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

func TestWantedInTables(t *testing.T) {
	cases := map[string]struct {
		policy string
		rules  []string
		want   bool
	}{
		"a chain that lets everything pass is left alone": {policy: "ACCEPT"},
		"a policy that drops needs us":                    {policy: "DROP", want: true},
		"a last rule that rejects the rest does":          {"ACCEPT", []string{"-m conntrack --ctstate ESTABLISHED -j ACCEPT", "-j REJECT --reject-with icmp-host-prohibited"}, true},
		"so does one with a comment":                      {"ACCEPT", []string{`-m comment --comment "the rest" -j DROP`}, true},
		"a last rule that drops some does not":            {"ACCEPT", []string{"-s 192.0.2.0/24 -j DROP"}, false},
		"a jump at the end does not":                      {"ACCEPT", []string{"-j DROPS"}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := wantedInTables(tc.policy, tc.rules); got != tc.want {
				t.Errorf("wantedInTables() = %v", got)
			}
		})
	}
}

// firewallOf is somebody else's firewall that lets nothing pass.
type firewallOf struct {
	shut func() // loads it
	drop func() // takes it away
	left func() int
	mute bool // nobody hears of it
}

// TestPodsPassAFirewallThatForwardsNothing has the chains of a machine with Docker or ufw: table filter, with policies.
func TestPodsPassAFirewallThatForwardsNothing(t *testing.T) {
	for name, makeFirewall := range map[string]func(*testing.T) firewallOf{"iptables-nft": ofNftables, "iptables-legacy": ofTables} {
		t.Run(name, func(t *testing.T) { testFirewall(t, makeFirewall(t)) })
	}
}

func ofNftables(t *testing.T) firewallOf {
	netlab.NeedKernel(t)
	conn, err := nftables.New()
	netlab.Check(t, err)
	filter := &nftables.Table{Name: "filter", Family: nftables.TableFamilyIPv4}
	policy := nftables.ChainPolicyDrop
	chains := map[string]*nftables.ChainHook{"FORWARD": nftables.ChainHookForward, "INPUT": nftables.ChainHookInput}
	return firewallOf{
		shut: func() {
			conn.AddTable(filter)
			for name, hook := range chains {
				conn.AddChain(&nftables.Chain{Name: name, Table: filter, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter, Policy: &policy})
			}
			netlab.Check(t, conn.Flush())
		},
		drop: func() { conn.DelTable(filter); netlab.Check(t, conn.Flush()) },
		left: func() (n int) {
			for name := range chains {
				rules, err := conn.GetRules(filter, &nftables.Chain{Name: name, Table: filter})
				netlab.Check(t, err)
				n += len(rules)
			}
			return n
		},
	}
}

func ofTables(t *testing.T) firewallOf {
	netlab.NeedKernel(t)
	if err := xt.Probe(false); err != nil {
		t.Skip(err)
	}
	program, err := xt.Find(false)
	netlab.Check(t, err)
	policy := func(target string) {
		for _, chain := range []string{"FORWARD", "INPUT"} {
			netlab.Check(t, errors.Join(program.ClearChain("filter", chain), program.ChangePolicy("filter", chain, target)))
		}
	}
	return firewallOf{
		mute: true,
		shut: func() { policy("DROP") },
		drop: func() { policy("ACCEPT") },
		left: func() (n int) {
			chains, _, err := program.Dump("filter")
			netlab.Check(t, err)
			return len(chains["FORWARD"]) + len(chains["INPUT"]) + len(chains["OUTPUT"])
		},
	}
}

func testFirewall(t *testing.T, others firewallOf) {
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
	others.shut()
	t.Cleanup(others.drop)
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

	others.drop() // a firewall that is loaded anew
	others.shut()
	if others.mute {
		f.look <- struct{}{} // what happens every xt.Interval
	}
	netlab.Eventually(t, "pods' packets pass again after the firewall was loaded anew", both)
	stop()
	netlab.Check(t, <-ended)

	netlab.Check(t, Remove())
	netlab.Check(t, Remove()) // nothing there is fine
	if n := others.left(); n != 0 {
		t.Errorf("%d rules are left", n)
	}
}

package proxy

import (
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/endpoints/endpointstest"
	"knarr.dev/knarr/netstack/netlab"
	"knarr.dev/knarr/netstack/xt"
)

// readable puts the names of chains back that the kernel has no room for.
func readable(rules map[string][]string, names ...string) map[string][]string {
	var pairs []string
	for _, name := range names {
		pairs = append(pairs, chainFor(name), name)
	}
	replacer := strings.NewReplacer(pairs...)
	out := map[string][]string{}
	for chain, list := range rules {
		var lines []string
		for _, rule := range list {
			lines = append(lines, replacer.Replace(rule))
		}
		out[replacer.Replace(chain)] = lines
	}
	return out
}

func TestRulesOfTables(t *testing.T) {
	both := pool("10.42.0.11:8080", "10.42.7.12:8080")
	sources := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	fixed := map[string][]string{
		chainHide:    {"-j MARK --or-mark 0x4000"},
		chainForeign: {"-s 10.42.0.0/16 -j RETURN", "-j KNARR-SVC-HIDE"},
		chainOut: {
			"-o lo -j RETURN", "-s 10.42.0.11 -d 10.42.0.11 -j MASQUERADE --random-fully",
			"-m mark ! --mark 0x4000/0x4000 -j RETURN", "-j MARK --xor-mark 0x4000", "-j MASQUERADE --random-fully",
		},
		chainNode: {"-d 127.0.0.0/8 -j RETURN", "-d 10.43.0.10 -j RETURN"},
		ownerName: {"-m addrtype --dst-type LOCAL -j KNARR-SVC-NODE"},
	}
	rejects := map[string][]string{
		chainNode: {"-d 127.0.0.0/8 -j RETURN", "-d 10.43.0.10 -j RETURN"},
		ownerName: {
			"-m addrtype --dst-type LOCAL -j KNARR-SVC-NODE", "-d 10.43.0.10 -j RETURN",
			"-d 10.43.0.0/16 -p tcp -j REJECT --reject-with tcp-reset", "-d 10.43.0.0/16 -j REJECT --reject-with icmp-port-unreachable",
		},
	}
	cases := map[string]struct {
		plan        Plan
		nat, filter map[string][]string // beside the fixed; of the fixed, what comes before
	}{
		"without Services only their range is refused": {},
		"an endpoint is drawn, each as likely as the others": {
			plan: Plan{Frontends: map[Frontend]string{tcp("10.43.0.80", 80): "any"}, Chains: map[string]Chain{"any": {Pool: append(both, pool("10.42.7.13:8080")...)}}},
			nat: map[string][]string{
				ownerName: {"-d 10.43.0.80 -p tcp -m tcp --dport 80 -g any"},
				"any": {
					"-j KNARR-SVC-FOREIGN",
					"-p tcp -m statistic --mode random --probability 0.3333333333 -j DNAT --to-destination 10.42.0.11:8080",
					"-p tcp -m statistic --mode random --probability 0.5000000000 -j DNAT --to-destination 10.42.7.12:8080",
					"-p tcp -j DNAT --to-destination 10.42.7.13:8080",
				},
			},
		},
		"clients go back to where they were": {
			plan: Plan{Frontends: map[Frontend]string{tcp("10.43.0.80", 80): "any"}, Chains: map[string]Chain{"any": {Pool: both[:1], Sticky: time.Minute}}},
			nat: map[string][]string{
				ownerName: {"-d 10.43.0.80 -p tcp -m tcp --dport 80 -g any"},
				"any": {
					"-j KNARR-SVC-FOREIGN",
					"-p tcp -m recent --name " + xt.Name("knarr", "any 10.42.0.11:8080") + " --update --seconds 60 --reap --rsource -j DNAT --to-destination 10.42.0.11:8080",
					"-p tcp -m recent --name " + xt.Name("knarr", "any 10.42.0.11:8080") + " --set --rsource -j DNAT --to-destination 10.42.0.11:8080",
				},
			},
		},
		"no endpoint anywhere is said, none here is not": {
			plan: Plan{Frontends: map[Frontend]string{tcp("10.43.0.80", 80): targetReject, tcp("0.0.0.0", 30080): targetReject, udp(53): targetReject, tcp("10.43.0.81", 80): targetDrop}},
			filter: map[string][]string{
				ownerName: {
					"-d 10.43.0.1 -p udp -m udp --dport 53 -j REJECT --reject-with icmp-port-unreachable",
					"-d 10.43.0.80 -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset",
					"-d 10.43.0.81 -p tcp -m tcp --dport 80 -j DROP",
				},
				chainNode: {"-p tcp -m tcp --dport 30080 -j REJECT --reject-with tcp-reset"},
			},
		},
		"a balancer's address is guarded, and who may not pass is dropped": {
			plan: Plan{
				Frontends: map[Frontend]string{tcp("203.0.113.1", 80): "lb", tcp("0.0.0.0", 30080): "out"},
				Chains: map[string]Chain{
					"any": {Pool: both[:1]}, "out": {Kind: outside, Next: "any"}, "lb": {Kind: guard, Sources: sources, Next: "out"},
				},
			},
			nat: map[string][]string{
				ownerName: {"-d 203.0.113.1 -p tcp -m tcp --dport 80 -g lb"},
				chainNode: {"-p tcp -m tcp --dport 30080 -g out"},
				"lb":      {"-s 192.0.2.0/24 -g out"},
				"out":     {"-j KNARR-SVC-HIDE", "-g any"},
				"any":     {"-j KNARR-SVC-FOREIGN", "-p tcp -j DNAT --to-destination 10.42.0.11:8080"},
			},
			filter: map[string][]string{ownerName: {"-d 203.0.113.1 -p tcp -m tcp --dport 80 -j DROP"}},
		},
		"the external Local policy is not for pods and the node, and with nobody here drops": {
			plan: Plan{
				Frontends: map[Frontend]string{tcp("0.0.0.0", 30080): "out"},
				Chains:    map[string]Chain{"any": {Pool: both[:1]}, "out": {Kind: outsideHere, Next: "any"}},
			},
			nat: map[string][]string{
				chainNode: {"-p tcp -m tcp --dport 30080 -g out"},
				"out":     {"-s 10.42.0.0/16 -g any", "-m addrtype --src-type LOCAL -g any"},
				"any":     {"-j KNARR-SVC-FOREIGN", "-p tcp -j DNAT --to-destination 10.42.0.11:8080"},
			},
			filter: map[string][]string{chainNode: {"-p tcp -m tcp --dport 30080 -j DROP"}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			wanted := newTable()
			tc.plan.Loops = []netip.Addr{netip.MustParseAddr("10.42.0.11")}
			if tc.plan.Frontends == nil {
				tc.plan.Chains = map[string]Chain{"unused": {}}
			}
			wanted.apply(map[types.NamespacedName]Plan{serviceKey("web"): tc.plan})
			got := newTables(site, []netip.Prefix{services}).rules(wanted.all())
			for table, rest := range map[string][2]map[string][]string{"nat": {fixed, tc.nat}, "filter": {rejects, tc.filter}} {
				want := maps.Clone(rest[0])
				for chain, rules := range rest[1] {
					if chain == chainNode {
						want[chain] = slices.Concat(want[chain], rules)
					} else {
						want[chain] = slices.Concat(rules, want[chain])
					}
				}
				if diff := cmp.Diff(want, readable(got[xt.Place{Table: table}].Chains, "any", "out", "lb")); diff != "" {
					t.Errorf("table %s (-want +got):\n%s", table, diff)
				}
			}
		})
	}
}

// chainsOfTables are ours.
func chainsOfTables(t testing.TB) (left []string) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		for _, table := range xt.InUse(v6) {
			program, err := xt.Find(v6)
			netlab.Check(t, err)
			chains, _, err := program.Dump(table)
			netlab.Check(t, err)
			for name, rules := range chains {
				if strings.HasPrefix(name, ownerName) || slices.ContainsFunc(rules, func(r string) bool { return strings.HasPrefix(xt.Target(r), ownerName) }) {
					left = append(left, table+" "+name)
				}
			}
		}
	}
	return left
}

func TestTablesThatSomebodyFlushedAreBackAfterALook(t *testing.T) {
	needTables(t)
	client, one := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11")
	one.Serve("one", 8080)
	_, view := endpointstest.Running(t, svc(), sliceOf(ep("10.42.0.11", "here")))
	p := proxyOf(view, true)
	began := time.Now()
	endpointstest.Run(t, p)
	for name, args := range map[string][]string{
		"the whole table":    {"-F"},
		"one chain":          {"-F", chainFor("any4/shop/web/TCP/80")},
		"the way to ours":    {"-F", "PREROUTING"},
		"a rule before ours": {"-I", "PREROUTING", "-j", "ACCEPT"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command("iptables-legacy", append([]string{"-w", "-t", "nat"}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if conn, err := client.DialWithin(100*time.Millisecond, "tcp", "10.43.0.80:80"); err == nil {
				conn.Close()
				if time.Since(began) < xt.Interval { // or it is healed already
					t.Fatal("the harm of this test is none")
				}
			}
			p.flag(&p.unsure) // what Run does every xt.Interval
			netlab.Eventually(t, "the service answers again", func() bool {
				conn, err := client.DialWithin(100*time.Millisecond, "tcp", "10.43.0.80:80")
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
		})
	}
}

func TestOneKindOfRulesTakesTheOtherAway(t *testing.T) {
	needTables(t)
	client, one := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11")
	one.Serve("one", 8080)
	_, view := endpointstest.Running(t, svc(), sliceOf(ep("10.42.0.11", "here")))
	for _, run := range []struct {
		start          func(testing.TB, *endpoints.View) func()
		nftables, ours bool
	}{{start, true, false}, {startTables, false, true}, {start, true, false}} {
		stop := run.start(t, view)
		if name, _, err := client.Ask("tcp", "10.43.0.80:80"); err != nil || name != "one" {
			t.Errorf("%q, %v; want one", name, err)
		}
		stop()
		conn, err := nftables.New()
		netlab.Check(t, err)
		tables, err := conn.ListTables()
		netlab.Check(t, err)
		if got := len(tables) > 0; got != run.nftables {
			t.Errorf("tables of nftables: %v", tables)
		}
		if got := chainsOfTables(t); (len(got) > 0) != run.ours {
			t.Errorf("chains of ip_tables: %v", got)
		}
	}
}

// A change among many Services must not take what they all took.
func TestOneChangeAmongAThousandServicesInTables(t *testing.T) {
	needTables(t)
	client, one, two := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11"), pod(t, "two", "10.42.0.12")
	one.Serve("one", 8080)
	two.Serve("two", 8080)
	cluster, view := endpointstest.Running(t, append(crowd(1000), svc(onlyTCP), sliceOf(ep("10.42.0.11", "here")))...)
	began := time.Now()
	startTables(t, view)
	installed := time.Since(began)
	began = time.Now()
	cluster.Put(sliceOf(ep("10.42.0.12", "here")))
	netlab.Eventually(t, "the change is seen", func() bool {
		name, _, err := client.Ask("tcp", "10.43.0.80:80")
		return err == nil && name == "two"
	})
	t.Logf("1000 services installed in %v, one changed in %v", installed, time.Since(began))
}

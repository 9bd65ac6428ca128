package policy

import (
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/netstack/netlab"
	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// packet is the first of a connection.
type packet struct {
	protocol uint8
	from     netip.Addr
	to       netip.AddrPort
}

// passesTables is passes for what the rules become in ip_tables.
func passesTables(r Rules, p packet) bool {
	want, sets := render(r, []nft.Family{nft.FamilyOf(p.from.Is6())})
	table := want[xt.Place{V6: p.from.Is6(), Table: "mangle"}]
	for _, hook := range table.Hooks {
		if hook.Chain == "FORWARD" && drops(table.Chains, sets, xt.Target(hook.Rule), p) {
			return false
		}
	}
	return true
}

// drops walks a chain as the kernel does.
func drops(chains map[string][]string, sets map[string]ipset, chain string, p packet) bool {
	for _, rule := range chains[chain] {
		if !matches(sets, rule, p) {
			continue
		}
		switch target := xt.Target(rule); target {
		case "DROP":
			return true
		case "RETURN":
			return false
		default:
			if drops(chains, sets, target, p) {
				return true
			}
		}
	}
	return false
}

func matches(sets map[string]ipset, rule string, p packet) bool {
	not, words := false, strings.Fields(rule)
	for i := 0; i < len(words); i++ {
		is := true
		switch word := words[i]; word {
		case "!":
			not = true
			continue
		case "-m", "-j":
			i++
			continue
		case "--ctstate", "--icmpv6-type":
			return false // of another packet
		case "-s", "-d":
			i++
			address := p.from
			if word == "-d" {
				address = p.to.Addr()
			}
			within, err := netip.ParsePrefix(words[i])
			if err != nil {
				within = netip.PrefixFrom(netip.MustParseAddr(words[i]), address.BitLen())
			}
			is = within.Contains(address)
		case "-p":
			i++
			is = protocolNames[p.protocol] == words[i]
		case "--dport":
			i++
			first, last, ranged := strings.Cut(words[i], ":")
			if !ranged {
				last = first
			}
			from, _ := strconv.Atoi(first)
			to, _ := strconv.Atoi(last)
			is = from <= int(p.to.Port()) && int(p.to.Port()) <= to
		case "--match-set":
			set, of := sets[words[i+1]], strings.Split(words[i+2], ",")
			i += 2
			address := p.from
			if of[0] == "dst" {
				address = p.to.Addr()
			}
			is = false
			for m := range set.members {
				is = is || m.prefix.Contains(address) && (len(of) == 1 || m.port == p.to.Port() && m.protocol == p.protocol)
			}
		default:
			panic("a word this test does not know: " + word)
		}
		if is == not {
			return false
		}
		not = false
	}
	return true
}

func TestNamesFitTheKernel(t *testing.T) {
	long := policies(t, peersName, example)
	long[0].Name = strings.Repeat("x", 253)
	c := aCluster(t)
	c.Policies = long
	want, sets := render(Compile(c), []nft.Family{nft.IPv4, nft.IPv6})
	for place, rules := range want {
		for name := range rules.Chains {
			if len(name) > 28 {
				t.Errorf("%v: chain %q has %d letters", place, name, len(name))
			}
		}
	}
	for name := range sets {
		if len(name) > 31 {
			t.Errorf("set %q has %d letters", name, len(name))
		}
	}
	if len(sets) == 0 {
		t.Error("no set at all")
	}
}

// inTables are the chains and sets of ours.
func inTables(t *testing.T) (left []string) {
	t.Helper()
	for _, v6 := range []bool{false, true} {
		if !slices.Contains(xt.InUse(v6), "mangle") {
			continue
		}
		program, err := xt.Find(v6)
		netlab.Check(t, err)
		chains, _, err := program.Dump("mangle")
		netlab.Check(t, err)
		for name := range chains {
			if xt.Ours(name) {
				left = append(left, name)
			}
		}
	}
	sets, err := readSets()
	netlab.Check(t, err)
	for name := range sets {
		left = append(left, name)
	}
	return left
}

// What the kernel holds is what it was told, with each kind of set and rule; and a process that takes over changes nothing.
func TestTablesHoldWhatTheyWereTold(t *testing.T) {
	began := time.Now()
	n := newNodeWith(t, newAPI(t), true)
	for _, text := range []string{example, peersName, portRange, allowFriends, `
metadata: {name: six, namespace: default}
spec:
  podSelector: {}
  ingress: [{from: [{ipBlock: {cidr: "::/0", except: ["fd00:99::/64", "8000::/1"]}}, {ipBlock: {cidr: 0.0.0.0/0, except: [128.0.0.0/1, 10.0.0.1/32]}}]}]`} {
		n.api.policy(text)
	}
	n.pod("db", "10.42.0.2", labels.Set{"role": "db"})
	n.pod("six", "fd00:42::2", labels.Set{"role": "db"})
	n.pod("server", "10.42.0.3", labels.Set{"app": "server"})
	doubted := func() bool {
		n.policy.writing.Lock()
		defer n.policy.writing.Unlock()
		return n.policy.kernel.doubt()
	}
	if doubted() {
		t.Error("the kernel has not what it was told")
	}
	for name, harm := range map[string][]string{
		"a set that somebody emptied":    nil,
		"a table that somebody flushed":  {"-F"},
		"a chain that somebody flushed":  {"-F", chainIn},
		"a rule that accepts before all": {"-I", "FORWARD", "-j", "ACCEPT"},
	} {
		t.Run(name, func(t *testing.T) {
			if harm == nil {
				sets, err := readSets()
				netlab.Check(t, err)
				for name := range sets {
					netlab.Check(t, netlink.IpsetFlush(name))
				}
			} else if out, err := exec.Command("iptables-legacy", append([]string{"-w", "-t", "mangle"}, harm...)...).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !n.policy.suspect() && time.Since(began) < xt.Interval { // or it is healed already
				t.Fatal("it was not noticed")
			}
			netlab.Check(t, n.policy.settle(t.Context(), false))
			if doubted() {
				t.Error("it was not healed")
			}
		})
	}
	n.stop()
	n.start(t.TempDir(), map[netip.Addr]string{netip.MustParseAddr("10.42.0.2"): "default/db"})
	if doubted() {
		t.Error("the kernel has not what the next process told it")
	}
}

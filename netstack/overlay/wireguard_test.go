package overlay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// a key for tests: the same for the same number.
func keyOf(n byte) secret { return secret{n << 3, 31: 64} } // the lowest bits do not count

func publicOf(n byte) wgtypes.Key { return wgtypes.Key(keyOf(n)).PublicKey() }

func keyed(name, key, address string, ranges ...string) Peer {
	p := Peer{Node: name, Key: key, Address: netip.MustParseAddr(address)}
	for _, r := range ranges {
		p.Ranges = append(p.Ranges, netip.MustParsePrefix(r))
	}
	return p
}

func TestTell(t *testing.T) {
	self := keyed("self", keyOf(1).public(), "192.0.2.1", "10.42.0.0/24")
	tests := map[string]struct {
		others []Peer
		want   []string // pods at machine
		silent []string
	}{
		"a node with a key is reached":        {others: []Peer{keyed("a", keyOf(2).public(), "192.0.2.2", "10.42.1.0/24")}, want: []string{"10.42.1.0/24 at 192.0.2.2:51820"}},
		"one without is not":                  {others: []Peer{keyed("a", "", "192.0.2.2", "10.42.1.0/24")}, silent: []string{"a"}},
		"nor one whose key is none":           {others: []Peer{keyed("a", "key", "192.0.2.2", "10.42.1.0/24")}, silent: []string{"a"}},
		"nor one that says our own":           {others: []Peer{keyed("a", keyOf(1).public(), "192.0.2.2", "10.42.1.0/24")}, silent: []string{"a"}},
		"of two that say one the first is":    {others: []Peer{keyed("a", keyOf(2).public(), "192.0.2.2", "10.42.1.0/24"), keyed("b", keyOf(2).public(), "192.0.2.3", "10.42.2.0/24")}, want: []string{"10.42.1.0/24 at 192.0.2.2:51820"}, silent: []string{"b"}},
		"in the families that pods have here": {others: []Peer{keyed("a", keyOf(2).public(), "192.0.2.2", "10.42.1.0/24", "fd42:0:0:1::/64")}, want: []string{"10.42.1.0/24 at 192.0.2.2:51820"}},
		"over IPv6":                           {others: []Peer{keyed("a", keyOf(2).public(), "2001:db8::2", "10.42.1.0/24")}, want: []string{"10.42.1.0/24 at [2001:db8::2]:51820"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			want, ways, silent := tell(view{Self: self, Others: tc.others}, keyOf(1), 7)
			var got []string
			for _, to := range want.peers {
				for _, r := range to.pods {
					if !r.IsValid() {
						continue
					}
					got = append(got, fmt.Sprint(r, " at ", to.at))
					if ways[r] != (route{link: 7}) {
						t.Errorf("pods of %s are sent to %v", r, ways[r])
					}
				}
			}
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got) + cmp.Diff(tc.silent, silent); diff != "" || len(ways) != len(got) {
				t.Errorf("tell() has the ways %v (-want +got):\n%s", ways, diff)
			}
		})
	}
}

func TestChange(t *testing.T) {
	at := func(address, pods string) reach {
		return reach{at: netip.MustParseAddrPort(address), pods: [2]netip.Prefix{netip.MustParsePrefix(pods)}}
	}
	a, b := at("192.0.2.2:51820", "10.42.1.0/24"), at("192.0.2.3:51820", "10.42.2.0/24")
	moved := at("192.0.2.9:51820", "10.42.1.0/24")
	peers := func(known map[byte]reach) map[wgtypes.Key]reach {
		all := map[wgtypes.Key]reach{}
		for n, to := range known {
			all[publicOf(n)] = to
		}
		return all
	}
	tests := map[string]struct {
		want, have told
		words      string // of the configuration protocol, with the keys' numbers
		greet      []byte
	}{
		"what is right is left alone":          {want: told{keyOf(1), peers(map[byte]reach{2: a})}, have: told{keyOf(1), peers(map[byte]reach{2: a})}},
		"a new peer is told of and greeted":    {want: told{keyOf(1), peers(map[byte]reach{2: a})}, have: told{keyOf(1), nil}, words: "peer 2; endpoint=192.0.2.2:51820; replace_allowed_ips=true; allowed_ip=10.42.1.0/24", greet: []byte{2}},
		"one that moved keeps its session":     {want: told{keyOf(1), peers(map[byte]reach{2: moved})}, have: told{keyOf(1), peers(map[byte]reach{2: a})}, words: "peer 2; endpoint=192.0.2.9:51820; replace_allowed_ips=true; allowed_ip=10.42.1.0/24"},
		"one that is gone is removed":          {want: told{keyOf(1), nil}, have: told{keyOf(1), peers(map[byte]reach{3: b})}, words: "peer 3; remove=true"},
		"a new key takes the old one's place":  {want: told{keyOf(1), peers(map[byte]reach{4: a})}, have: told{keyOf(1), peers(map[byte]reach{2: a})}, words: "peer 4; endpoint=192.0.2.2:51820; replace_allowed_ips=true; allowed_ip=10.42.1.0/24; peer 2; remove=true", greet: []byte{4}},
		"all hear of a new key of this node's": {want: told{keyOf(5), peers(map[byte]reach{2: a})}, have: told{keyOf(1), peers(map[byte]reach{2: a})}, words: "private 5", greet: []byte{2}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			cfg, greet := change(tc.want, tc.have)
			got := strings.ReplaceAll(strings.TrimSpace(words(cfg)), "\n", "; ")
			for n := range byte(6) {
				public, private := publicOf(n), keyOf(n)
				got = strings.ReplaceAll(got, fmt.Sprintf("public_key=%x", public[:]), fmt.Sprint("peer ", n))
				got = strings.ReplaceAll(got, fmt.Sprintf("private_key=%x", private[:]), fmt.Sprint("private ", n))
			}
			var greeted []wgtypes.Key
			for _, n := range tc.greet {
				greeted = append(greeted, publicOf(n))
			}
			if diff := cmp.Diff(tc.words, got) + cmp.Diff(greeted, greet); diff != "" {
				t.Errorf("change() (-want +got):\n%s", diff)
			}
		})
	}
}

// A process may be killed between any two steps; the API server may be away. Others must know this node by the key it uses, or
// by the one it will use as soon as it runs.
func TestKeysFollowWhatOthersKnow(t *testing.T) {
	ctx, day := t.Context(), 24*time.Hour
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	published := ""
	publish := func(_ context.Context, key string) error { published = key; return nil }
	away := func(context.Context, string) error { return errors.New("away") }
	file := filepath.Join(t.TempDir(), "network", "wireguard.json")
	again := func() *keys {
		k := &keys{file: file, life: day}
		if err := k.load(); err != nil {
			t.Fatal(err)
		}
		return k
	}
	agree := func(k *keys, when string) {
		t.Helper()
		if k.now.Current.public() != published {
			t.Errorf("%s: others know another key", when)
		}
	}

	k := again()
	if err := k.ensure(start); err != nil {
		t.Fatal(err)
	}
	first := k.now.Current
	if err := k.settle(ctx, "", start, away); err == nil {
		t.Error("a key that nobody heard of is taken for published")
	}
	if err := again().settle(ctx, "", start, publish); err != nil {
		t.Fatal(err)
	}
	agree(again(), "after the first")
	if k = again(); k.now.Current != first {
		t.Error("a second start makes a second key")
	}
	if err := k.settle(ctx, published, start.Add(day-time.Second), away); err != nil {
		t.Errorf("a young key is replaced: %v", err)
	}

	if err := k.settle(ctx, published, start.Add(day), away); err == nil || k.now.Current != first {
		t.Error("a successor is used that nobody heard of")
	}
	if k = again(); k.now.Next == nil {
		t.Fatal("the successor is forgotten")
	}
	if err := publish(ctx, k.now.Next.public()); err != nil { // and is killed before it takes that up
		t.Fatal(err)
	}
	k = again()
	if err := k.settle(ctx, published, start.Add(day+time.Minute), away); err != nil {
		t.Fatal(err)
	}
	agree(k, "after a crash")
	agree(again(), "on disk")
	if k.now.Current == first || k.now.Next != nil {
		t.Error("the old key is still in use")
	}
	if got := k.due(start.Add(day + time.Minute)); got != day {
		t.Errorf("the new key is due in %s", got)
	}
	if got := k.due(start); got != 0 {
		t.Errorf("after the clock went back the key is due in %s", got)
	}

	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k = again(); k.now.Current != (secret{}) {
		t.Error("something is read from a damaged file")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	text := wgtypes.Key(keyOf(1)).String()
	for _, format := range []string{"%v", "%s", "%+v", "%#v"} {
		if got := fmt.Sprintf(format, struct{ Key secret }{keyOf(1)}); strings.Contains(got, text) {
			t.Errorf("%s prints %s", format, got)
		}
	}
}

func TestDirect(t *testing.T) {
	self := keyed("self", "", "192.0.2.1", "10.42.0.0/24", "fd42::/64")
	at := place{link: 3, networks: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/64")}}
	tests := map[string]struct {
		other Peer
		want  map[netip.Prefix]route
	}{
		"a machine on the segment is a next hop": {other: keyed("a", "", "192.0.2.2", "10.42.1.0/24"), want: map[netip.Prefix]route{netip.MustParsePrefix("10.42.1.0/24"): {via: netip.MustParseAddr("192.0.2.2"), link: 3}}},
		"one beyond a router is not":             {other: keyed("a", "", "198.51.100.2", "10.42.1.0/24"), want: map[netip.Prefix]route{}},
		"nor for pods of the other family":       {other: keyed("a", "", "192.0.2.2", "fd42:0:0:1::/64"), want: map[netip.Prefix]route{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := direct(view{Self: self, Others: []Peer{tc.other}}, at)
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("direct() = %v, want %v", got, tc.want)
			}
			tunnelled := plan([]Peer{tc.other}, self, got)
			for _, r := range tc.other.Ranges {
				_, routed := got[r]
				if _, wrapped := tunnelled.routes[r]; routed == wrapped {
					t.Errorf("pods of %s: routed %v, in the tunnel %v", r, routed, wrapped)
				}
			}
		})
	}
}

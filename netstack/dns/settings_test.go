package dns

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/miekg/dns"

	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

func TestParseSettings(t *testing.T) {
	at := func(text string) []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort(text)} }
	cases := map[string]struct {
		data map[string]string
		want Settings
		bad  bool
	}{
		"nothing":                        {},
		"a domain, without a port":       {data: map[string]string{"stubDomains": `{"Corp.Example": ["192.0.2.1"]}`}, want: Settings{Stubs: map[string][]netip.AddrPort{"corp.example.": at("192.0.2.1:53")}}},
		"resolvers with ports":           {data: map[string]string{"upstreamNameservers": `["192.0.2.1#5353"]`}, want: Settings{Upstream: at("192.0.2.1:5353")}},
		"resolvers of IPv6":              {data: map[string]string{"upstreamNameservers": `["[2001:db8::1]:5353"]`}, want: Settings{Upstream: at("[2001:db8::1]:5353")}},
		"what is wrong spoils only that": {data: map[string]string{"stubDomains": `{"a.example": ["here"], "b.example": ["192.0.2.1"]}`, "upstreamNameservers": "nonsense"}, want: Settings{Stubs: map[string][]netip.AddrPort{"b.example.": at("192.0.2.1:53")}}, bad: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSettings(tc.data)
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" || (err != nil) != tc.bad {
				t.Errorf("ParseSettings() = %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestDomainOf(t *testing.T) {
	domains := map[string]bool{"example.": true, "corp.example.": true}
	for name, want := range map[string]string{"a.corp.example.": "corp.example.", "corp.example.": "corp.example.", "notcorp.example.": "example.", "example.com.": ""} {
		if got := domainOf(domains, name); got != want {
			t.Errorf("domainOf(%s) = %q, want %q", name, got, want)
		}
	}
}

// TestSettingsTakeEffectAtOnce has one resolver for everything, then another for one domain, then none of them.
func TestSettingsTakeEffectAtOnce(t *testing.T) {
	says := func(addr, answer string) {
		fake(t, addr, func(w dns.ResponseWriter, r *dns.Msg) {
			m := new(dns.Msg)
			m.SetReply(r)
			m.Answer = []dns.RR{rr(t, r.Question[0].Name+" 3600 IN A "+answer)}
			_ = w.WriteMsg(m)
		})
	}
	says("127.0.53.3", "192.0.2.3")
	says("127.0.53.4", "192.0.2.4")
	_, view := endpointstest.Running(t)
	server, at := served(t, view, "127.0.53.3")
	answer := func(name string) string {
		if all := data(ask(t, at, "udp", name, dns.TypeA).Answer); len(all) == 1 {
			return all[0]
		}
		return ""
	}
	expect := func(when string, want map[string]string) {
		t.Helper()
		for name, address := range want {
			if got := answer(name); got != address {
				t.Errorf("%s %s is %q, want %q", when, name, got, address)
			}
		}
	}
	expect("without settings", map[string]string{"a.corp.example.": "192.0.2.3", "b.example.": "192.0.2.3"})
	server.Follow(map[string]string{"stubDomains": `{"corp.example": ["127.0.53.4"]}`})
	expect("with a domain of its own", map[string]string{"a.corp.example.": "192.0.2.4", "b.example.": "192.0.2.3"})
	server.Follow(map[string]string{"upstreamNameservers": `["127.0.53.4"]`})
	expect("with resolvers for all", map[string]string{"a.corp.example.": "192.0.2.4", "b.example.": "192.0.2.4"})
	server.Follow(nil)
	expect("when the settings are gone", map[string]string{"a.corp.example.": "192.0.2.3", "b.example.": "192.0.2.3"})
}

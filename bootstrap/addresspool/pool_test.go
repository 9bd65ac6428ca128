package addresspool

import (
	"net/netip"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := map[string]struct {
		text    string
		in, out string // addresses that are in it, and that are not
		err     string
	}{
		"one address":              {text: "192.0.2.7", in: "192.0.2.7", out: "192.0.2.6 192.0.2.8"},
		"a range":                  {text: "192.0.2.10-192.0.2.20", in: "192.0.2.10 192.0.2.15 192.0.2.20", out: "192.0.2.9 192.0.2.21"},
		"a network":                {text: "192.0.2.16/28", in: "192.0.2.16 192.0.2.31", out: "192.0.2.15 192.0.2.32 ::1"},
		"an odd network":           {text: "192.0.2.17/29", in: "192.0.2.16 192.0.2.23", out: "192.0.2.24"},
		"both families":            {text: "192.0.2.7, 2001:db8::/112", in: "192.0.2.7 2001:db8::ffff", out: "2001:db8::1:0"},
		"nothing":                  {text: "", out: "192.0.2.7"},
		"no address":               {text: "here", err: "is no address"},
		"a range of two families":  {text: "192.0.2.7-2001:db8::1", err: "two families"},
		"a range that is backward": {text: "192.0.2.7-192.0.2.1", err: "ends before it begins"},
		"half a range":             {text: "192.0.2.7-", err: "does not end"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pool, err := Parse(tc.text)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("Parse() error = %v, want %q", err, tc.err)
			}
			for _, ip := range strings.Fields(tc.in) {
				if !pool.Contains(netip.MustParseAddr(ip)) {
					t.Errorf("%s is not in it", ip)
				}
			}
			for _, ip := range strings.Fields(tc.out) {
				if pool.Contains(netip.MustParseAddr(ip)) {
					t.Errorf("%s is in it", ip)
				}
			}
		})
	}
}

func TestFree(t *testing.T) {
	pool, err := Parse("192.0.2.254-192.0.3.1, 2001:db8::fe/127")
	if err != nil {
		t.Fatal(err)
	}
	taken := map[netip.Addr]bool{}
	for _, want := range []string{"192.0.2.254", "192.0.2.255", "192.0.3.0", "192.0.3.1"} {
		ip, ok := pool.Free(false, taken)
		if !ok || ip.String() != want {
			t.Errorf("Free() = %v, %v; want %s", ip, ok, want)
		}
		taken[ip] = true
	}
	if ip, ok := pool.Free(false, taken); ok {
		t.Errorf("Free() = %v of a full pool", ip)
	}
	if ip, ok := pool.Free(true, taken); !ok || ip.String() != "2001:db8::fe" {
		t.Errorf("Free() = %v, %v of IPv6", ip, ok)
	}
}

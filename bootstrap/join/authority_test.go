package join

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"
	"time"

	"knarr.dev/knarr/bootstrap/pki"
)

func TestPinned(t *testing.T) {
	server := func() *pki.PKI {
		keys, err := pki.Ensure(t.TempDir(), pki.Want{
			NodeName: "server", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			KubernetesService: netip.MustParseAddr("10.43.0.1"), ClusterDomain: "cluster.local",
		})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	ours, theirs := server(), server()
	chain := ours.APIServer.Chain
	presented := append([]*x509.Certificate{ours.APIServer.Cert}, chain...)
	pin := pki.Pin(ours.ClusterCA.Cert)
	tests := map[string]struct {
		presented []*x509.Certificate
		pin, host string
		now       time.Time
		err       string
	}{
		"the server the token is for":            {presented: presented, pin: pin},
		"by its name":                            {presented: presented, pin: pin, host: "server"},
		"another cluster's server":               {presented: []*x509.Certificate{theirs.APIServer.Cert, theirs.ClusterCA.Cert}, pin: pin, err: "not of the cluster"},
		"another server with our authority":      {presented: []*x509.Certificate{theirs.APIServer.Cert, ours.ClusterCA.Cert}, pin: pin, err: "check the server's certificate"},
		"our server without its authority":       {presented: presented[:1], pin: pin, err: "not of the cluster"},
		"our server after another authority":     {presented: []*x509.Certificate{ours.APIServer.Cert, theirs.ClusterCA.Cert, ours.ClusterCA.Cert}, pin: pin},
		"a client of the cluster as its server":  {presented: []*x509.Certificate{ours.Admin.Cert, ours.ClusterCA.Cert}, pin: pin, err: "the server is not known as"},
		"a leaf whose key is the pin":            {presented: []*x509.Certificate{ours.APIServer.Cert, ours.APIServer.Cert}, pin: pki.Pin(ours.APIServer.Cert), err: "not of the cluster"},
		"under an address it is not known by":    {presented: presented, pin: pin, host: "198.51.100.1", err: "join it by its node-ip"},
		"with a clock of years ahead":            {presented: presented, pin: pin, now: time.Now().AddDate(3, 0, 0), err: "compare the clocks"},
		"with a clock that starts at its origin": {presented: presented, pin: pin, now: time.Unix(100, 0)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.host == "" {
				tc.host = "192.0.2.1"
			}
			if tc.now.IsZero() {
				tc.now = time.Now()
			}
			got, err := pinned(tc.presented, tc.pin, tc.host, tc.now)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("pinned() = %v; want an error with %q", err, tc.err)
				}
				return
			}
			if err != nil || !got.Equal(ours.ClusterCA.Cert) {
				t.Errorf("pinned() = %v, %v; want our authority", got, err)
			}
		})
	}
}

func TestReadSettings(t *testing.T) {
	keys, err := pki.Ensure(t.TempDir(), pki.Want{NodeName: "server", KubernetesService: netip.MustParseAddr("10.43.0.1"), ClusterDomain: "cluster.local"})
	if err != nil {
		t.Fatal(err)
	}
	good := Settings{
		ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDNS: "10.43.0.10", ClusterDomain: "cluster.local",
		ClientCA: string(keys.ClientCA.CertPEM), Overlay: "wireguard", PodNetwork: "knarr",
	}
	choiceless := good
	choiceless.Overlay = "vxlan"
	tests := map[string]struct {
		key, value, err string
		want            *Settings // where it is not what was published
	}{
		"what was published":                         {},
		"of a server from before there was a choice": {key: "overlay", want: &choiceless},
		"with an overlay of a later version":         {key: "overlay", value: "sledge", err: `overlay "sledge" is not known`},
		"with a network of tomorrow":                 {key: "pod-network", value: "threads", err: `pod-network "threads" is not known`},
		"without a pod range":                        {key: "cluster-cidr", value: "", err: `cluster-cidr "" is not a range`},
		"without a service range":                    {key: "service-cidr", value: "x", err: `service-cidr "x" is not a range`},
		"without a DNS address":                      {key: "cluster-dns", value: "dns", err: `cluster-dns "dns" is not an address`},
		"without a domain":                           {key: "cluster-domain", value: "", err: "cluster-domain is missing"},
		"without the clients' CA":                    {key: "client-ca", value: "", err: "client-ca: it is not a PEM certificate"},
		"with a damaged clients CA":                  {key: "client-ca", value: "-----BEGIN", err: "client-ca: it is not a PEM certificate"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			data := good.data()
			if tc.key != "" {
				data[tc.key] = tc.value
			}
			want := good
			if tc.want != nil {
				want = *tc.want
			}
			got, err := readSettings(data)
			if tc.err == "" && (err != nil || got != want) || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("readSettings() = %+v, %v; want %q", got, err, tc.err)
			}
		})
	}
}

func TestDue(t *testing.T) {
	from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if got, want := due(&x509.Certificate{NotBefore: from, NotAfter: from.Add(3 * time.Hour)}), from.Add(2*time.Hour); !got.Equal(want) {
		t.Errorf("due() = %s; want %s", got, want)
	}
}

package join

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"knarr.dev/knarr/bootstrap/pki"
)

// TestARenewalSurvivesAPowerCut stops a renewal after each of its steps: the node still has a certificate it can use.
func TestARenewalSurvivesAPowerCut(t *testing.T) {
	issue := func() *pki.Pair {
		keys, err := pki.Ensure(t.TempDir(), pki.Want{
			NodeName: "n1", Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			KubernetesService: netip.MustParseAddr("10.43.0.1"), ClusterDomain: "cluster.local",
		})
		if err != nil {
			t.Fatal(err)
		}
		return keys.NodeClient
	}
	before, after := issue(), issue()
	tests := map[string]struct {
		left map[string][]byte // beside the pair from before
		want *pki.Pair
	}{
		"nothing was written yet":      {want: before},
		"both are safe":                {left: map[string][]byte{".next": append(after.KeyPEM, after.CertPEM...)}, want: after},
		"the key was replaced":         {left: map[string][]byte{".next": append(after.KeyPEM, after.CertPEM...), ".key": after.KeyPEM}, want: after},
		"the certificate was replaced": {left: map[string][]byte{".next": append(after.KeyPEM, after.CertPEM...), ".key": after.KeyPEM, ".crt": after.CertPEM}, want: after},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m := &Member{dir: t.TempDir(), nodeName: "n1", log: slog.New(slog.DiscardHandler)}
			if err := storePair(m.dir, pki.NodeClientFile, before.Key, before.CertPEM); err != nil {
				t.Fatal(err)
			}
			if err := m.storeState(); err != nil {
				t.Fatal(err)
			}
			for suffix, content := range tc.left {
				if err := os.WriteFile(filepath.Join(m.dir, pki.NodeClientFile+suffix), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if stored, err := m.load(time.Now()); !stored || err != nil {
				t.Fatalf("load() = %t, %v; want the place in the cluster to be there", stored, err)
			}
			path := filepath.Join(m.dir, pki.NodeClientFile)
			got, err := pki.LoadPair(path+".crt", path+".key")
			if err != nil {
				t.Fatal(err)
			}
			if !got.Cert.Equal(tc.want.Cert) {
				t.Error("the other certificate is in use")
			}
			if _, err := os.Stat(path + nextPair); !os.IsNotExist(err) {
				t.Errorf("the key lies about in a second file (%v)", err)
			}
		})
	}
}

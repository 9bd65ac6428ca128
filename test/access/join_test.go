package access_test

import (
	"context"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/bootstrap/token"
)

// newToken is one the cluster knows.
func newToken(t *testing.T) token.Token {
	t.Helper()
	text := token.New(pki.Pin(server.PKI.ClusterCA.Cert))
	must(t, token.Create(t.Context(), admin.CoreV1(), text, "a test", time.Now().Add(time.Hour)))
	t.Cleanup(func() {
		if err := token.Revoke(context.Background(), admin.CoreV1(), text.ID); err != nil && !strings.Contains(err.Error(), "there is no token") {
			t.Error(err)
		}
	})
	return text
}

func machine(t *testing.T, name string, text token.Token) *config.Config {
	return &config.Config{
		Role: config.Agent, DataDir: t.TempDir(), NodeName: name, NodeIP: "192.0.2.7", Join: server.URL, Token: config.Secret(text.Reveal()),
	}
}

// register makes the node's object, as its agent would.
func register(t *testing.T, client kubernetes.Interface, name string) *corev1.Node {
	t.Helper()
	node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}}
	node, err = client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
	must(t, err)
	t.Cleanup(func() {
		if err := admin.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return node
}

func TestMachineJoinsAndStays(t *testing.T) {
	c := machine(t, "joins", newToken(t))
	member, err := join.Join(t.Context(), c)
	must(t, err)
	if diff := cmp.Diff(settings, member.Settings); diff != "" {
		t.Errorf("settings (-published +read):\n%s", diff)
	}
	must(t, member.Complete(c))
	if c.ClusterDNS != "10.43.0.10" || c.ServiceCIDR != "10.43.0.0/16" {
		t.Errorf("completed to %+v", c)
	}

	client := clientOf(t, member.RESTConfig())
	self, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(t, err)
	if self.Status.UserInfo.Username != "system:node:joins" {
		t.Errorf("logged in as %s", self.Status.UserInfo.Username)
	}

	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- member.Run(ctx, func() {}) }()
	register(t, client, "joins")
	serving := filepath.Join(c.Paths().PKI(), pki.NodeServerFile)
	var pair *pki.Pair
	eventually(t, "the serving certificate", func() (err error) {
		pair, err = pki.LoadPair(serving+".crt", serving+".key")
		return err
	})
	_, err = pair.Cert.Verify(x509.VerifyOptions{Roots: server.PKI.ClusterCA.Pool(), DNSName: "192.0.2.7"})
	must(t, err)
	cancel()
	must(t, <-ended)

	// After a restart the machine needs neither token nor address.
	restarted := *c
	restarted.Join, restarted.Token = "", ""
	again, err := join.Join(t.Context(), &restarted)
	must(t, err)
	if again.Server != server.URL || again.Settings != member.Settings {
		t.Errorf("after a restart %+v", again)
	}
	entries, err := os.ReadDir(c.Paths().PKI())
	must(t, err)
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", entry.Name(), info.Mode(), err)
		}
	}

	// What the cluster says of itself now counts from the next start.
	changed := settings
	changed.ClusterCIDR += ",fd42::/48"
	must(t, join.Publish(t.Context(), admin.CoreV1(), changed))
	t.Cleanup(func() { must(t, join.Publish(context.Background(), admin.CoreV1(), settings)) })
	for range 2 {
		again, err := join.Join(t.Context(), &restarted)
		must(t, err)
		if again.Settings != changed {
			t.Errorf("after the cluster changed %+v", again.Settings)
		}
	}

	renamed := restarted
	renamed.NodeName = "other"
	if _, err := join.Join(t.Context(), &renamed); err == nil || !strings.Contains(err.Error(), "set node-name to the old name") {
		t.Errorf("under another name: %v", err)
	}
	elsewhere := restarted
	elsewhere.Token = config.Secret(token.New(strings.Repeat("A", 43)).Reveal())
	if _, err := join.Join(t.Context(), &elsewhere); err == nil || !strings.Contains(err.Error(), "knarr reset") {
		t.Errorf("with another cluster's token: %v", err)
	}
}

func TestMachineIsRefused(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, c *config.Config)
		err    string
	}{
		"without a server": {func(_ *testing.T, c *config.Config) { c.Join = "" }, "this machine is in no cluster yet"},
		"without a token":  {func(_ *testing.T, c *config.Config) { c.Token = "" }, "a token is needed"},
		"with a torn token": {func(_ *testing.T, c *config.Config) { c.Token = c.Token[:len(c.Token)-3] },
			"damaged or cut off"},
		"where nobody answers": {func(_ *testing.T, c *config.Config) { c.Join = "https://127.0.0.1:1" }, "no answer from 127.0.0.1:1"},
		"with another cluster's token": {func(_ *testing.T, c *config.Config) {
			c.Token = config.Secret(token.New(strings.Repeat("A", 43)).Reveal())
		}, "not of the cluster the token is for"},
		"with a token the cluster does not know": {func(_ *testing.T, c *config.Config) {
			c.Token = config.Secret(token.New(pki.Pin(server.PKI.ClusterCA.Cert)).Reveal())
		}, "expired or was revoked"},
		"with an expired token": {func(t *testing.T, c *config.Config) {
			old := token.New(pki.Pin(server.PKI.ClusterCA.Cert))
			must(t, token.Create(t.Context(), admin.CoreV1(), old, "", time.Now().Add(-time.Minute)))
			c.Token = config.Secret(old.Reveal())
		}, "expired or was revoked"},
		"by a name the server does not know itself by": {func(_ *testing.T, c *config.Config) {
			c.Join = strings.Replace(c.Join, "127.0.0.1", "127.0.0.2", 1)
		}, "no answer from"}, // the test's server listens on 127.0.0.1 alone
		"under the name of a live node": {func(t *testing.T, c *config.Config) {
			c.NodeName = "alive"
			register(t, as(t, "system:node:alive", "system:nodes"), "alive")
		}, "a node named alive is in this cluster and alive"},
	}
	text := newToken(t)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := machine(t, "refused", text)
			tc.change(t, c)
			_, err := join.Join(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Join() = %v; want an error with %q", err, tc.err)
			}
			if err != nil && c.Token != "" && strings.Contains(err.Error(), string(c.Token[len(c.Token)-10:])) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func TestTokensAreListedAndRevoked(t *testing.T) {
	text := newToken(t)
	grants, err := token.List(t.Context(), admin.CoreV1())
	must(t, err)
	found := false
	for _, grant := range grants {
		found = found || grant.ID == text.ID
	}
	if !found {
		t.Errorf("List() does not have %s", text.ID)
	}
	must(t, token.Revoke(t.Context(), admin.CoreV1(), text.ID))
	if _, err := join.Join(t.Context(), machine(t, "late", text)); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("with a revoked token: %v", err)
	}
}

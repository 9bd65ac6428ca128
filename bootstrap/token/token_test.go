package token

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

var pin = strings.Repeat("A", 43)

func TestParse(t *testing.T) {
	const good = ".abc123.0123456789abcdef"
	tests := map[string]struct{ text, err string }{
		"the whole word":               {text: "KNARR1." + pin + good},
		"with blanks around it":        {text: " KNARR1." + pin + good + "\n"},
		"nothing":                      {text: " ", err: "is empty"},
		"an ordinary bootstrap token":  {text: "abc123.0123456789abcdef", err: "does not begin with KNARR1."},
		"another version":              {text: "KNARR2." + pin + good, err: "another version"},
		"its end cut off":              {text: "KNARR1." + pin + ".abc123.0123456789abc", err: "last part is damaged or cut off"},
		"a part missing":               {text: "KNARR1." + pin + ".abc123", err: "3 parts instead of 4"},
		"a pin that lost a letter":     {text: "KNARR1." + pin[1:] + good, err: "second part"},
		"a pin of other letters":       {text: "KNARR1." + pin[1:] + "!" + good, err: "second part"},
		"an id in capitals":            {text: "KNARR1." + pin + ".ABC123.0123456789abcdef", err: "third part"},
		"a secret with a foreign sign": {text: "KNARR1." + pin + ".abc123.0123456789abcde-", err: "last part"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(tc.text)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("Parse() = %v; want an error with %q", err, tc.err)
				}
				if err != nil && strings.Contains(err.Error(), "0123456789") {
					t.Errorf("the error shows the secret: %v", err)
				}
				return
			}
			if err != nil || got.Reveal() != strings.TrimSpace(tc.text) || got.Bearer() != "abc123.0123456789abcdef" {
				t.Errorf("Parse() = %s, %v", got.Reveal(), err)
			}
		})
	}
}

func TestTokenHidesItsSecret(t *testing.T) {
	token := New(pin)
	if again, err := Parse(token.Reveal()); err != nil || again != token {
		t.Fatalf("a new token reads back as %v, %v", again, err)
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("joining", "token", token)
	for _, printed := range []string{fmt.Sprint(token), fmt.Sprintf("%+v %#v %s", token, token, token), log.String()} {
		if strings.Contains(printed, token.secret) {
			t.Errorf("printed with its secret: %s", printed)
		}
	}
}

func TestFromSecret(t *testing.T) {
	tests := map[string]struct {
		change func(s *corev1.Secret)
		err    string
	}{
		"complete":                {change: func(*corev1.Secret) {}},
		"of another type":         {change: func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, err: "is not of type"},
		"of another name":         {change: func(s *corev1.Secret) { s.Name = "bootstrap-token-xyz789" }, err: "of another name"},
		"without a secret":        {change: func(s *corev1.Secret) { delete(s.Data, keySecret) }, err: "no usable token"},
		"with a garbled end":      {change: func(s *corev1.Secret) { s.Data[keyExpiration] = []byte("soon") }, err: "no readable expiration"},
		"with a group beyond its": {change: func(s *corev1.Secret) { s.Data[keyGroups] = []byte("system:masters") }, err: "cannot have"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			secret := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abc123"},
				Type:       corev1.SecretTypeBootstrapToken,
				Data: map[string][]byte{
					keyID: []byte("abc123"), keySecret: []byte("0123456789abcdef"), keyLogin: []byte("true"),
					keyGroups: []byte("system:bootstrappers:b,system:bootstrappers:a"), keyExpiration: []byte("2026-01-02T03:04:05Z"),
				},
			}
			tc.change(secret)
			got, err := FromSecret(secret)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("FromSecret() = %v; want an error with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			end := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			want := &Grant{ID: "abc123", Groups: []string{"system:bootstrappers:a", "system:bootstrappers:b"}, Login: true, Expires: end}
			if diff := cmp.Diff(want, got, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "secret" }, cmp.Ignore())); diff != "" {
				t.Errorf("grant (-want +got):\n%s", diff)
			}
			if got.Expired(end.Add(-time.Second)) || !got.Expired(end) {
				t.Error("does not end when it says")
			}
			if !got.Matches("0123456789abcdef") || got.Matches("0123456789abcdee") || got.Matches("") {
				t.Error("matches another secret than its own")
			}
		})
	}
}

func TestLifeOfATokenInTheCluster(t *testing.T) {
	ctx, client := t.Context(), fake.NewClientset()
	first, second := New(pin), New(pin)
	end := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for token, expires := range map[Token]time.Time{first: end, second: {}} {
		if err := Create(ctx, client.CoreV1(), token, "a test", expires); err != nil {
			t.Fatal(err)
		}
		// The real API server moves stringData to data.
		secret, err := client.CoreV1().Secrets("kube-system").Get(ctx, SecretName(token.ID), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		secret.Data = map[string][]byte{}
		for key, value := range secret.StringData {
			secret.Data[key] = []byte(value)
		}
		if _, err := client.CoreV1().Secrets("kube-system").Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	grants, err := List(ctx, client.CoreV1())
	if err != nil || len(grants) != 2 || grants[0].ID != first.ID || grants[1].ID != second.ID {
		t.Fatalf("List() = %v, %v; want %s before %s, which never ends", grants, err, first.ID, second.ID)
	}
	if !grants[0].Matches(strings.TrimPrefix(first.Bearer(), first.ID+".")) || !grants[0].Expires.Equal(end) || !grants[0].Login {
		t.Errorf("the grant is not what was created")
	}
	if err := Revoke(ctx, client.CoreV1(), first.Reveal()); err != nil {
		t.Fatal(err)
	}
	if err := Revoke(ctx, client.CoreV1(), first.ID); err == nil || !strings.Contains(err.Error(), "there is no token") {
		t.Errorf("revoking twice: %v", err)
	}
	if err := Revoke(ctx, client.CoreV1(), "nonsense"); err == nil || !strings.Contains(err.Error(), "not a token's name") {
		t.Errorf("revoking nonsense: %v", err)
	}
}

// TestSign compares with a signature that another implementation made (RFC 7515 with HS256).
func TestSign(t *testing.T) {
	g := &Grant{ID: "abcdef", secret: "0123456789abcdef"}
	if got, want := g.Sign("config"), "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..bTeHbksnlLJBm7Vi0Ei2oppeiyS8yaqjp8xiz72--Bs"; got != want {
		t.Errorf("Sign() = %s, want %s", got, want)
	}
}

package authn

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
)

// marked is a cluster that remembers which Secrets were marked as used.
type marked struct {
	cluster
	days *[]string
}

func (m marked) MarkUsed(_ context.Context, secret *corev1.Secret, day string) error {
	*m.days = append(*m.days, secret.Name+" "+day)
	return nil
}

func TestSecretToken(t *testing.T) {
	issuer, err := NewSecretIssuer(signing)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := NewSecretIssuer(newKey())
	if err != nil {
		t.Fatal(err)
	}
	token, err := issuer.Sign(account(), "key")
	if err != nil {
		t.Fatal(err)
	}
	forged, err := stranger.Sign(account(), "key")
	if err != nil {
		t.Fatal(err)
	}
	var (
		sa  = Ref{"serviceaccounts", "default", "builder"}
		ref = Ref{"secrets", "default", "key"}
	)
	secret := func(token string, labels map[string]string) *corev1.Secret {
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "key", UID: "secret-1", Labels: labels},
			Type:       corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(token)},
		}
	}
	going := secret(token, nil)
	going.DeletionTimestamp = &metav1.Time{Time: now}
	type objects = map[Ref]metav1.Object
	tests := map[string]struct {
		token   string // "": the genuine one
		cluster cluster
		asked   authenticator.Audiences
		err     string
		days    []string
	}{
		"logs in, and the day is noted":      {cluster: cluster{fresh: objects{sa: object("sa-1"), ref: secret(token, nil)}}, days: []string{"key 2026-01-02"}},
		"on another day it is noted again":   {cluster: cluster{fresh: objects{sa: object("sa-1"), ref: secret(token, map[string]string{LastUsedLabel: "2026-01-01"})}}, days: []string{"key 2026-01-02"}},
		"once a day is enough":               {cluster: cluster{fresh: objects{sa: object("sa-1"), ref: secret(token, map[string]string{LastUsedLabel: "2026-01-02"})}}},
		"one that was just filled in":        {cluster: cluster{old: objects{sa: object("sa-1"), ref: secret("", nil)}, fresh: objects{sa: object("sa-1"), ref: secret(token, nil)}}, days: []string{"key 2026-01-02"}},
		"ends with its Secret":               {cluster: cluster{fresh: objects{sa: object("sa-1")}}, err: "does not hold this token"},
		"ends when its Secret is deleted":    {cluster: cluster{fresh: objects{sa: object("sa-1"), ref: going}}, err: "does not hold this token"},
		"ends when its Secret gets another":  {cluster: cluster{fresh: objects{sa: object("sa-1"), ref: secret("another", nil)}}, err: "does not hold this token"},
		"ends with its account":              {cluster: cluster{fresh: objects{ref: secret(token, nil)}}, err: "has been deleted"},
		"ends with its account, name or not": {cluster: cluster{fresh: objects{sa: object("sa-2"), ref: secret(token, nil)}}, err: "has been deleted"},
		"was not used for long":              {cluster: cluster{fresh: objects{sa: object("sa-1"), ref: secret(token, map[string]string{InvalidSinceLabel: "2025-12-01"})}}, err: "not good since 2025-12-01"},
		"is not for anybody else":            {asked: authenticator.Audiences{"vault"}, cluster: cluster{fresh: objects{sa: object("sa-1"), ref: secret(token, nil)}}, err: "for the API server only"},
		"with another key":                   {token: forged, cluster: cluster{fresh: objects{sa: object("sa-1"), ref: secret(forged, nil)}}, err: "a key this cluster does not use"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var days []string
			accounts, err := NewServiceAccounts(issuerName, own, marked{tc.cluster, &days}, signing.Public())
			if err != nil {
				t.Fatal(err)
			}
			accounts.now = func() time.Time { return now }
			ctx, bearer := t.Context(), tc.token
			if bearer == "" {
				bearer = token
			}
			if tc.asked != nil {
				ctx = authenticator.WithAudiences(ctx, tc.asked)
			}
			response, ok, err := accounts.AuthenticateToken(ctx, bearer)
			if diff := cmp.Diff(tc.days, days); diff != "" {
				t.Errorf("noted (-want +got):\n%s", diff)
			}
			if tc.err != "" {
				if ok || err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), bearer) {
					t.Errorf("AuthenticateToken() = %v, %v; want an error with %q and without the token", ok, err, tc.err)
				}
				return
			}
			if !ok || err != nil {
				t.Fatalf("AuthenticateToken() = %v, %v", ok, err)
			}
			if u := response.User; u.GetName() != "system:serviceaccount:default:builder" || u.GetUID() != "sa-1" {
				t.Errorf("user %s, %s", u.GetName(), u.GetUID())
			}
		})
	}
}

// What a token costs without the cache that stands before this in a server.
func BenchmarkServiceAccountToken(b *testing.B) {
	issuer, err := NewIssuer(issuerName, own, signing)
	if err != nil {
		b.Fatal(err)
	}
	token, _, err := issuer.Issue(b.Context(), account(), nil, authenticationv1.TokenRequestSpec{})
	if err != nil {
		b.Fatal(err)
	}
	plain, err := NewServiceAccounts(issuerName, own, cluster{fresh: map[Ref]metav1.Object{{"serviceaccounts", "default", "builder"}: object("sa-1")}}, signing.Public())
	if err != nil {
		b.Fatal(err)
	}
	for name, tokens := range map[string]authenticator.Token{"every time": plain, "remembered": cache.New(plain, false, 10*time.Second, 0)} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, ok, err := tokens.AuthenticateToken(b.Context(), token); !ok || err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

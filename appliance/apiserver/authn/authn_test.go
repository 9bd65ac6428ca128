package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/bootstrap/token"
)

const issuerName = "https://kubernetes.default.svc.cluster.local"

var (
	now     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	own     = authenticator.Audiences{issuerName}
	signing = newKey()
)

func newKey() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// cluster is a set of objects and what an old look at it shows.
type cluster struct{ fresh, old map[Ref]metav1.Object }

func (c cluster) Object(_ context.Context, ref Ref, fresh bool) (metav1.Object, error) {
	objects := c.fresh
	if !fresh && c.old != nil {
		objects = c.old
	}
	if object, ok := objects[ref]; ok {
		return object, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: ref.Resource}, ref.Name)
}

func object(uid string) *metav1.ObjectMeta { return &metav1.ObjectMeta{UID: types.UID(uid)} }

func deleted(uid string, at time.Time) *metav1.ObjectMeta {
	return &metav1.ObjectMeta{UID: types.UID(uid), DeletionTimestamp: &metav1.Time{Time: at}}
}

func account() *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "builder", UID: "sa-1"}}
}

func boundTo(kind, name, uid string, node *metav1.ObjectMeta) *resource.BoundObject {
	return &resource.BoundObject{Ref: authenticationv1.BoundObjectReference{Kind: kind, Name: name, UID: types.UID(uid)}, Node: node}
}

func TestServiceAccountToken(t *testing.T) {
	var (
		sa     = Ref{"serviceaccounts", "default", "builder"}
		pod    = Ref{"pods", "default", "web"}
		secret = Ref{"secrets", "default", "key"}
		node   = Ref{"nodes", "", "alpha"}
		alpha  = &metav1.ObjectMeta{Name: "alpha", UID: "node-1"}
		hour   = ptr.To[int64](3600)
	)
	type objects = map[Ref]metav1.Object
	tests := map[string]struct {
		bound    *resource.BoundObject
		spec     authenticationv1.TokenRequestSpec
		key      crypto.Signer // nil: the cluster's
		issuer   string        // "": the cluster's
		cluster  cluster
		wait     time.Duration
		asked    authenticator.Audiences
		extra    map[string][]string
		unknown  bool   // not ours to judge
		err      string // refused
		lifetime time.Duration
	}{
		"unbound": {cluster: cluster{fresh: objects{sa: object("sa-1")}}, lifetime: time.Hour},
		"bound to a pod carries pod and node": {
			bound:   boundTo("Pod", "web", "pod-1", alpha),
			cluster: cluster{fresh: objects{sa: object("sa-1"), pod: object("pod-1")}},
			extra: map[string][]string{
				"authentication.kubernetes.io/pod-name": {"web"}, "authentication.kubernetes.io/pod-uid": {"pod-1"},
				"authentication.kubernetes.io/node-name": {"alpha"}, "authentication.kubernetes.io/node-uid": {"node-1"},
			},
			lifetime: time.Hour,
		},
		"bound to a node carries the node": {
			bound:    boundTo("Node", "alpha", "node-1", nil),
			cluster:  cluster{fresh: objects{sa: object("sa-1"), node: object("node-1")}},
			extra:    map[string][]string{"authentication.kubernetes.io/node-name": {"alpha"}, "authentication.kubernetes.io/node-uid": {"node-1"}},
			lifetime: time.Hour,
		},
		"bound to a secret": {
			bound:    boundTo("Secret", "key", "secret-1", nil),
			cluster:  cluster{fresh: objects{sa: object("sa-1"), secret: object("secret-1")}},
			lifetime: time.Hour,
		},
		"an account that was just created is looked for again": {
			cluster: cluster{old: objects{}, fresh: objects{sa: object("sa-1")}}, lifetime: time.Hour,
		},
		"a pod replaced under its name is gone, unless the look was old": {
			bound:   boundTo("Pod", "web", "pod-1", nil),
			cluster: cluster{old: objects{sa: object("sa-1"), pod: object("pod-0")}, fresh: objects{sa: object("sa-1"), pod: object("pod-1")}},
			extra: map[string][]string{
				"authentication.kubernetes.io/pod-name": {"web"}, "authentication.kubernetes.io/pod-uid": {"pod-1"},
			},
			lifetime: time.Hour,
		},
		"works shortly after its end for clocks that differ": {cluster: cluster{fresh: objects{sa: object("sa-1")}}, wait: time.Hour + 30*time.Second, lifetime: time.Hour},
		"ends with its time":                                      {cluster: cluster{fresh: objects{sa: object("sa-1")}}, wait: time.Hour + 2*time.Minute, err: "expired", lifetime: time.Hour},
		"is not valid long before it was made":                    {cluster: cluster{fresh: objects{sa: object("sa-1")}}, wait: -2 * time.Minute, err: "not valid yet", lifetime: time.Hour},
		"ends with its account":                                   {err: "bound to serviceaccounts default/builder, which has been deleted", lifetime: time.Hour},
		"ends with its account, though another took the name":     {cluster: cluster{fresh: objects{sa: object("sa-2")}}, err: "has been deleted", lifetime: time.Hour},
		"ends with its pod":                                       {bound: boundTo("Pod", "web", "pod-1", nil), cluster: cluster{fresh: objects{sa: object("sa-1")}}, err: "bound to pods default/web", lifetime: time.Hour},
		"ends with its secret":                                    {bound: boundTo("Secret", "key", "secret-1", nil), cluster: cluster{fresh: objects{sa: object("sa-1")}}, err: "bound to secrets default/key", lifetime: time.Hour},
		"ends with its node":                                      {bound: boundTo("Node", "alpha", "node-1", nil), cluster: cluster{fresh: objects{sa: object("sa-1")}}, err: "bound to nodes alpha", lifetime: time.Hour},
		"outlives the deletion time by a minute":                  {cluster: cluster{fresh: objects{sa: deleted("sa-1", now.Add(-30*time.Second))}}, lifetime: time.Hour},
		"ends a minute after the deletion time":                   {cluster: cluster{fresh: objects{sa: deleted("sa-1", now.Add(-61*time.Second))}}, err: "has been deleted", lifetime: time.Hour},
		"for another audience":                                    {spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}, cluster: cluster{fresh: objects{sa: object("sa-1")}}, err: `is for ["vault"]`, lifetime: time.Hour},
		"for another audience when that is asked":                 {spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}, cluster: cluster{fresh: objects{sa: object("sa-1")}}, asked: authenticator.Audiences{"vault"}, lifetime: time.Hour},
		"the API server's own is not for others":                  {cluster: cluster{fresh: objects{sa: object("sa-1")}}, asked: authenticator.Audiences{"vault"}, err: "not for", lifetime: time.Hour},
		"with another key":                                        {key: newKey(), err: "a key this cluster does not use", lifetime: time.Hour},
		"of another issuer is left to others":                     {issuer: "https://elsewhere", unknown: true, lifetime: time.Hour},
		"a pod's own lives for a year and warns after an hour":    {bound: boundTo("Pod", "web", "pod-1", nil), spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3607)}, cluster: cluster{fresh: objects{sa: object("sa-1"), pod: object("pod-1")}}, wait: 300 * 24 * time.Hour, extra: map[string][]string{"authentication.kubernetes.io/pod-name": {"web"}, "authentication.kubernetes.io/pod-uid": {"pod-1"}}, lifetime: 3607 * time.Second},
		"a pod's for another audience does not live longer":       {bound: boundTo("Pod", "web", "pod-1", nil), spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](3607), Audiences: []string{"vault"}}, asked: authenticator.Audiences{"vault"}, wait: 2 * time.Hour, err: "expired", lifetime: 3607 * time.Second},
		"an hour that was asked for is an hour":                   {bound: boundTo("Pod", "web", "pod-1", nil), spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: hour}, wait: 2 * time.Hour, err: "expired", lifetime: time.Hour},
		"of a pod that is being deleted still works for a minute": {bound: boundTo("Pod", "web", "pod-1", nil), cluster: cluster{fresh: objects{sa: object("sa-1"), pod: deleted("pod-1", now.Add(30*time.Second))}}, extra: map[string][]string{"authentication.kubernetes.io/pod-name": {"web"}, "authentication.kubernetes.io/pod-uid": {"pod-1"}}, lifetime: time.Hour},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			key, name := tc.key, tc.issuer
			if key == nil {
				key = signing
			}
			if name == "" {
				name = issuerName
			}
			issuer, err := NewIssuer(name, own, key)
			if err != nil {
				t.Fatal(err)
			}
			issuer.now = func() time.Time { return now }
			text, expires, err := issuer.Issue(t.Context(), account(), tc.bound, tc.spec)
			if err != nil {
				t.Fatal(err)
			}
			if got := expires.Sub(now); got != tc.lifetime {
				t.Errorf("expires after %v; want %v", got, tc.lifetime)
			}
			accounts, err := NewServiceAccounts(issuerName, own, tc.cluster, signing.Public())
			if err != nil {
				t.Fatal(err)
			}
			accounts.now = func() time.Time { return now.Add(tc.wait) }
			ctx := t.Context()
			if tc.asked != nil {
				ctx = authenticator.WithAudiences(ctx, tc.asked)
			}
			response, ok, err := accounts.AuthenticateToken(ctx, text)
			if tc.unknown {
				if ok || err != nil {
					t.Errorf("AuthenticateToken() = %v, %v; want no opinion", ok, err)
				}
				return
			}
			if tc.err != "" {
				if ok || err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("AuthenticateToken() = %v, %v; want an error with %q", ok, err, tc.err)
				}
				return
			}
			if !ok || err != nil {
				t.Fatalf("AuthenticateToken() = %v, %v", ok, err)
			}
			extra := response.User.GetExtra()
			if id := extra[user.CredentialIDKey]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
				t.Errorf("credential id = %q", id)
			}
			delete(extra, user.CredentialIDKey)
			if len(tc.extra) == 0 {
				tc.extra = map[string][]string{}
			}
			if diff := cmp.Diff(tc.extra, extra); diff != "" {
				t.Errorf("extra (-want +got):\n%s", diff)
			}
			groups := []string{"system:serviceaccounts", "system:serviceaccounts:default"}
			if u := response.User; u.GetName() != "system:serviceaccount:default:builder" || u.GetUID() != "sa-1" || !slices.Equal(u.GetGroups(), groups) {
				t.Errorf("user %s, %s, %v", u.GetName(), u.GetUID(), u.GetGroups())
			}
			audiences := own
			if tc.asked != nil {
				audiences = tc.asked
			}
			if diff := cmp.Diff(audiences, response.Audiences); diff != "" {
				t.Errorf("audiences (-want +got):\n%s", diff)
			}
		})
	}
}

func TestForgedTokens(t *testing.T) {
	issuer, err := NewIssuer(issuerName, own, signing)
	if err != nil {
		t.Fatal(err)
	}
	good, _, err := issuer.Issue(t.Context(), account(), nil, authenticationv1.TokenRequestSpec{})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	signature[10] ^= 1
	tests := map[string]struct {
		token   string
		refused bool // an error rather than no opinion
	}{
		"not a token at all":           {token: "abc"},
		"a bootstrap token":            {token: "abc123.0123456789abcdef"},
		"unsigned":                     {token: "eyJhbGciOiJub25lIn0." + parts[1] + "."},
		"signed with the public key":   {token: "eyJhbGciOiJIUzI1NiJ9." + parts[1] + "." + parts[2]},
		"a changed signature":          {token: parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(signature), refused: true},
		"a header that names no key":   {token: "eyJhbGciOiJFUzI1NiJ9." + parts[1] + "." + parts[2], refused: true},
		"empty":                        {token: ""},
		"another token's signed claim": {token: parts[0] + "." + parts[1] + "x." + parts[2]},
	}
	accounts, err := NewServiceAccounts(issuerName, own, cluster{fresh: map[Ref]metav1.Object{{"serviceaccounts", "default", "builder"}: object("sa-1")}}, signing.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok, err := accounts.AuthenticateToken(t.Context(), good); !ok || err != nil {
		t.Fatalf("the genuine one: %v, %v", ok, err)
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, ok, err := accounts.AuthenticateToken(t.Context(), tc.token)
			if ok || (err != nil) != tc.refused {
				t.Errorf("AuthenticateToken() = %v, %v; want refused = %v", ok, err, tc.refused)
			}
			if err != nil && strings.Contains(err.Error(), parts[1]) {
				t.Errorf("the error shows the token: %v", err)
			}
		})
	}
}

func TestBootstrap(t *testing.T) {
	const bearer = "abc123.0123456789abcdef"
	tests := map[string]struct {
		bearer  string
		change  func(data map[string][]byte)
		groups  []string
		unknown bool
		err     string
	}{
		"logs in with its groups":         {groups: []string{"system:bootstrappers", "system:bootstrappers:knarr:nodes"}},
		"without groups of its own":       {change: func(d map[string][]byte) { delete(d, "auth-extra-groups") }, groups: []string{"system:bootstrappers"}},
		"a wrong secret":                  {bearer: "abc123.0123456789abcdeX", unknown: true},
		"another secret":                  {bearer: "abc123.0123456789abcdee", err: "another secret"},
		"an id that is not there":         {bearer: "xyz789.0123456789abcdef", err: "there is no bootstrap token xyz789"},
		"expired":                         {change: func(d map[string][]byte) { d["expiration"] = []byte("2026-01-02T03:04:05Z") }, err: "has expired"},
		"not for logging in":              {change: func(d map[string][]byte) { delete(d, "usage-bootstrap-authentication") }, err: "not for logging in"},
		"with a group beyond its reach":   {change: func(d map[string][]byte) { d["auth-extra-groups"] = []byte("system:masters") }, err: "cannot have"},
		"a service-account token":         {bearer: "eyJhbGciOiJFUzI1NiJ9.e30.AA", unknown: true},
		"a bearer with a path in its id":  {bearer: "../abc.0123456789abcdef", unknown: true},
		"a bearer with upper-case letter": {bearer: "ABC123.0123456789abcdef", unknown: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			data := map[string][]byte{
				"token-id": []byte("abc123"), "token-secret": []byte("0123456789abcdef"), "expiration": []byte("2026-01-02T03:04:06Z"),
				"usage-bootstrap-authentication": []byte("true"), "auth-extra-groups": []byte("system:bootstrappers:knarr:nodes"),
			}
			if tc.change != nil {
				tc.change(data)
			}
			secret := &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: token.SecretName("abc123")},
				Type:       corev1.SecretTypeBootstrapToken, Data: data,
			}
			bootstrap := NewBootstrap(fake.NewClientset(secret).CoreV1())
			bootstrap.now = func() time.Time { return now }
			login := tc.bearer
			if login == "" {
				login = bearer
			}
			response, ok, err := bootstrap.AuthenticateToken(t.Context(), login)
			switch {
			case tc.unknown:
				if ok || err != nil {
					t.Errorf("AuthenticateToken() = %v, %v; want no opinion", ok, err)
				}
			case tc.err != "":
				if ok || err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "0123456789") {
					t.Errorf("AuthenticateToken() = %v, %v; want an error with %q and without the secret", ok, err, tc.err)
				}
			case !ok || err != nil:
				t.Errorf("AuthenticateToken() = %v, %v", ok, err)
			case response.User.GetName() != "system:bootstrap:abc123" || !slices.Equal(response.User.GetGroups(), tc.groups):
				t.Errorf("user %s, %v; want groups %v", response.User.GetName(), response.User.GetGroups(), tc.groups)
			}
		})
	}
}

// A stranger who has nothing but the documents can check a token.
func TestDiscovery(t *testing.T) {
	old, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	discovery, err := NewDiscovery(issuerName, signing.Public(), old.Public())
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	discovery.Install(mux)
	get := func(path, mediaType string, into any) {
		t.Helper()
		recorder := httptest.NewRecorder()
		mux.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, path, nil))
		if got := recorder.Header().Get("Content-Type"); got != mediaType {
			t.Errorf("%s is %s; want %s", path, got, mediaType)
		}
		if err := json.Unmarshal(recorder.Body.Bytes(), into); err != nil {
			t.Fatal(err)
		}
	}
	var configuration map[string]any
	get("/.well-known/openid-configuration", "application/json", &configuration)
	want := map[string]any{
		"issuer": issuerName, "jwks_uri": issuerName + "/openid/v1/jwks", "response_types_supported": []any{"id_token"},
		"subject_types_supported": []any{"public"}, "id_token_signing_alg_values_supported": []any{"ES256", "RS256"},
	}
	if diff := cmp.Diff(want, configuration); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	var set jose.JSONWebKeySet
	get("/openid/v1/jwks", "application/jwk-set+json", &set)
	for _, key := range []crypto.Signer{signing, old} {
		issuer, err := NewIssuer(issuerName, own, key)
		if err != nil {
			t.Fatal(err)
		}
		text, _, err := issuer.Issue(t.Context(), account(), nil, authenticationv1.TokenRequestSpec{})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := jose.ParseSigned(text, []jose.SignatureAlgorithm{jose.ES256, jose.RS256})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signed.Verify(set); err != nil {
			t.Errorf("a token does not verify with the published keys: %v", err)
		}
	}
}

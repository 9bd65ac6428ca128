package registries

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func read(t *testing.T, text string) (*Registries, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "registries.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Read(file)
}

func TestHosts(t *testing.T) {
	tests := map[string]struct {
		text string
		want map[string]string
	}{
		"a mirror is asked before the registry itself": {
			text: "mirrors: {docker.io: {endpoint: ['https://mirror.example:5000', 'mirror.example/base/', 'https://mirror.example:5000']}}",
			want: map[string]string{"docker.io": `server = "https://registry-1.docker.io/v2"

[host."https://mirror.example:5000/v2"]
  capabilities = ["pull", "resolve"]
  override_path = true

[host."https://mirror.example/base"]
  capabilities = ["pull", "resolve"]
  override_path = true
`},
		},
		"a star is for all registries": {
			text: "mirrors: {'*': {endpoint: ['http://10.0.0.1:5000']}}",
			want: map[string]string{"_default": `
[host."http://10.0.0.1:5000/v2"]
  capabilities = ["pull", "resolve"]
  override_path = true
`},
		},
		"a registry of its own certificates needs no mirror": {
			text: "configs: {'registry.example:5000': {tls: {ca_file: /dev/null, cert_file: /dev/null, key_file: /dev/null, insecure_skip_verify: true}}}",
			want: map[string]string{"registry.example_5000_": `server = "https://registry.example:5000/v2"
ca = "/dev/null"
client = [["/dev/null", "/dev/null"]]
skip_verify = true
`},
		},
		"rewritten names go through the proxy, with the place's certificates": {
			text: "mirrors: {quay.io: {endpoint: ['https://mirror.example'], rewrite: {'^(.*)$': 'quay/$1'}}}\nconfigs: {mirror.example: {tls: {insecure_skip_verify: true}}}",
			want: map[string]string{
				"mirror.example": "server = \"https://mirror.example/v2\"\nskip_verify = true\n",
				"quay.io":        "server = \"https://quay.io/v2\"\n\n[host.\"http://proxy/v2\"]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n  skip_verify = true\n",
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := read(t, tc.text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := r.hosts(func(place) (*url.URL, error) { return url.Parse("http://proxy/v2") })
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReadSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"mirror: {}": `unknown field "mirror"`,
		"mirrors: {docker.io: {endpoint: ['ftp://x']}}":    `endpoint "ftp://x" is not a URL`,
		"mirrors: {docker.io/library: {}}":                 "is not the host of a registry",
		"mirrors: {docker.io: {rewrite: {'(': x}}}":        `rewrite "("`,
		"configs: {a: {tls: {cert_file: /dev/null}}}":      "go together",
		"configs: {a: {tls: {ca_file: /nowhere/ca.crt}}}":  "/nowhere/ca.crt",
		"configs: {a: {auth: {auth: c2VjcmV0}}}":           "auth.auth is not name:password",
		"configs: {a: {auth: {username: a, passwort: b}}}": `unknown field "passwort"`,
	} {
		if _, err := read(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
	if r, err := Read("/nowhere/registries.yaml"); r != nil || err != nil {
		t.Errorf("a file that is not there: %v, %v", r, err)
	}
}

func TestLogin(t *testing.T) {
	r, err := read(t, `
configs:
  docker.io: {auth: {username: hub, password: a}}
  token.example: {auth: {identity_token: t}}
  both.example: {auth: {auth: dXNlcjpwYXNz}}
  "*": {auth: {username: any, password: b}}
`)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"registry-1.docker.io": "hub:a", "token.example": ":t", "both.example": "user:pass", "other.example": "any:b",
	} {
		if user, secret := r.Login(host); user+":"+secret != want {
			t.Errorf("login for %s is %s:%s; want %s", host, user, secret, want)
		}
	}
}

func TestRewrite(t *testing.T) {
	rules := map[string]string{"^library/(.*)": "hub/$1", "^team/app$": "apps/team", "^team/": "teams/"}
	for path, want := range map[string]string{
		"library/busybox/manifests/latest":    "hub/busybox/manifests/latest",
		"team/app/blobs/sha256:0":             "apps/team/blobs/sha256:0",
		"team/other/manifests/1":              "teams/other/manifests/1",
		"elsewhere/manifests/manifests/1":     "elsewhere/manifests/manifests/1",
		"":                                    "",
		"library/manifests/x/manifests/later": "hub/manifests/x/manifests/later",
	} {
		if got := rewrite(path, compile(rules)); got != want {
			t.Errorf("rewrite(%q) = %q; want %q", path, got, want)
		}
	}
}

func TestProxyAsksUnderTheNewName(t *testing.T) {
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://token.example"`)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, r.URL.RequestURI()+" "+r.Header.Get("Authorization"))
	}))
	defer mirror.Close()
	r, err := read(t, "mirrors: {docker.io: {endpoint: ['"+mirror.URL+"/cache'], rewrite: {'^library/': 'hub/'}}}\n"+
		"configs: {'"+strings.TrimPrefix(mirror.URL, "http://")+"': {auth: {username: u, password: p}}}")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	login, done, err := r.Serve(t.Context(), dir, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	text, err := os.ReadFile(filepath.Join(dir, "docker.io", "hosts.toml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), `[host."`)
	at, _, _ := strings.Cut(rest, `"`)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at+"/library/busybox/manifests/1?ns=docker.io", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer x")
	answer, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	if got := string(body); got != "/cache/hub/busybox/manifests/1?ns=docker.io Bearer x" {
		t.Errorf("the mirror was asked for %q", got)
	}
	if got := answer.Header.Get("Location"); got != mirror.URL+"/elsewhere" {
		t.Errorf("Location is %q", got)
	}
	if answer.Header.Get("WWW-Authenticate") == "" {
		t.Error("the challenge was lost")
	}
	host, _ := url.Parse(at)
	if user, secret := login(host.Host); user != "u" || secret != "p" {
		t.Errorf("login for the proxy is %s:%s; want the mirror's", user, secret)
	}
}

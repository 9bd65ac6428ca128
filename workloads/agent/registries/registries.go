// Package registries says where images of each registry are fetched from on this machine.
//
// In:       registries.yaml, in the format users of k3s know (mirrors, rewrites, configs with auth and tls).
// Out:      a folder of hosts.toml files for containerd, the login for each host, and, where names are rewritten, a proxy
// on loopback that does it, because containerd has no word for that.
// Promise:  a mistake in the file is an error at the start that says what is wrong; logins stay in memory.
// Not here: logins of pods and of provider programs (workloads/agent/credentials), pulling (workloads/agent/runtime).
package registries

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Registries is the whole of registries.yaml.
type Registries struct {
	Mirrors map[string]Mirror `json:"mirrors,omitempty"` // by the registry's host, or * for those not named
	Configs map[string]Config `json:"configs,omitempty"` // by the host and port of a registry or an endpoint, or *
}

// Mirror is where images of one registry are looked for before the registry itself is asked.
type Mirror struct {
	Endpoints []string          `json:"endpoint,omitempty"` // URLs; without a path, /v2 is meant
	Rewrites  map[string]string `json:"rewrite,omitempty"`  // regular expression to replacement ($1), of the name without the host
}

// Config is how one host is talked to.
type Config struct {
	Auth *Auth `json:"auth,omitempty"`
	TLS  *TLS  `json:"tls,omitempty"`
}

// Auth is a login; auth is name:password in base64.
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"`
	IdentityToken string `json:"identity_token,omitempty"`
}

// TLS names files.
type TLS struct {
	CAFile             string `json:"ca_file,omitempty"`
	CertFile           string `json:"cert_file,omitempty"`
	KeyFile            string `json:"key_file,omitempty"`
	InsecureSkipVerify bool   `json:"insecure_skip_verify,omitempty"`
}

// everything is the name of what holds for registries and hosts that are not named.
const everything = "*"

// Read reads a file; one that is not there is nil.
func Read(file string) (*Registries, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read registries: %w", err)
	}
	r := &Registries{}
	if err := yaml.UnmarshalStrict(text, r); err != nil {
		return nil, fmt.Errorf("read registries %s: %w", file, err)
	}
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("registries %s: %w", file, err)
	}
	return r, nil
}

// Validate says everything that is wrong at once.
func (r *Registries) Validate() error {
	var problems []error
	report := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for _, name := range slices.Sorted(maps.Keys(r.Mirrors)) {
		if name != everything && (name == "" || strings.Contains(name, "/")) {
			report("mirrors: %q is not the host of a registry: write one such as docker.io, or \"*\"", name)
		}
		mirror := r.Mirrors[name]
		for _, endpoint := range mirror.Endpoints {
			if u, err := parseEndpoint(endpoint); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
				report("mirrors: %s: endpoint %q is not a URL: write one such as https://mirror.example:5000", name, endpoint)
			}
		}
		for _, pattern := range slices.Sorted(maps.Keys(mirror.Rewrites)) {
			if _, err := regexp.Compile(pattern); err != nil {
				report("mirrors: %s: rewrite %q: %w", name, pattern, err)
			}
		}
	}
	for _, host := range slices.Sorted(maps.Keys(r.Configs)) {
		config := r.Configs[host]
		if tls := config.TLS; tls != nil {
			if (tls.CertFile == "") != (tls.KeyFile == "") {
				report("configs: %s: tls: cert_file and key_file go together", host)
			}
			for _, file := range []string{tls.CAFile, tls.CertFile, tls.KeyFile} {
				if _, err := os.Stat(file); file != "" && err != nil {
					report("configs: %s: tls: %w", host, err)
				}
			}
		}
		if auth := config.Auth; auth != nil && auth.Auth != "" {
			if plain, err := base64.StdEncoding.DecodeString(auth.Auth); err != nil || !strings.Contains(string(plain), ":") {
				report("configs: %s: auth.auth is not name:password in base64", host)
			}
		}
	}
	return errors.Join(problems...)
}

// parseEndpoint completes an endpoint: https, and /v2 if it has no path of its own.
func parseEndpoint(endpoint string) (*url.URL, error) {
	if !strings.Contains(endpoint, "://") {
		endpoint = "https://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, err
	}
	if u.Path = strings.TrimSuffix(u.Path, "/"); u.Path == "" {
		u.Path = "/v2"
	}
	return u, nil
}

// Login is the user and the password (or, with no user, the token) for a host; both are empty for one that has none.
func (r *Registries) Login(host string) (user, secret string) {
	auth := r.config(host).Auth
	switch {
	case auth == nil:
	case auth.Username != "":
		return auth.Username, auth.Password
	case auth.IdentityToken != "":
		return "", auth.IdentityToken
	case auth.Auth != "":
		if plain, err := base64.StdEncoding.DecodeString(auth.Auth); err == nil {
			user, secret, _ = strings.Cut(string(plain), ":")
		}
	}
	return user, secret
}

// config is what holds for a host. Docker Hub is known by two names.
func (r *Registries) config(host string) Config {
	for _, name := range []string{host, map[string]string{"registry-1.docker.io": "docker.io"}[host], everything} {
		if config, ok := r.Configs[name]; ok && name != "" {
			return config
		}
	}
	return Config{}
}

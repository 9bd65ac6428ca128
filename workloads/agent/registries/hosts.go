package registries

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"knarr.dev/knarr/bootstrap/durable"
)

// place is one URL images are fetched from.
type place struct {
	url      *url.URL
	rewrites map[string]string
}

// hosts are the files containerd reads, by the name of the folder each is in. through says at which URL a place with
// rewrites is reached instead.
func (r *Registries) hosts(through func(place) (*url.URL, error)) (map[string]string, error) {
	names := map[string]bool{}
	for name := range r.Mirrors {
		names[name] = true
	}
	for host, config := range r.Configs {
		if config.TLS != nil {
			names[host] = true
		}
	}
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		text, err := r.hostsOf(name, through)
		if err != nil {
			return nil, err
		}
		out[folder(name)] = text
	}
	return out, nil
}

func (r *Registries) hostsOf(name string, through func(place) (*url.URL, error)) (string, error) {
	var b strings.Builder
	if name == everything {
		b.WriteString(tlsLines(r.Configs[everything].TLS)) // of the registry itself, whichever it is
	} else {
		fmt.Fprintf(&b, "server = %q\n", "https://"+home(name)+"/v2")
		b.WriteString(tlsLines(r.config(home(name)).TLS))
	}
	mirror, named := r.Mirrors[name]
	if !named {
		mirror = r.Mirrors[everything]
	}
	seen := map[string]bool{}
	for _, endpoint := range mirror.Endpoints {
		u, err := parseEndpoint(endpoint)
		if err != nil {
			return "", err
		}
		if seen[u.String()] {
			continue
		}
		seen[u.String()] = true
		tls, at := r.config(u.Host).TLS, u
		if len(mirror.Rewrites) > 0 {
			if at, err = through(place{url: u, rewrites: mirror.Rewrites}); err != nil {
				return "", err
			}
		}
		fmt.Fprintf(&b, "\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  override_path = true\n", at)
		for line := range strings.Lines(tlsLines(tls)) {
			b.WriteString("  " + line)
		}
	}
	return b.String(), nil
}

func tlsLines(tls *TLS) string {
	if tls == nil {
		return ""
	}
	var b strings.Builder
	if tls.CAFile != "" {
		fmt.Fprintf(&b, "ca = %s\n", strconv.Quote(tls.CAFile))
	}
	if tls.CertFile != "" {
		fmt.Fprintf(&b, "client = [[%s, %s]]\n", strconv.Quote(tls.CertFile), strconv.Quote(tls.KeyFile))
	}
	if tls.InsecureSkipVerify {
		b.WriteString("skip_verify = true\n")
	}
	return b.String()
}

// home is the host a registry is at.
func home(name string) string {
	if name == "docker.io" {
		return "registry-1.docker.io"
	}
	return name
}

// folder is where containerd looks for what it is told about a registry.
func folder(name string) string {
	if name == everything {
		return "_default"
	}
	if host, port, ok := strings.Cut(name, ":"); ok {
		return host + "_" + port + "_"
	}
	return name
}

// write replaces everything in dir by files.
func write(dir string, files map[string]string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clear %s: %w", dir, err)
	}
	for name, text := range files {
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(at, 0o700), durable.Replace(filepath.Join(at, "hosts.toml"), []byte(text), 0o600)); err != nil {
			return fmt.Errorf("tell containerd of registry %s: %w", name, err)
		}
	}
	return nil
}

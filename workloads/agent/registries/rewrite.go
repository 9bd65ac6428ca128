package registries

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Serve writes what containerd is to know into dir and, while ctx lasts, rewrites names where that is asked for. login
// answers for the hosts containerd will ask for; it is there when Serve returns. Done waits for the end.
func (r *Registries) Serve(ctx context.Context, dir string, log *slog.Logger) (login func(host string) (user, secret string), done func(), err error) {
	var servers []*http.Server
	behind := map[string]string{} // a proxy's address to the host it stands for
	var running sync.WaitGroup
	stop := func() {
		for _, s := range servers {
			_ = s.Close()
		}
	}
	files, err := r.hosts(func(p place) (*url.URL, error) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("listen for images of %s: %w", p.url.Host, err)
		}
		transport, err := r.transport(p.url.Host)
		if err != nil {
			return nil, errors.Join(err, listener.Close())
		}
		s := &http.Server{Handler: proxy(p, transport, log), ReadHeaderTimeout: 10 * time.Second}
		servers = append(servers, s)
		running.Go(func() { _ = s.Serve(listener) }) // ends with Close
		behind[listener.Addr().String()] = p.url.Host
		return &url.URL{Scheme: "http", Host: listener.Addr().String(), Path: "/v2"}, nil
	})
	if err == nil {
		err = write(dir, files)
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	ended := context.AfterFunc(ctx, stop)
	login = func(host string) (string, string) {
		if real, ok := behind[host]; ok {
			host = real
		}
		return r.Login(host)
	}
	return login, func() {
		ended()
		stop()
		running.Wait()
	}, nil
}

func (r *Registries) transport(host string) (http.RoundTripper, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.IdleConnTimeout = 10 * time.Second
	tls := r.config(host).TLS
	if tls == nil {
		return transport, nil
	}
	var err error
	transport.TLSClientConfig, err = clientTLS(tls)
	return transport, err
}

// rule renames images.
type rule struct {
	pattern *regexp.Regexp
	name    string
}

// compile puts the longest pattern first: it says most.
func compile(rewrites map[string]string) []rule {
	var rules []rule
	for _, pattern := range slices.SortedFunc(maps.Keys(rewrites), func(a, b string) int { return cmp.Or(len(b)-len(a), cmp.Compare(a, b)) }) {
		rules = append(rules, rule{regexp.MustCompile(pattern), rewrites[pattern]}) // Validate has tried it
	}
	return rules
}

// rewrite renames what one path below /v2 is about; paths are <name>/<kind>/<reference>, and names have slashes.
func rewrite(path string, rules []rule) string {
	for _, kind := range []string{"/manifests/", "/blobs/", "/referrers/", "/tags/"} {
		at := strings.LastIndex(path, kind)
		if at <= 0 {
			continue
		}
		for _, r := range rules {
			if name := path[:at]; r.pattern.MatchString(name) {
				return r.pattern.ReplaceAllString(name, r.name) + path[at:]
			}
		}
	}
	return path
}

// proxy passes requests on to a place, under the names it has there. Challenges come back as they are: they name the
// place's own token server and its own names.
func proxy(p place, transport http.RoundTripper, log *slog.Logger) http.Handler {
	rules := compile(p.rewrites)
	return &httputil.ReverseProxy{
		Transport: transport,
		ErrorLog:  slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		Rewrite: func(r *httputil.ProxyRequest) {
			asked := strings.TrimPrefix(strings.TrimPrefix(r.In.URL.Path, "/v2"), "/")
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = p.url.Scheme, p.url.Host, p.url.Host
			r.Out.URL.Path = p.url.Path + "/" + rewrite(asked, rules)
			r.Out.URL.RawPath = ""
		},
		ModifyResponse: func(answer *http.Response) error {
			if to := answer.Header.Get("Location"); to != "" { // relative to the place, not to us
				if u, err := answer.Request.URL.Parse(to); err == nil {
					answer.Header.Set("Location", u.String())
				}
			}
			return nil
		},
	}
}

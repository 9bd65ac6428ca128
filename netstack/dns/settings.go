package dns

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// ConfigMapName is the ConfigMap, in namespace kube-system, that says whom to ask about names outside the cluster. Name
// and keys are those of kube-dns, which the Kubernetes documentation describes ("Customizing DNS Service") and which say
// what is wanted rather than how one program is configured.
const ConfigMapName = "kube-dns"

// Settings are what that ConfigMap says.
type Settings struct {
	Stubs    map[string][]netip.AddrPort // by domain, as in dns.CanonicalName: who is asked about names in it
	Upstream []netip.AddrPort            // who is asked about all others; none: the host's resolvers
}

// ParseSettings reads the ConfigMap's data. What cannot be read is left out, and err says so.
func ParseSettings(data map[string]string) (s Settings, err error) {
	stubs, upstream := map[string][]string{}, []string(nil)
	var errs []error
	read := func(key string, into any) {
		if text := strings.TrimSpace(data[key]); text != "" {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				errs = append(errs, fmt.Errorf("key %s: %w", key, err))
			}
		}
	}
	read("stubDomains", &stubs)
	read("upstreamNameservers", &upstream)
	s.Stubs = map[string][]netip.AddrPort{}
	for domain, texts := range stubs {
		addrs, err := resolverAddrs(texts)
		_, valid := dns.IsDomainName(domain)
		if err != nil || !valid || len(addrs) == 0 {
			errs = append(errs, errors.Join(err, fmt.Errorf("key stubDomains: %q does not name a domain and its resolvers", domain)))
			continue
		}
		s.Stubs[dns.CanonicalName(domain)] = addrs
	}
	if s.Upstream, err = resolverAddrs(upstream); err != nil {
		errs = append(errs, fmt.Errorf("key upstreamNameservers: %w", err))
	}
	return s, errors.Join(errs...)
}

// resolverAddrs reads addresses with or without a port: 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:5353, 192.0.2.1#5353.
func resolverAddrs(texts []string) (all []netip.AddrPort, err error) {
	for _, text := range texts {
		if ip, port, found := strings.Cut(text, "#"); found {
			text = "[" + ip + "]:" + port
			if !strings.Contains(ip, ":") {
				text = ip + ":" + port
			}
		}
		if at, err := netip.ParseAddrPort(text); err == nil {
			all = append(all, at)
		} else if ip, err := netip.ParseAddr(text); err == nil {
			all = append(all, netip.AddrPortFrom(ip, 53))
		} else {
			return nil, fmt.Errorf("%q is not the address of a resolver", text)
		}
	}
	return all, nil
}

// domainOf is the longest of the domains that a name is in, "" for none.
func domainOf[T any](domains map[string]T, name string) (longest string) {
	for domain := range domains {
		if dns.IsSubDomain(domain, name) && len(domain) > len(longest) {
			longest = domain
		}
	}
	return longest
}

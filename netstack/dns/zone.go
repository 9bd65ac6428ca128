package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints"
)

// specVersion of the Kubernetes DNS-based service discovery that the zone follows.
const specVersion = "1.1.0"

// ttl of every answer, good or bad, in seconds. Answers come from memory on the same node, so asking again costs next to
// nothing, while every second of this is a second that clients keep dialing an endpoint that is gone.
const ttl = 5

// source is the part of endpoints.View that the zone reads.
type source interface {
	Get(types.NamespacedName) endpoints.Entry
	Owners(netip.Addr) []types.NamespacedName
	HasServices(namespace string) bool
}

// zone knows the names of a cluster.
type zone struct {
	origin string // cluster.local.
	self   netip.Addr
	ranges []netip.Prefix // addresses that only the cluster could have a name for
	source source
}

// answer is what the zone says to one question.
type answer struct {
	exists  bool // the name does; whether it has records of the asked type is another matter
	records []dns.RR
	extra   []dns.RR
	alias   string // the name lives elsewhere: look there
}

// covers tells whether a name is the zone's to answer, down to saying that it does not exist.
func (z *zone) covers(name string) bool {
	if dns.IsSubDomain(z.origin, name) {
		return true
	}
	addr, reverse := addrOfReverse(name)
	if !reverse {
		return false
	}
	for _, r := range z.ranges {
		if r.Contains(addr) {
			return true
		}
	}
	return len(z.pointers(addr)) > 0
}

// ask answers a question. The name is in lower case; owner is how the client spelled it, and gets it back that way.
func (z *zone) ask(name, owner string, qtype uint16) answer {
	if addr, reverse := addrOfReverse(name); reverse {
		a := answer{}
		for _, target := range z.pointers(addr) {
			a.exists = true
			if wants(qtype, dns.TypePTR) {
				a.records = append(a.records, &dns.PTR{Hdr: header(owner, dns.TypePTR), Ptr: target})
			}
		}
		return a
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.origin))
	at := func(fromEnd int) string {
		if i := len(labels) - fromEnd; i >= 0 {
			return labels[i]
		}
		return ""
	}
	switch {
	case len(labels) == 0:
		return z.apex(owner, qtype)
	case at(1) == "svc":
		return z.service(labels[:len(labels)-1], owner, qtype)
	case at(1) == "pod" && len(labels) <= 3:
		return pod(labels[:len(labels)-1], owner, qtype)
	case len(labels) == 1 && at(1) == "dns-version":
		a := answer{exists: true}
		if wants(qtype, dns.TypeTXT) {
			a.records = []dns.RR{&dns.TXT{Hdr: header(owner, dns.TypeTXT), Txt: []string{specVersion}}}
		}
		return a
	case at(1) == "dns" && len(labels) == 1:
		return answer{exists: true} // only so that ns.dns may exist
	case at(1) == "dns" && at(2) == "ns" && len(labels) == 2:
		return answer{exists: true, records: addresses(owner, qtype, []netip.Addr{z.self})}
	}
	return answer{}
}

func (z *zone) apex(owner string, qtype uint16) answer {
	a := answer{exists: true}
	if wants(qtype, dns.TypeSOA) {
		a.records = append(a.records, z.soa())
	}
	if wants(qtype, dns.TypeNS) {
		a.records = append(a.records, &dns.NS{Hdr: header(owner, dns.TypeNS), Ns: "ns.dns." + z.origin})
	}
	return a
}

// soa stands beside every negative answer and says how long it may be remembered.
func (z *zone) soa() *dns.SOA {
	return &dns.SOA{
		Hdr: header(z.origin, dns.TypeSOA), Ns: "ns.dns." + z.origin, Mbox: "hostmaster." + z.origin,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl,
	}
}

// service answers for what stands before .svc: [[[_port] _proto | endpoint] service] namespace.
func (z *zone) service(labels []string, owner string, qtype uint16) answer {
	switch len(labels) {
	case 0:
		return answer{exists: true}
	case 1:
		return answer{exists: z.source.HasServices(labels[0])}
	}
	namespace, name := labels[len(labels)-1], labels[len(labels)-2]
	entry := z.source.Get(types.NamespacedName{Namespace: namespace, Name: name})
	if entry.Service == nil {
		return answer{}
	}
	if entry.Service.Spec.Type == corev1.ServiceTypeExternalName {
		if len(labels) > 2 {
			return answer{}
		}
		return answer{exists: true, alias: dns.Fqdn(strings.ToLower(entry.Service.Spec.ExternalName))}
	}
	s := named{entry: entry, fqdn: name + "." + namespace + ".svc." + z.origin}
	switch below := labels[:len(labels)-2]; {
	case len(below) == 0:
		return s.itself(owner, qtype)
	case len(below) == 2 && strings.HasPrefix(below[0], "_") && strings.HasPrefix(below[1], "_"):
		return s.port(below[0][1:], below[1][1:], owner, qtype)
	case len(below) == 1 && strings.HasPrefix(below[0], "_"):
		return answer{exists: s.speaks(below[0][1:])}
	case len(below) == 1:
		return s.endpoint(below[0], owner, qtype)
	}
	return answer{}
}

// pod answers for A-B-C-D.NAMESPACE.pod by reading the address out of the name. Nobody checks that such a pod exists:
// that would need every pod of the cluster in every node's memory, and says no more than the name does.
func pod(labels []string, owner string, qtype uint16) answer {
	if len(labels) < 2 {
		return answer{exists: true}
	}
	text := labels[0]
	addr, err := netip.ParseAddr(strings.ReplaceAll(text, "-", "."))
	if err != nil {
		addr, err = netip.ParseAddr(strings.ReplaceAll(text, "-", ":"))
	}
	if err != nil {
		return answer{}
	}
	return answer{exists: true, records: addresses(owner, qtype, []netip.Addr{addr})}
}

// named is a Service and its full name.
type named struct {
	entry endpoints.Entry
	fqdn  string
}

func (s named) headless() bool { return s.entry.Service.Spec.ClusterIP == corev1.ClusterIPNone }

func (s named) itself(owner string, qtype uint16) answer {
	if !s.headless() {
		a := answer{exists: true, records: addresses(owner, qtype, s.clusterAddrs())}
		if qtype == dns.TypeSRV {
			for i := range s.entry.Service.Spec.Ports {
				a.records = append(a.records, srv(owner, uint16(s.entry.Service.Spec.Ports[i].Port), s.fqdn))
			}
			a.extra = s.additional()
		}
		return a
	}
	var a answer
	var addrs []netip.Addr
	s.eachReady(func(_ *discoveryv1.EndpointSlice, _ *discoveryv1.Endpoint, addr netip.Addr) {
		a.exists = true // the specification wants a headless Service that nobody is behind not to exist
		addrs = append(addrs, addr)
	})
	a.records = addresses(owner, qtype, addrs)
	if qtype == dns.TypeSRV {
		return s.endpointPorts(owner, func(discoveryv1.EndpointPort) bool { return true })
	}
	return a
}

// port answers for _PORT._PROTOCOL.
func (s named) port(name, protocol, owner string, qtype uint16) answer {
	if s.headless() {
		a := s.endpointPorts(owner, func(p discoveryv1.EndpointPort) bool {
			return ptr.Deref(p.Name, "") == name && strings.EqualFold(string(ptr.Deref(p.Protocol, corev1.ProtocolTCP)), protocol)
		})
		if !wants(qtype, dns.TypeSRV) {
			a.records, a.extra = nil, nil
		}
		return a
	}
	var a answer
	for i := range s.entry.Service.Spec.Ports {
		p := &s.entry.Service.Spec.Ports[i]
		if p.Name != name || !strings.EqualFold(string(p.Protocol), protocol) {
			continue
		}
		a.exists = true
		if wants(qtype, dns.TypeSRV) {
			a.records, a.extra = append(a.records, srv(owner, uint16(p.Port), s.fqdn)), s.additional()
		}
	}
	return a
}

func (s named) speaks(protocol string) bool {
	for i := range s.entry.Service.Spec.Ports {
		if strings.EqualFold(string(s.entry.Service.Spec.Ports[i].Protocol), protocol) {
			return true
		}
	}
	return false
}

// endpoint answers for one endpoint by its host name, or by its address with dashes when it has none.
func (s named) endpoint(label, owner string, qtype uint16) answer {
	var a answer
	var addrs []netip.Addr
	s.eachReady(func(_ *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, addr netip.Addr) {
		if hostname(e, addr) == label {
			a.exists = true
			addrs = append(addrs, addr)
		}
	})
	a.records = addresses(owner, qtype, addrs)
	return a
}

// endpointPorts lists the ports of ready endpoints that match.
func (s named) endpointPorts(owner string, match func(discoveryv1.EndpointPort) bool) answer {
	var a answer
	type target struct {
		name string
		port uint16
	}
	seen := map[target]bool{}
	s.eachReady(func(slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, addr netip.Addr) {
		name := hostname(e, addr) + "." + s.fqdn
		for _, p := range slice.Ports {
			if p.Port == nil || !match(p) {
				continue
			}
			a.exists = true
			if t := (target{name, uint16(*p.Port)}); !seen[t] {
				seen[t] = true
				a.records = append(a.records, srv(owner, t.port, name))
			}
			a.extra = append(a.extra, address(name, addr))
		}
	})
	return a
}

// eachReady visits the addresses of ready endpoints, each once.
func (s named) eachReady(visit func(*discoveryv1.EndpointSlice, *discoveryv1.Endpoint, netip.Addr)) {
	for _, slice := range s.entry.Slices {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !ptr.Deref(e.Conditions.Ready, true) {
				continue
			}
			for _, text := range e.Addresses {
				if addr, err := netip.ParseAddr(text); err == nil {
					visit(slice, e, addr)
				}
			}
		}
	}
}

func (s named) clusterAddrs() []netip.Addr {
	spec := &s.entry.Service.Spec
	texts := spec.ClusterIPs
	if len(texts) == 0 {
		texts = []string{spec.ClusterIP}
	}
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// additional saves the client of an SRV answer the next question.
func (s named) additional() []dns.RR {
	var extra []dns.RR
	for _, addr := range s.clusterAddrs() {
		extra = append(extra, address(s.fqdn, addr))
	}
	return extra
}

// pointers are the names of an address: of the Service whose cluster address it is, else of the endpoints that have it.
// Endpoints of headless Services come before others, since only theirs is a name that somebody may rely on; and an
// address outside the cluster's ranges, such as a node's, is the cluster's to name only for those.
func (z *zone) pointers(addr netip.Addr) []string {
	var headless, others []string
	for _, key := range z.source.Owners(addr) {
		entry := z.source.Get(key)
		if entry.Service == nil {
			continue
		}
		s := named{entry: entry, fqdn: key.Name + "." + key.Namespace + ".svc." + z.origin}
		for _, own := range s.clusterAddrs() {
			if own == addr {
				return []string{s.fqdn}
			}
		}
		s.eachReady(func(_ *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint, at netip.Addr) {
			switch name := hostname(e, at) + "." + s.fqdn; {
			case at != addr:
			case s.headless():
				headless = append(headless, name)
			default:
				others = append(others, name)
			}
		})
	}
	if len(headless) > 0 {
		return unique(headless)
	}
	for _, r := range z.ranges {
		if r.Contains(addr) {
			return unique(others)
		}
	}
	return nil
}

func hostname(e *discoveryv1.Endpoint, addr netip.Addr) string {
	if name := ptr.Deref(e.Hostname, ""); name != "" {
		return name
	}
	return strings.NewReplacer(".", "-", ":", "-").Replace(addr.String())
}

// --- records ---

func header(owner string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: rrtype, Class: dns.ClassINET, Ttl: ttl}
}

func wants(qtype, rrtype uint16) bool { return qtype == rrtype || qtype == dns.TypeANY }

// addresses are A or AAAA records, whichever is asked for, each address once.
func addresses(owner string, qtype uint16, addrs []netip.Addr) []dns.RR {
	var records []dns.RR
	seen := map[netip.Addr]bool{}
	for _, addr := range addrs {
		rr := address(owner, addr)
		if wants(qtype, rr.Header().Rrtype) && !seen[addr] {
			seen[addr] = true
			records = append(records, rr)
		}
	}
	return records
}

func address(owner string, addr netip.Addr) dns.RR {
	if addr.Is4() {
		return &dns.A{Hdr: header(owner, dns.TypeA), A: addr.AsSlice()}
	}
	return &dns.AAAA{Hdr: header(owner, dns.TypeAAAA), AAAA: addr.AsSlice()}
}

func srv(owner string, port uint16, target string) dns.RR {
	return &dns.SRV{Hdr: header(owner, dns.TypeSRV), Weight: 100, Port: port, Target: target}
}

func unique(names []string) []string {
	var once []string
	seen := map[string]bool{}
	for _, name := range names {
		if !seen[name] {
			seen[name] = true
			once = append(once, name)
		}
	}
	return once
}

// addrOfReverse reads d.c.b.a.in-addr.arpa. and its long sibling.
func addrOfReverse(name string) (netip.Addr, bool) {
	labels := dns.SplitDomainName(name)
	n := len(labels)
	switch {
	case n == 6 && labels[4] == "in-addr" && labels[5] == "arpa":
		addr, err := netip.ParseAddr(labels[3] + "." + labels[2] + "." + labels[1] + "." + labels[0])
		return addr, err == nil
	case n == 34 && labels[32] == "ip6" && labels[33] == "arpa":
		var text strings.Builder
		for i := 31; i >= 0; i-- {
			text.WriteString(labels[i])
			if i%4 == 0 && i > 0 {
				text.WriteByte(':')
			}
		}
		addr, err := netip.ParseAddr(text.String())
		return addr, err == nil
	}
	return netip.Addr{}, false
}

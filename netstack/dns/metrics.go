package dns

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Names are CoreDNS's own (plugin prometheus), so that its dashboards and alerts work; of what is asked outside, its
// connections count (coredns_proxy_..., proxy_name forward), of what is remembered, its cache.

// unanswered is what no counter of CoreDNS's says.
var unanswered = promauto.NewCounterVec(prometheus.CounterOpts{
	Namespace: "knarr", Subsystem: "dns", Name: "upstream_failures_total",
	Help: "Counter of questions that a resolver outside the cluster did not answer.",
}, []string{"to"})

// counts are the types that are counted by name; others are number 0.
var counts = numbered(
	dns.TypeA, dns.TypeAAAA, dns.TypeCNAME, dns.TypeDNSKEY, dns.TypeDS, dns.TypeMX, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNS,
	dns.TypePTR, dns.TypeRRSIG, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeIXFR, dns.TypeAXFR, dns.TypeANY,
)

func numbered(types ...uint16) map[uint16]int {
	numbers := map[uint16]int{}
	for i, qtype := range types {
		numbers[qtype] = i + 1
	}
	return numbers
}

const (
	zoneLabel = "." // the one the server has
	rcodes    = 24  // those of RFC 6895, in the message itself and with EDNS; others count as the last
)

// counted is the plugin at the head of the chain. It does what CoreDNS's plugin does, but looks up each counter once: that
// would cost more than answering.
type counted struct {
	next   plugin.Handler
	server string

	took     prometheus.Observer
	requests [2][2][20]atomic.Pointer[prometheus.Counter] // by protocol, family and type
	answers  [rcodes]atomic.Pointer[prometheus.Counter]
}

func newCounted(next plugin.Handler, server string) *counted {
	return &counted{next: next, server: server, took: vars.RequestDuration.WithLabelValues(server, zoneLabel, "")}
}

// Name of the plugin.
func (c *counted) Name() string { return "prometheus" }

// ServeDNS is called for every query.
func (c *counted) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	began := time.Now()
	c.request(w.RemoteAddr(), r.Question[0].Qtype).Inc()
	seen := seen{ResponseWriter: w, rcode: dns.RcodeSuccess}
	rcode, err := c.next.ServeDNS(ctx, &seen, r)
	if !plugin.ClientWrite(rcode) { // the server writes it
		seen.rcode = rcode
	}
	c.answer(seen.rcode).Inc()
	c.took.Observe(time.Since(began).Seconds())
	return rcode, err
}

func (c *counted) request(from net.Addr, qtype uint16) prometheus.Counter {
	proto, family, name := 0, 0, "other"
	var ip net.IP
	switch from := from.(type) {
	case *net.UDPAddr:
		ip = from.IP
	case *net.TCPAddr:
		proto, ip = 1, from.IP
	}
	if ip.To4() == nil {
		family = 1
	}
	kind := counts[qtype]
	at := &c.requests[proto][family][kind]
	if known := at.Load(); known != nil {
		return *known
	}
	if kind > 0 {
		name = dns.TypeToString[qtype]
	}
	counter := vars.RequestCount.WithLabelValues(c.server, zoneLabel, "", []string{"udp", "tcp"}[proto], []string{"1", "2"}[family], name)
	at.Store(&counter)
	return counter
}

func (c *counted) answer(rcode int) prometheus.Counter {
	if rcode < 0 || rcode >= rcodes {
		rcode = rcodes - 1
	}
	at := &c.answers[rcode]
	if known := at.Load(); known != nil {
		return *known
	}
	counter := vars.ResponseRcode.WithLabelValues(c.server, zoneLabel, "", dns.RcodeToString[rcode], "")
	at.Store(&counter)
	return counter
}

// seen notes what is answered.
type seen struct {
	dns.ResponseWriter
	rcode int
}

// WriteMsg implements dns.ResponseWriter.
func (s *seen) WriteMsg(m *dns.Msg) error {
	s.rcode = m.Rcode
	return s.ResponseWriter.WriteMsg(m)
}

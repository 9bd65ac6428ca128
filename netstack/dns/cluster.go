package dns

import (
	"context"
	"math/rand/v2"
	"strings"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"
	"github.com/miekg/dns"
)

// maxAliases bounds a chain of ExternalName Services that point at each other.
const maxAliases = 8

// cluster is the CoreDNS plugin that answers for the zone and passes everything else on.
type cluster struct {
	zone   *zone
	synced <-chan struct{}
	next   plugin.Handler
}

// Name of the plugin.
func (c *cluster) Name() string { return "knarr" }

// ServeDNS is called for every query.
func (c *cluster) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	question := r.Question[0]
	name := strings.ToLower(question.Name)
	inZone := dns.IsSubDomain(c.zone.origin, name)
	select {
	case <-c.synced:
	default:
		// Half a view would deny names that exist, and clients believe that for seconds. They ask again after a failure.
		if _, reverse := addrOfReverse(name); inZone || reverse {
			return dns.RcodeServerFailure, nil
		}
	}
	if !inZone && !c.zone.covers(name) {
		return plugin.NextOrFailure(c.Name(), c.next, ctx, w, r)
	}

	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative, m.RecursionAvailable = true, true
	a := c.zone.ask(name, question.Name, question.Qtype)
	if a.alias != "" {
		a, m.Rcode = c.follow(ctx, w, r, a)
	}
	shuffle(a.records)
	m.Answer, m.Extra = a.records, a.extra
	if !a.exists && m.Rcode == dns.RcodeSuccess {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{c.zone.soa()}
	}
	if err := w.WriteMsg(m); err != nil {
		return dns.RcodeServerFailure, err
	}
	return dns.RcodeSuccess, nil
}

// follow resolves an alias to its end, since the resolvers in pods do not.
func (c *cluster) follow(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, a answer) (answer, int) {
	owner, qtype := r.Question[0].Name, r.Question[0].Qtype
	whole := answer{exists: true}
	for range maxAliases {
		whole.records = append(whole.records, &dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: a.alias})
		if qtype == dns.TypeCNAME {
			return whole, dns.RcodeSuccess
		}
		owner = a.alias
		if !c.zone.covers(owner) {
			onward := r.Copy()
			onward.Question[0].Name = owner
			reply := nonwriter.New(w)
			rcode, err := plugin.NextOrFailure(c.Name(), c.next, ctx, reply, onward)
			if err != nil || reply.Msg == nil {
				return whole, rcode
			}
			whole.records = append(whole.records, reply.Msg.Answer...)
			return whole, reply.Msg.Rcode
		}
		if a = c.zone.ask(owner, owner, qtype); a.alias == "" {
			whole.exists, whole.extra = a.exists, a.extra
			whole.records = append(whole.records, a.records...)
			return whole, dns.RcodeSuccess
		}
	}
	return whole, dns.RcodeServerFailure
}

// shuffle spreads clients that take the first address. An alias stays before what it points to.
func shuffle(records []dns.RR) {
	if len(records) > 1 && records[0].Header().Rrtype != dns.TypeCNAME {
		rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	}
}

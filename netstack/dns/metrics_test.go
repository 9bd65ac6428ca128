package dns

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

// measured are the counters and the histograms' counts of this process whose labels have all these values, by name.
func measured(t *testing.T, labels map[string]string) map[string]float64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			matching := 0
			for _, label := range metric.GetLabel() {
				if want, asked := labels[label.GetName()]; asked && want == label.GetValue() {
					matching++
				}
			}
			if matching == len(labels) {
				all[family.GetName()] += metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return all
}

func TestMetrics(t *testing.T) {
	fake(t, "127.0.53.7", func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Name == "there.example." {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "there.example.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: []byte{192, 0, 2, 1}}}
		}
		_ = w.WriteMsg(m)
	})
	_, view := endpointstest.Running(t)
	at := serve(t, view, "127.0.53.7")
	server := map[string]string{"server": "dns://" + at}
	for _, q := range []struct {
		network, name string
		qtype         uint16
		rcode         int
	}{
		{"udp", "cluster.local.", dns.TypeSOA, dns.RcodeSuccess},
		{"tcp", "nobody.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError},
		{"udp", "nobody.default.svc.cluster.local.", dns.TypeCAA, dns.RcodeNameError},
		{"udp", "there.example.", dns.TypeA, dns.RcodeSuccess},
		{"udp", "there.example.", dns.TypeA, dns.RcodeSuccess},
	} {
		if got := ask(t, at, q.network, q.name, q.qtype); got.Rcode != q.rcode {
			t.Fatalf("%s: %s; want %s", q.name, dns.RcodeToString[got.Rcode], dns.RcodeToString[q.rcode])
		}
	}
	with := func(more ...string) map[string]string {
		labels := map[string]string{"server": server["server"]}
		for i := 0; i < len(more); i += 2 {
			labels[more[i]] = more[i+1]
		}
		return labels
	}
	got := map[string]float64{
		"asked by UDP":        measured(t, with("proto", "udp", "family", "1"))["coredns_dns_requests_total"],
		"asked by TCP":        measured(t, with("proto", "tcp", "type", "A"))["coredns_dns_requests_total"],
		"asked for an SOA":    measured(t, with("type", "SOA"))["coredns_dns_requests_total"],
		"asked for odd types": measured(t, with("type", "other"))["coredns_dns_requests_total"],
		"answered":            measured(t, with("rcode", "NOERROR"))["coredns_dns_responses_total"],
		"denied":              measured(t, with("rcode", "NXDOMAIN"))["coredns_dns_responses_total"],
		"timed":               measured(t, server)["coredns_dns_request_duration_seconds"],
		"looked for in cache": measured(t, server)["coredns_cache_requests_total"],
		"found there":         measured(t, server)["coredns_cache_hits_total"],
		"asked outside":       measured(t, map[string]string{"proxy_name": "forward", "to": "127.0.53.7:53"})["coredns_proxy_request_duration_seconds"],
	}
	want := map[string]float64{
		"asked by UDP": 4, "asked by TCP": 1, "asked for an SOA": 1, "asked for odd types": 1, "answered": 3, "denied": 2, "timed": 5,
		"looked for in cache": 2, "found there": 1, "asked outside": 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("counted (-want +got):\n%s", diff)
	}
}

package dns

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// serve runs a server over view on a port of its own, with the given upstreams.
func serve(t testing.TB, view *endpoints.View, upstreams ...string) (at string) {
	t.Helper()
	_, at = served(t, view, upstreams...)
	return at
}

func served(t testing.TB, view *endpoints.View, upstreams ...string) (server *Server, at string) {
	t.Helper()
	port := freePort(t)
	server = New(Config{
		Address: loopback, Port: port, Domain: "cluster.local",
		Ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
		Resolv: resolvConf(t, upstreams...), Log: slog.New(slog.DiscardHandler),
	}, view)
	endpointstest.Run(t, server)
	return server, netip.AddrPortFrom(loopback, port).String()
}

// resolvConf cannot name ports, so upstreams of these tests are told apart by their address: all listen on port 53 of
// 127.0.53.x, which every Linux has.
func resolvConf(t testing.TB, upstreams ...string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "resolv.conf")
	text := "# no resolvers\n"
	for _, u := range upstreams {
		text += "nameserver " + u + "\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{file}
}

// fake is an upstream at port 53 of addr.
func fake(t *testing.T, addr string, answer dns.HandlerFunc) {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr+":53")
	if err != nil {
		t.Skipf("needs port 53 of %s (root): %v", addr, err)
	}
	server := &dns.Server{PacketConn: conn, Handler: answer}
	started := make(chan struct{})
	server.NotifyStartedFunc = func() { close(started) }
	go func() { _ = server.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = server.Shutdown() })
}

func ask(t *testing.T, at, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	query := new(dns.Msg)
	query.SetQuestion(name, qtype)
	reply, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(query, at)
	if err != nil {
		t.Fatalf("ask %s for %s: %v", at, name, err)
	}
	return reply
}

func web() *corev1.Service {
	return serviceNamed("web", func(s *corev1.Service) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.43.0.80", []string{"10.43.0.80"}
	})
}

func alias(name, to string) *corev1.Service {
	return serviceNamed(name, func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, to })
}

func TestServerAnswersOverBothTransports(t *testing.T) {
	cluster, view := endpointstest.Running(t, web())
	at := serve(t, view)
	for _, network := range []string{"udp", "tcp"} {
		reply := ask(t, at, network, "web.shop.svc.cluster.local.", dns.TypeA)
		if got := data(reply.Answer); !cmp.Equal(got, []string{"10.43.0.80"}) || !reply.Authoritative || !reply.RecursionAvailable {
			t.Errorf("over %s: %v", network, reply)
		}
	}
	denied := ask(t, at, "udp", "web.shop.svc.cluster.local.shop.svc.cluster.local.", dns.TypeA)
	if denied.Rcode != dns.RcodeNameError || len(denied.Ns) != 1 || denied.Ns[0].(*dns.SOA).Minttl != ttl {
		t.Errorf("a name that is not there: %v; want NXDOMAIN and how long that holds", denied)
	}
	empty := ask(t, at, "udp", "web.shop.svc.cluster.local.", dns.TypeAAAA)
	if empty.Rcode != dns.RcodeSuccess || len(empty.Answer) != 0 || len(empty.Ns) != 1 {
		t.Errorf("a name without such records: %v; want success, nothing and the authority", empty)
	}

	gone := make(chan struct{}, 10)
	t.Cleanup(view.Subscribe(func(types.NamespacedName) { gone <- struct{}{} }))
	<-gone // it exists
	cluster.Delete(web())
	<-gone
	if reply := ask(t, at, "udp", "web.shop.svc.cluster.local.", dns.TypeA); reply.Rcode != dns.RcodeNameError {
		t.Errorf("a deleted service = %v, want NXDOMAIN with the next question", reply)
	}
}

func TestHalfAViewDeniesNothing(t *testing.T) {
	_, view := endpointstest.New(t, web()) // not running
	port := freePort(t)
	server := New(Config{Address: loopback, Port: port, Domain: "cluster.local", Resolv: resolvConf(t), Log: slog.New(slog.DiscardHandler)}, view)
	ended := make(chan error, 1)
	go func() { ended <- server.Run(t.Context(), func() { t.Error("ready without a view") }) }()
	at := netip.AddrPortFrom(loopback, port).String()
	for {
		query := new(dns.Msg)
		query.SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
		reply, err := dns.Exchange(query, at)
		if err != nil {
			continue // not listening yet
		}
		if reply.Rcode != dns.RcodeServerFailure {
			t.Errorf("answer before the view is complete: %v; want a failure, which clients do not remember", reply)
		}
		return
	}
}

func TestNamesOutsideFailAtOnceWithoutUpstream(t *testing.T) {
	_, view := endpointstest.Running(t)
	at := serve(t, view)
	began := time.Now()
	if reply := ask(t, at, "udp", "example.com.", dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer = %v, want a failure", reply)
	}
	if took := time.Since(began); took > 200*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestUpstream(t *testing.T) {
	var asked atomic.Int32
	fake(t, "127.0.53.1", func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if r.Question[0].Name == "example.com." {
			asked.Add(1)
			m.Answer = []dns.RR{rr(t, "example.com. 60 IN A 192.0.2.1")}
		} else {
			m.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(m)
	})
	_, view := endpointstest.Running(t, web(), alias("outside", "example.com"), alias("inside", "web.shop.svc.cluster.local"), alias("loop", "loop.shop.svc.cluster.local"))
	at := serve(t, view, "127.0.53.9", "127.0.53.1") // nobody is at the first

	for range 3 {
		if got := data(ask(t, at, "udp", "example.com.", dns.TypeA).Answer); !cmp.Equal(got, []string{"192.0.2.1"}) {
			t.Errorf("a name of the world = %v", got)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the upstream was asked %d times for one name, want once: answers are cached", n)
	}
	if reply := ask(t, at, "udp", "nowhere.example.", dns.TypeA); reply.Rcode != dns.RcodeNameError {
		t.Errorf("what the upstream denies = %v, want NXDOMAIN", reply)
	}

	cases := map[string]struct {
		name  string
		want  []string
		rcode int
	}{
		"an external name outside is followed": {name: "outside.shop.svc.cluster.local.", want: []string{"192.0.2.1", "example.com."}},
		"an external name inside is followed":  {name: "inside.shop.svc.cluster.local.", want: []string{"10.43.0.80", "web.shop.svc.cluster.local."}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := data(ask(t, at, "udp", tc.name, dns.TypeA).Answer); !cmp.Equal(got, tc.want) {
				t.Errorf("%s = %v, want %v", tc.name, got, tc.want)
			}
		})
	}
	if reply := ask(t, at, "udp", "loop.shop.svc.cluster.local.", dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("an external name that is its own = %v, want a failure", reply)
	}
}

func TestUpstreamThatAsksUsIsNotUsed(t *testing.T) {
	_, view := endpointstest.Running(t)
	var at atomic.Value
	var rounds atomic.Int32
	fake(t, "127.0.53.2", func(w dns.ResponseWriter, r *dns.Msg) {
		rounds.Add(1)
		reply, err := dns.Exchange(r, at.Load().(string))
		if err != nil {
			reply = new(dns.Msg).SetRcode(r, dns.RcodeServerFailure)
		}
		_ = w.WriteMsg(reply)
	})
	port := freePort(t)
	at.Store(netip.AddrPortFrom(loopback, port).String())
	endpointstest.Run(t, New(Config{
		Address: loopback, Port: port, Domain: "cluster.local", Resolv: resolvConf(t, "127.0.53.2"), Log: slog.New(slog.DiscardHandler),
	}, view))
	if reply := ask(t, at.Load().(string), "udp", "example.com.", dns.TypeA); reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer = %v, want a failure", reply)
	}
	if n := rounds.Load(); n != 1 {
		t.Errorf("the query went around %d times, want only our probe", n)
	}
}

func TestServersOfResolvConf(t *testing.T) {
	write := func(name, text string) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	stub := write("stub", "nameserver 127.0.0.53\noptions edns0\n")
	real := write("real", "nameserver 192.0.2.53\nnameserver 2001:db8::53\n")
	us := write("us", "nameserver 10.43.0.10\nnameserver 192.0.2.54\n")
	cases := map[string]struct{ files, want []string }{
		"in the order of the file":                {[]string{real}, []string{"192.0.2.53:53", "[2001:db8::53]:53"}},
		"what a local stub asks, not the stub":    {[]string{stub, real}, []string{"192.0.2.53:53", "[2001:db8::53]:53"}},
		"a local stub that hides nothing":         {[]string{stub, "/nonexistent"}, []string{"127.0.0.53:53"}},
		"never ourselves":                         {[]string{us}, []string{"192.0.2.54:53"}},
		"a host without resolvers has none":       {[]string{"/nonexistent"}, nil},
		"the first real one wins over the second": {[]string{us, real}, []string{"192.0.2.54:53"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, servers(tc.files, netip.MustParseAddr("10.43.0.10"))); diff != "" {
				t.Errorf("servers() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLargeAnswersAreCutForUDPOnly(t *testing.T) {
	var crowd []discoveryv1.Endpoint
	for i := range 200 {
		crowd = append(crowd, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.3.%d", i+1)}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	_, view := endpointstest.Running(t, headlessDB(), sliceOf("db", discoveryv1.AddressTypeIPv4, crowd...))
	at := serve(t, view)
	query := new(dns.Msg)
	query.SetQuestion("db.shop.svc.cluster.local.", dns.TypeA)
	if reply, err := dns.Exchange(query, at); err != nil || !reply.Truncated {
		t.Errorf("over udp: truncated = %v, %v; want the client sent to tcp", reply != nil && reply.Truncated, err)
	}
	if reply := ask(t, at, "tcp", "db.shop.svc.cluster.local.", dns.TypeA); len(reply.Answer) != 200 {
		t.Errorf("over tcp: %d addresses, want all 200", len(reply.Answer))
	}
}

func TestTheAddressMayComeLater(t *testing.T) {
	_, view := endpointstest.Running(t)
	endpointstest.Run(t, New(Config{ // nobody has an address of the documentation range
		Address: netip.MustParseAddr("192.0.2.10"), Port: 5353, Domain: "cluster.local", Resolv: resolvConf(t), Log: slog.New(slog.DiscardHandler),
	}, view))
}

func TestAPortInUseSaysWhatToDo(t *testing.T) {
	port := freePort(t)
	taken, err := net.ListenPacket("udp", netip.AddrPortFrom(loopback, port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, view := endpointstest.Running(t)
	err = New(Config{Address: loopback, Port: port, Domain: "cluster.local", Resolv: resolvConf(t), Log: slog.New(slog.DiscardHandler)}, view).
		Run(t.Context(), func() { t.Error("ready without a socket") })
	if err == nil || !strings.Contains(err.Error(), "bind-interfaces") {
		t.Errorf("error = %v, want one that says what to do", err)
	}
}

// BenchmarkServer asks over UDP from as many clients as there are processors, each with 50 questions on their way.
func BenchmarkServer(b *testing.B) {
	_, view := endpointstest.Running(b, web())
	at := serve(b, view)
	query := new(dns.Msg)
	query.SetQuestion("web.shop.svc.cluster.local.", dns.TypeA)
	wire, err := query.Pack()
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(1)
	b.RunParallel(func(pb *testing.PB) {
		conn, err := net.Dial("udp", at)
		if err != nil {
			b.Error(err)
			return
		}
		defer conn.Close()
		buffer, waiting := make([]byte, 1500), 0
		for pb.Next() {
			if _, err := conn.Write(wire); err != nil {
				b.Error(err)
			}
			if waiting++; waiting < 50 {
				continue
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(buffer); err != nil {
				b.Error(err)
			}
			waiting--
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
}

func BenchmarkClusterName(b *testing.B) {
	_, view := endpointstest.Running(b, web())
	z := &zone{origin: "cluster.local.", source: view}
	b.ReportAllocs()
	for b.Loop() {
		z.ask("web.shop.svc.cluster.local.", "web.shop.svc.cluster.local.", dns.TypeA)
	}
}

func rr(t *testing.T, text string) dns.RR {
	t.Helper()
	record, err := dns.NewRR(text)
	if err != nil {
		t.Error(err)
	}
	return record
}

func freePort(t testing.TB) uint16 {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return uint16(conn.LocalAddr().(*net.UDPAddr).Port)
}

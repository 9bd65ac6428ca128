package dns

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints"
)

// fixed is a source without a cluster behind it.
type fixed map[types.NamespacedName]endpoints.Entry

func (f fixed) Get(key types.NamespacedName) endpoints.Entry { return f[key] }

func (f fixed) HasServices(namespace string) bool {
	for key := range f {
		if key.Namespace == namespace {
			return true
		}
	}
	return false
}

func (f fixed) Owners(addr netip.Addr) []types.NamespacedName {
	var owners []types.NamespacedName
	for key, e := range f {
		if slices.Contains(e.Service.Spec.ClusterIPs, addr.String()) {
			owners = append(owners, key)
		}
		for _, s := range e.Slices {
			for _, ep := range s.Endpoints {
				if slices.Contains(ep.Addresses, addr.String()) {
					owners = append(owners, key)
				}
			}
		}
	}
	return owners
}

func serviceNamed(name string, change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	change(s)
	return s
}

func sliceOf(service string, family discoveryv1.AddressType, list ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: service + "-" + strings.ToLower(string(family)),
			Labels: map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: family,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](5432)}},
		Endpoints:   list,
	}
}

func headlessDB() *corev1.Service {
	return serviceNamed("db", func(s *corev1.Service) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ClusterIPNone, []string{corev1.ClusterIPNone}
		s.Spec.Ports = []corev1.ServicePort{{Name: "sql", Protocol: corev1.ProtocolTCP, Port: 5432}}
	})
}

func shop() fixed {
	all := fixed{}
	for _, e := range []endpoints.Entry{
		{
			Service: serviceNamed("web", func(s *corev1.Service) {
				s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.43.0.80", []string{"10.43.0.80", "fd00:43::80"}
				s.Spec.Ports = []corev1.ServicePort{
					{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "quic", Protocol: corev1.ProtocolUDP, Port: 443},
				}
			}),
			Slices: []*discoveryv1.EndpointSlice{sliceOf("web", discoveryv1.AddressTypeIPv4,
				discoveryv1.Endpoint{Addresses: []string{"10.42.0.20"}}, discoveryv1.Endpoint{Addresses: []string{"192.168.9.1"}})},
		},
		{
			Service: headlessDB(),
			Slices: []*discoveryv1.EndpointSlice{
				sliceOf("db", discoveryv1.AddressTypeIPv4,
					discoveryv1.Endpoint{Addresses: []string{"10.42.0.31"}, Hostname: ptr.To("db-0")},
					discoveryv1.Endpoint{Addresses: []string{"10.42.0.32"}},
					discoveryv1.Endpoint{Addresses: []string{"10.42.0.33"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}),
				sliceOf("db", discoveryv1.AddressTypeIPv6, discoveryv1.Endpoint{Addresses: []string{"fd00:42::31"}, Hostname: ptr.To("db-0")}),
			},
		},
		{Service: serviceNamed("lonely", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })},
		{Service: serviceNamed("search", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "Search.Example.com"
		})},
	} {
		all[types.NamespacedName{Namespace: e.Service.Namespace, Name: e.Service.Name}] = e
	}
	return all
}

func TestZone(t *testing.T) {
	z := &zone{
		origin: "cluster.local.", self: netip.MustParseAddr("10.43.0.10"), source: shop(),
		ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
	}
	const missing = "NXDOMAIN"
	cases := map[string]struct {
		name  string
		qtype uint16
		want  []string // record data; nothing: the name exists without such records
		extra []string
	}{
		"a service has its cluster address":           {name: "web.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{"10.43.0.80"}},
		"a service has its second cluster address":    {name: "web.shop.svc.cluster.local.", qtype: dns.TypeAAAA, want: []string{"fd00:43::80"}},
		"a service has no mail exchanger":             {name: "web.shop.svc.cluster.local.", qtype: dns.TypeMX},
		"a service that is not there does not exist":  {name: "no.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"a service in another namespace is another":   {name: "web.other.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"a namespace with services exists":            {name: "shop.svc.cluster.local.", qtype: dns.TypeA},
		"a namespace without services does not exist": {name: "other.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"svc exists":                                    {name: "svc.cluster.local.", qtype: dns.TypeA},
		"the zone has an authority":                     {name: "cluster.local.", qtype: dns.TypeNS, want: []string{"ns.dns.cluster.local."}},
		"the authority has an address":                  {name: "ns.dns.cluster.local.", qtype: dns.TypeA, want: []string{"10.43.0.10"}},
		"what a search path makes of a foreign name":    {name: "example.com.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"what a search path makes of it at the top":     {name: "example.com.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"the version of the specification":              {name: "dns-version.cluster.local.", qtype: dns.TypeTXT, want: []string{`"1.1.0"`}},
		"a named port tells number and name":            {name: "_http._tcp.web.shop.svc.cluster.local.", qtype: dns.TypeSRV, want: []string{"0 100 80 web.shop.svc.cluster.local."}, extra: []string{"10.43.0.80", "fd00:43::80"}},
		"a named port of the other protocol is another": {name: "_http._udp.web.shop.svc.cluster.local.", qtype: dns.TypeSRV, want: []string{missing}},
		"a named port has no address of its own":        {name: "_http._tcp.web.shop.svc.cluster.local.", qtype: dns.TypeA},
		"a protocol that is spoken exists":              {name: "_udp.web.shop.svc.cluster.local.", qtype: dns.TypeA},
		"all ports of a service":                        {name: "web.shop.svc.cluster.local.", qtype: dns.TypeSRV, want: []string{"0 100 443 web.shop.svc.cluster.local.", "0 100 80 web.shop.svc.cluster.local."}, extra: []string{"10.43.0.80", "fd00:43::80"}},
		"a headless service is its ready endpoints":     {name: "db.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{"10.42.0.31", "10.42.0.32"}},
		"a headless service in the other family":        {name: "db.shop.svc.cluster.local.", qtype: dns.TypeAAAA, want: []string{"fd00:42::31"}},
		"a headless service with nobody does not exist": {name: "lonely.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"an endpoint by its host name":                  {name: "db-0.db.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{"10.42.0.31"}},
		"an endpoint by its address":                    {name: "10-42-0-32.db.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{"10.42.0.32"}},
		"an endpoint with a host name has no other":     {name: "10-42-0-31.db.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"an endpoint that is not ready does not exist":  {name: "10-42-0-33.db.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"a headless service's port on every endpoint": {
			name: "_sql._tcp.db.shop.svc.cluster.local.", qtype: dns.TypeSRV,
			want:  []string{"0 100 5432 10-42-0-32.db.shop.svc.cluster.local.", "0 100 5432 db-0.db.shop.svc.cluster.local."},
			extra: []string{"10.42.0.31", "10.42.0.32", "fd00:42::31"},
		},
		"an external name is an alias":               {name: "search.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{"alias search.example.com."}},
		"nothing is below an external name":          {name: "x.search.shop.svc.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"a pod by its address":                       {name: "10-42-0-7.shop.pod.cluster.local.", qtype: dns.TypeA, want: []string{"10.42.0.7"}},
		"a pod by its longer address":                {name: "fd00-42--7.shop.pod.cluster.local.", qtype: dns.TypeAAAA, want: []string{"fd00:42::7"}},
		"a pod by a word does not exist":             {name: "web-7.shop.pod.cluster.local.", qtype: dns.TypeA, want: []string{missing}},
		"a cluster address points to its service":    {name: "80.0.43.10.in-addr.arpa.", qtype: dns.TypePTR, want: []string{"web.shop.svc.cluster.local."}},
		"a headless endpoint points to its name":     {name: "31.0.42.10.in-addr.arpa.", qtype: dns.TypePTR, want: []string{"db-0.db.shop.svc.cluster.local."}},
		"another endpoint points to its name too":    {name: "20.0.42.10.in-addr.arpa.", qtype: dns.TypePTR, want: []string{"10-42-0-20.web.shop.svc.cluster.local."}},
		"an unused address in our ranges":            {name: "99.0.42.10.in-addr.arpa.", qtype: dns.TypePTR, want: []string{missing}},
		"a long address points to its service":       {name: reverse(t, "fd00:43::80"), qtype: dns.TypePTR, want: []string{"web.shop.svc.cluster.local."}},
		"a node's address is not the cluster's":      {name: "1.9.168.192.in-addr.arpa.", qtype: dns.TypePTR, want: []string{"not ours"}},
		"a name of the world is not the cluster's":   {name: "example.com.", qtype: dns.TypeA, want: []string{"not ours"}},
		"a name that only ends alike is the world's": {name: "notcluster.local.", qtype: dns.TypeA, want: []string{"not ours"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, extra := []string{"not ours"}, []string(nil)
			if z.covers(tc.name) {
				a := z.ask(tc.name, tc.name, tc.qtype)
				switch {
				case a.alias != "":
					got = []string{"alias " + a.alias}
				case !a.exists:
					got = append([]string{missing}, data(a.records)...)
				default:
					got, extra = data(a.records), data(a.extra)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.name, diff)
			}
			if diff := cmp.Diff(tc.extra, extra); diff != "" {
				t.Errorf("additional to %s (-want +got):\n%s", tc.name, diff)
			}
		})
	}
}

func TestAnswersSpellNamesAsAsked(t *testing.T) {
	z := &zone{origin: "cluster.local.", source: shop()}
	a := z.ask("web.shop.svc.cluster.local.", "WeB.shop.svc.cluster.local.", dns.TypeA)
	if got := a.records[0].Header().Name; got != "WeB.shop.svc.cluster.local." {
		t.Errorf("owner = %s: a client that mixes cases against forgery would not believe it", got)
	}
}

// data is what records say, sorted.
func data(records []dns.RR) []string {
	var all []string
	for _, rr := range records {
		all = append(all, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(all)
	return all
}

func reverse(t *testing.T, addr string) string {
	t.Helper()
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

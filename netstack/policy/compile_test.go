package policy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// The examples of the documentation (Network Policies), and then some.
const (
	example = `
metadata: {name: test-network-policy, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
    - namespaceSelector: {matchLabels: {project: myproject}}
    - podSelector: {matchLabels: {role: frontend}}
    ports: [{protocol: TCP, port: 6379}]
  egress:
  - to:
    - ipBlock: {cidr: 10.0.0.0/24}
    ports: [{protocol: TCP, port: 5978}]`
	denyIngress  = `{metadata: {name: default-deny-ingress, namespace: default}, spec: {podSelector: {}, policyTypes: [Ingress]}}`
	allowIngress = `{metadata: {name: allow-all-ingress, namespace: default}, spec: {podSelector: {}, ingress: [{}], policyTypes: [Ingress]}}`
	denyEgress   = `{metadata: {name: default-deny-egress, namespace: default}, spec: {podSelector: {}, policyTypes: [Egress]}}`
	allowEgress  = `{metadata: {name: allow-all-egress, namespace: default}, spec: {podSelector: {}, egress: [{}], policyTypes: [Egress]}}`
	denyAll      = `{metadata: {name: default-deny-all, namespace: default}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}`
	portRange    = `
metadata: {name: multi-port-egress, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 10.0.0.0/24}}]
    ports: [{protocol: TCP, port: 32000, endPort: 32768}]`
	severalSpaces = `
metadata: {name: egress-namespaces, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Egress]
  egress:
  - to:
    - namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [other, third]}]}`
	both = `
metadata: {name: both, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {project: myproject}}, podSelector: {matchLabels: {role: frontend}}}]`
	either = `
metadata: {name: either, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  ingress:
  - from: [{namespaceSelector: {matchLabels: {project: myproject}}}, {podSelector: {matchLabels: {role: frontend}}}]`
	ownName = `
metadata: {name: own-name, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  ingress: [{ports: [{port: sql}]}]`
	peersName = `
metadata: {name: peers-name, namespace: default}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {}}], ports: [{port: web}, {port: web, protocol: UDP}]}]`
	dnsOnly = `
metadata: {name: dns, namespace: default}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: dns-tcp}]`
	anyUDP = `
metadata: {name: any-udp, namespace: default}
spec:
  podSelector: {}
  ingress: [{ports: [{protocol: UDP}]}]`
)

func policies(t testing.TB, texts ...string) []*networkingv1.NetworkPolicy {
	t.Helper()
	var all []*networkingv1.NetworkPolicy
	for _, text := range texts {
		p := &networkingv1.NetworkPolicy{}
		if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

func aPod(namespace, name, address string, set labels.Set, ports ...NamedPort) Pod {
	return Pod{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}, Labels: set, Addresses: []netip.Addr{netip.MustParseAddr(address)}, Ports: ports}
}

// aCluster has a pod of each kind; db, frontend and plain, in the namespace default, are on this node.
func aCluster(t testing.TB, texts ...string) Cluster {
	t.Helper()
	space := func(name string, set labels.Set) labels.Set {
		return labels.Merge(set, labels.Set{corev1.LabelMetadataName: name})
	}
	c := Cluster{
		Policies: policies(t, texts...),
		Namespaces: map[string]labels.Set{
			"default": space("default", nil), "other": space("other", labels.Set{"project": "myproject"}), "third": space("third", nil), "kube-system": space("kube-system", nil),
		},
		Pods: []Pod{
			aPod("default", "db", "10.42.0.2", labels.Set{"role": "db"}, NamedPort{"sql", unix.IPPROTO_TCP, 5432}),
			aPod("default", "frontend", "10.42.0.3", labels.Set{"role": "frontend"}, NamedPort{"web", unix.IPPROTO_TCP, 8080}),
			aPod("default", "plain", "10.42.0.4", nil),
			aPod("other", "web", "10.42.1.5", labels.Set{"role": "frontend"}, NamedPort{"web", unix.IPPROTO_UDP, 9090}),
			aPod("other", "plain", "10.42.1.6", nil),
			aPod("third", "web", "10.42.1.7", labels.Set{"role": "frontend"}),
			aPod("kube-system", "dns", "10.43.0.10", labels.Set{"k8s-app": "kube-dns"}, NamedPort{"dns-tcp", unix.IPPROTO_TCP, 53}),
		},
		Local: map[netip.Addr]*Pod{},
	}
	for i := range 3 {
		c.Local[c.Pods[i].Addresses[0]] = &c.Pods[i]
	}
	return c
}

// passes is what the kernel does with the first packet of a connection, step by step.
func passes(r Rules, protocol uint8, from netip.Addr, to netip.AddrPort) bool {
	return through(r, r.Egress[from], protocol, to.Addr(), to) && through(r, r.Ingress[to.Addr()], protocol, from, to)
}

func through(r Rules, chain string, protocol uint8, peer netip.Addr, to netip.AddrPort) bool {
	return chain == "" || walk(r, chain, protocol, peer, to) == "allow"
}

func walk(r Rules, chain string, protocol uint8, peer netip.Addr, to netip.AddrPort) string {
	for _, s := range r.Chains[chain] {
		member := Member{Addr: peer}
		if s.Named {
			member.Port = to.Port()
		}
		switch {
		case s.Jump != "":
			if end := walk(r, s.Jump, protocol, peer, to); end != "" {
				return end
			}
		case s.Drop:
			return "drop"
		case s.Protocol != 0 && s.Protocol != protocol,
			s.To != 0 && (to.Port() < s.From || to.Port() > s.To),
			s.Set != "" && !r.Sets[s.Set].Members[member],
			s.Block.IsValid() && !s.Block.Contains(peer),
			slices.ContainsFunc(s.Except, func(e netip.Prefix) bool { return e.Contains(peer) }):
		default:
			return "allow"
		}
	}
	return ""
}

func TestCompile(t *testing.T) {
	where := map[string]string{
		"db": "10.42.0.2", "frontend": "10.42.0.3", "plain": "10.42.0.4", "other/web": "10.42.1.5", "other/plain": "10.42.1.6",
		"third/web": "10.42.1.7", "dns": "10.43.0.10",
	}
	resolve := func(name string) string {
		if address, ok := where[name]; ok {
			return address
		}
		return name
	}
	tests := map[string]struct {
		policies  []string
		pass, not []string // "from to:port", TCP unless said otherwise
	}{
		"no policy, no rule": {nil, []string{"other/web db:1", "db 1.1.1.1:1"}, nil},
		"the documentation's example": {[]string{example},
			[]string{"172.17.3.4 db:6379", "other/plain db:6379", "frontend db:6379", "db 10.0.0.7:5978", "other/web plain:1", "plain 1.1.1.1:1"},
			[]string{"172.17.1.4 db:6379", "172.18.3.4 db:6379", "172.17.3.4 db:6380", "plain db:6379", "third/web db:6379", "db 10.0.1.7:5978", "db 10.0.0.7:5979", "udp frontend db:6379", "db frontend:80"}},
		"nobody in":                                {[]string{denyIngress}, []string{"db 1.1.1.1:1"}, []string{"frontend db:1", "1.1.1.1 db:1"}},
		"nobody in, and all in: policies add up":   {[]string{denyIngress, allowIngress}, []string{"frontend db:1", "udp 1.1.1.1 db:1"}, nil},
		"nobody out":                               {[]string{denyEgress}, []string{"other/web db:1"}, []string{"db frontend:1", "db 1.1.1.1:1", "db dns:53"}},
		"all out":                                  {[]string{denyEgress, allowEgress}, []string{"db frontend:1", "db 1.1.1.1:1"}, nil},
		"neither way":                              {[]string{denyAll}, []string{"other/web third/web:1"}, []string{"other/web db:1", "db other/web:1"}},
		"a range of ports":                         {[]string{portRange}, []string{"db 10.0.0.1:32000", "db 10.0.0.1:32768"}, []string{"db 10.0.0.1:31999", "db 10.0.0.1:32769", "udp db 10.0.0.1:32000"}},
		"namespaces by name":                       {[]string{severalSpaces}, []string{"db other/web:1", "db third/web:1"}, []string{"db frontend:1", "db 1.1.1.1:1"}},
		"a namespace and a pod in it":              {[]string{both}, []string{"other/web db:1"}, []string{"other/plain db:1", "frontend db:1", "third/web db:1"}},
		"a namespace or a pod here":                {[]string{either}, []string{"other/web db:1", "other/plain db:1", "frontend db:1"}, []string{"third/web db:1", "plain db:1"}},
		"the name of an own port":                  {[]string{ownName}, []string{"1.1.1.1 db:5432"}, []string{"1.1.1.1 db:5433", "udp 1.1.1.1 db:5432"}},
		"the name of a peer's port":                {[]string{peersName}, []string{"db frontend:8080", "udp db other/web:9090"}, []string{"db frontend:9090", "db other/web:9090", "udp db frontend:8080", "db 1.1.1.1:8080"}},
		"nothing but names":                        {[]string{dnsOnly}, []string{"udp db dns:53", "db dns:53"}, []string{"db dns:54", "db other/web:53", "udp db 1.1.1.1:53"}},
		"one protocol, any port":                   {[]string{anyUDP}, []string{"udp frontend db:1", "udp frontend db:65535"}, []string{"frontend db:1"}},
		"of one policy ingress, of another egress": {[]string{ownName, severalSpaces}, []string{"plain db:5432", "db other/web:1"}, []string{"plain db:1", "db plain:1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			rules := Compile(aCluster(t, tc.policies...))
			for want, packets := range map[bool][]string{true: tc.pass, false: tc.not} {
				for _, each := range packets {
					protocol := uint8(unix.IPPROTO_TCP)
					text, udp := strings.CutPrefix(each, "udp ")
					if udp {
						protocol = unix.IPPROTO_UDP
					}
					from, to, _ := strings.Cut(text, " ")
					host, port, _ := strings.Cut(to, ":")
					sender, at := netip.MustParseAddr(resolve(from)), netip.MustParseAddrPort(resolve(host)+":"+port)
					if got := passes(rules, protocol, sender, at); got != want {
						t.Errorf("%s passes: %v; want %v\n%v", each, got, want, rules.Chains)
					}
					if got := passesTables(rules, packet{protocol, sender, at}); got != want {
						t.Errorf("%s passes in ip_tables: %v; want %v\n%v", each, got, want, rules.Chains)
					}
				}
			}
		})
	}
}

func TestCompileKnowsNothingOfAPod(t *testing.T) {
	c := aCluster(t, denyIngress)
	stranger := netip.MustParseAddr("10.42.0.9")
	c.Local[stranger] = nil
	rules := Compile(c)
	if passes(rules, unix.IPPROTO_TCP, stranger, netip.MustParseAddrPort("1.1.1.1:1")) || passes(rules, unix.IPPROTO_TCP, netip.MustParseAddr("1.1.1.1"), netip.AddrPortFrom(stranger, 1)) {
		t.Error("packets of a pod that nothing is known of pass")
	}
}

func TestPodsAndRulesThatSayTheSameShareChainsAndSets(t *testing.T) {
	c := aCluster(t, either, strings.Replace(both, "default", "other", 1), strings.ReplaceAll(either, "either", "again"), denyIngress)
	rules := Compile(c)
	if rules.Ingress[netip.MustParseAddr("10.42.0.3")] != rules.Ingress[netip.MustParseAddr("10.42.0.4")] {
		t.Error("pods with the same policies have chains of their own")
	}
	if len(rules.Sets) != 2 {
		t.Errorf("%d sets of peers; want one for each selection that matters here", len(rules.Sets))
	}
}

func TestALongNameIsAChainsNameToo(t *testing.T) {
	long := policies(t, denyIngress)[0]
	long.Name = strings.Repeat("x", 253)
	c := aCluster(t)
	c.Policies = []*networkingv1.NetworkPolicy{long}
	for name := range Compile(c).Chains {
		if len(name) > 250 {
			t.Errorf("chain %q has %d letters", name, len(name))
		}
	}
}

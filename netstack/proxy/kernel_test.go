package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints/endpointstest"
	"knarr.dev/knarr/netstack/netlab"
	"knarr.dev/knarr/netstack/nft"
)

// svc is a Service named web with one TCP and one UDP port, 80, whose endpoints listen on 8080.
func svc(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.43.0.80", ClusterIPs: []string{"10.43.0.80"},
			Ports: []corev1.ServicePort{
				{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80},
				{Name: "quic", Protocol: corev1.ProtocolUDP, Port: 80},
			},
		},
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func nodePort(s *corev1.Service) {
	s.Spec.Type = corev1.ServiceTypeNodePort
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = 30080
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
}

func sticky(s *corev1.Service) {
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
}

// ep is an endpoint on a node, ready unless told otherwise.
func ep(addr, node string, change ...func(*discoveryv1.EndpointConditions)) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &node}
	for _, c := range change {
		c(&e.Conditions)
	}
	return e
}

func leaving(c *discoveryv1.EndpointConditions) {
	c.Ready, c.Serving, c.Terminating = ptr.To(false), ptr.To(true), ptr.To(true)
}

func notReady(c *discoveryv1.EndpointConditions) { c.Ready = ptr.To(false) }

func sliceOf(list ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)},
			{Name: ptr.To("quic"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolUDP)},
		},
		Endpoints: list,
	}
}

// answers asks n times and counts who answered.
func answers(t *testing.T, from *netlab.Host, network, to string, n int) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for range n {
		name, _, err := from.Ask(network, to)
		if err != nil {
			t.Fatalf("%s to %s: %v", network, to, err)
		}
		counts[name]++
	}
	return counts
}

func TestClusterAddressReachesEveryEndpoint(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		client, one, two := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11"), pod(t, "two", "10.42.0.12")
		one.Serve("one", 8080)
		two.Serve("two", 8080)
		_, view := endpointstest.Running(t, svc(), sliceOf(ep("10.42.0.11", "here"), ep("10.42.0.12", "here")))
		start(t, view)

		for _, network := range []string{"tcp", "udp"} {
			counts := answers(t, client, network, "10.43.0.80:80", 200)
			if counts["one"] < 60 || counts["two"] < 60 {
				t.Errorf("%s from a pod: answers %v of 200, want about half each", network, counts)
			}
			if _, seen, _ := client.Ask(network, "10.43.0.80:80"); seen != "10.42.0.9" {
				t.Errorf("%s: the endpoint saw %s, want the pod itself", network, seen)
			}
			if counts := answers(t, theNode, network, "10.43.0.80:80", 20); len(counts) != 2 {
				t.Errorf("%s from the node: answers %v, want both", network, counts)
			}
		}
	})
}

func TestTheOtherFamily(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		client, one, two := pod(t, "client", "fd00:42::9"), pod(t, "one", "fd00:42::11"), pod(t, "two", "fd00:42::12")
		one.Serve("one", 8080)
		two.Serve("two", 8080)
		long := func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00:43::80", []string{"fd00:43::80"} }
		slice := sliceOf(ep("fd00:42::11", "here"), ep("fd00:42::12", "here"))
		slice.AddressType = discoveryv1.AddressTypeIPv6
		cases := map[string]func(*corev1.Service){"drawn": func(*corev1.Service) {}, "sticky": sticky}
		for name, change := range cases {
			t.Run(name, func(t *testing.T) {
				_, view := endpointstest.Running(t, svc(long, nodePort, change), slice)
				defer start(t, view)()
				want := 2
				if name == "sticky" {
					want = 1
				}
				for _, network := range []string{"tcp", "udp"} {
					if counts := answers(t, client, network, "[fd00:43::80]:80", 30); len(counts) != want {
						t.Errorf("%s from a pod: answers %v, want from %d", network, counts, want)
					}
					if _, seen, err := one.Ask(network, "[fd00:43::80]:80"); err != nil || seen != "fd00:42::1" && seen != "fd00:42::11" {
						t.Errorf("%s from an endpoint, seen as %s, %v", network, seen, err)
					}
					answers(t, theNode, network, "[fd00:43::80]:80", 5)
					answers(t, client, network, "[fd00:42::1]:30080", 5)
				}
				// In IPv6 the route of last resort says no before ip_tables can.
				unreachable := strings.Contains(t.Name(), "iptables")
				if _, _, err := client.Ask("tcp", "[fd00:43::80]:81"); !isRefused(err) && !(unreachable && errors.Is(err, syscall.ENETUNREACH)) {
					t.Errorf("a port the service does not have = %v, want connection refused", err)
				}
			})
		}
	})
}

func TestPodReachesItselfThroughItsService(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		one := pod(t, "one", "10.42.0.11")
		one.Serve("one", 8080)
		_, view := endpointstest.Running(t, svc(), sliceOf(ep("10.42.0.11", "here")))
		start(t, view)
		for _, network := range []string{"tcp", "udp"} {
			if name, seen, err := one.Ask(network, "10.43.0.80:80"); err != nil || name != "one" || seen != "10.42.0.1" {
				t.Errorf("%s = %q, seen as %q, %v; want itself, seen as the gateway", network, name, seen, err)
			}
		}
	})
}

func TestNodePort(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		outside, client := outsider(t, "outside", "192.168.9.2"), pod(t, "client", "10.42.0.9")
		one, away := pod(t, "one", "10.42.0.11"), pod(t, "away", "10.42.7.12") // "away" stands for another node's pod
		one.Serve("one", 8080)
		away.Serve("away", 8080)
		both := sliceOf(ep("10.42.0.11", "here"), ep("10.42.7.12", "elsewhere"))

		t.Run("goes to every endpoint and hides the sender", func(t *testing.T) {
			_, view := endpointstest.Running(t, svc(nodePort), both)
			defer start(t, view)()
			for _, network := range []string{"tcp", "udp"} {
				if counts := answers(t, outside, network, "192.168.9.1:30080", 30); len(counts) != 2 {
					t.Errorf("%s: answers %v, want both", network, counts)
				}
				if _, seen, _ := outside.Ask(network, "192.168.9.1:30080"); seen != "10.42.0.1" {
					t.Errorf("%s: the endpoint saw %s, want the gateway", network, seen)
				}
			}
			if counts := answers(t, client, "tcp", "192.168.9.1:30080", 10); len(counts) == 0 {
				t.Error("a pod cannot use the node port")
			}
			if counts := answers(t, theNode, "tcp", "192.168.9.1:30080", 10); len(counts) == 0 {
				t.Error("the node cannot use its own node port")
			}
		})
		t.Run("with the Local policy stays on the node and keeps the sender", func(t *testing.T) {
			_, view := endpointstest.Running(t, svc(nodePort, externalLocal), both)
			defer start(t, view)()
			for range 20 {
				if name, seen, err := outside.Ask("tcp", "192.168.9.1:30080"); err != nil || name != "one" || seen != "192.168.9.2" {
					t.Fatalf("from outside = %q, seen as %q, %v; want one, seen as 192.168.9.2", name, seen, err)
				}
			}
			if counts := answers(t, client, "tcp", "192.168.9.1:30080", 30); len(counts) != 2 {
				t.Errorf("from a pod: answers %v, want both: it is not outside", counts)
			}
		})
		t.Run("with the Local policy and nobody here drops", func(t *testing.T) {
			_, view := endpointstest.Running(t, svc(nodePort, externalLocal), sliceOf(ep("10.42.7.12", "elsewhere")))
			defer start(t, view)()
			if _, _, err := outside.Ask("udp", "192.168.9.1:30080"); !isTimeout(err) {
				t.Errorf("from outside = %v, want no answer at all", err)
			}
			if name, _, err := theNode.Ask("tcp", "192.168.9.1:30080"); err != nil || name != "away" {
				t.Errorf("from the node = %q, %v; want away", name, err)
			}
		})
	})
}

func TestExternalAndBalancerAddresses(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		outside, banned := outsider(t, "outside", "192.168.9.2"), outsider(t, "banned", "192.168.9.66")
		one := pod(t, "one", "10.42.0.11")
		one.Serve("one", 8080)
		balanced := func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.ExternalIPs = []string{"203.0.113.1"}
			s.Spec.LoadBalancerSourceRanges = []string{"192.168.9.0/26"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"}}
		}
		_, view := endpointstest.Running(t, svc(balanced), sliceOf(ep("10.42.0.11", "here")))
		start(t, view)
		for _, to := range []string{"203.0.113.1:80", "203.0.113.2:80"} {
			if name, _, err := outside.Ask("tcp", to); err != nil || name != "one" {
				t.Errorf("%s = %q, %v; want one", to, name, err)
			}
		}
		if _, _, err := banned.Ask("udp", "203.0.113.2:80"); !isTimeout(err) {
			t.Errorf("from outside the source ranges = %v, want no answer", err)
		}
		if name, _, err := banned.Ask("udp", "203.0.113.1:80"); err != nil || name != "one" {
			t.Errorf("an external address = %q, %v; source ranges are not about it", name, err)
		}
	})
}

func TestInternalTrafficPolicyLocalStaysHere(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		client := pod(t, "client", "10.42.0.9")
		one, away := pod(t, "one", "10.42.0.11"), pod(t, "away", "10.42.7.12")
		one.Serve("one", 8080)
		away.Serve("away", 8080)
		_, view := endpointstest.Running(t, svc(internalLocal), sliceOf(ep("10.42.0.11", "here"), ep("10.42.7.12", "elsewhere")))
		start(t, view)
		if counts := answers(t, client, "tcp", "10.43.0.80:80", 20); counts["one"] != 20 {
			t.Errorf("answers %v, want only the endpoint on this node", counts)
		}
	})
}

func TestNoEndpointsIsSaidAtOnce(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		client, outside := pod(t, "client", "10.42.0.9"), outsider(t, "outside", "192.168.9.2")
		_, view := endpointstest.Running(t, svc(nodePort))
		start(t, view)
		cases := map[string]struct {
			from *netlab.Host
			to   string
		}{
			"a pod to a service without endpoints":      {client, "10.43.0.80:80"},
			"the node to a service without endpoints":   {theNode, "10.43.0.80:80"},
			"a pod to a port the service does not have": {client, "10.43.0.80:81"},
			"a pod to an address of no service":         {client, "10.43.200.200:80"},
			"an outsider to the node port":              {outside, "192.168.9.1:30080"},
		}
		for name, tc := range cases {
			for _, network := range []string{"tcp", "udp"} {
				t.Run(name+" by "+network, func(t *testing.T) {
					_, _, err := tc.from.Ask(network, tc.to)
					// The kernel tells a program on this machine that its packet was refused before it left.
					refusedHere := tc.from == theNode && errors.Is(err, syscall.EPERM)
					if !isRefused(err) && !refusedHere {
						t.Errorf("error = %v, want connection refused", err)
					}
				})
			}
		}
	})
}

func TestStickyClientsKeepTheirEndpoint(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		var clients []*netlab.Host
		for i := range 6 {
			clients = append(clients, pod(t, fmt.Sprintf("client%d", i), fmt.Sprintf("10.42.1.%d", 10+i)))
		}
		one, two := pod(t, "one", "10.42.0.11"), pod(t, "two", "10.42.0.12")
		one.Serve("one", 8080)
		two.Serve("two", 8080)
		first, second := ep("10.42.0.11", "here"), ep("10.42.0.12", "here")
		_, view := endpointstest.Running(t, svc(sticky), sliceOf(first, second))
		stop := start(t, view)

		at := map[int]string{}
		stay := func(when string) {
			t.Helper()
			for i, client := range clients {
				for name, n := range answers(t, client, "tcp", "10.43.0.80:80", 10) {
					if n != 10 || at[i] != "" && at[i] != name {
						t.Errorf("%s client %d was with %q and now gets %d of 10 answers from %s", when, i, at[i], n, name)
					}
					at[i] = name
				}
			}
		}
		stay("at first")

		stop()
		_, view = endpointstest.Running(t, svc(sticky), sliceOf(first, second))
		stop = start(t, view)
		stay("after a restart of the proxy")
		stop()

		cluster, view := endpointstest.Running(t, svc(sticky), sliceOf(first, second))
		start(t, view)
		cluster.Put(sliceOf(second))
		netlab.Eventually(t, "all clients move to the endpoint that is left", func() bool {
			for _, client := range clients {
				if name, _, err := client.Ask("tcp", "10.43.0.80:80"); err != nil || name != "two" {
					return false
				}
			}
			return true
		})
		cluster.Put(sliceOf(first, second))
		at = map[int]string{}
		for i := range clients {
			at[i] = "two"
		}
		stay("after the other endpoint came back")
	})
}

func TestRemovedEndpoint(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		client, one, two := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11"), pod(t, "two", "10.42.0.12")
		one.Serve("one", 8080)
		two.Serve("two", 8080)
		cluster, view := endpointstest.Running(t, svc(), sliceOf(ep("10.42.0.11", "here")))
		start(t, view)
		stream, err := client.Dial("tcp", "10.43.0.80:80")
		netlab.Check(t, err)
		defer stream.Close()
		flow, err := client.Dial("udp", "10.43.0.80:80")
		netlab.Check(t, err)
		defer flow.Close()
		if name, _, err := netlab.Question(stream); err != nil || name != "one" {
			t.Fatalf("before: %q, %v", name, err)
		}
		if name, _, err := netlab.Question(flow); err != nil || name != "one" {
			t.Fatalf("before: %q, %v", name, err)
		}

		cluster.Put(sliceOf(ep("10.42.0.11", "here", leaving), ep("10.42.0.12", "here")))
		netlab.Eventually(t, "new connections avoid the endpoint that leaves", func() bool {
			return answers(t, client, "tcp", "10.43.0.80:80", 8)["two"] == 8
		})
		netlab.Eventually(t, "a UDP client that never fell silent moves on", func() bool {
			name, _, err := netlab.Question(flow)
			return err == nil && name == "two"
		})
		// The connection it had lives on.
		netlab.Check(t, stream.SetDeadline(time.Now().Add(2*time.Second)))
		_, err = stream.Write([]byte("still there?"))
		netlab.Check(t, err)
		if n, err := stream.Read(make([]byte, 64)); err != nil || n == 0 {
			t.Errorf("an established connection broke: %v", err)
		}

		cluster.Put(sliceOf(ep("10.42.0.11", "here", leaving)))
		netlab.Eventually(t, "the endpoint that leaves serves when it is the last", func() bool {
			name, _, err := client.Ask("tcp", "10.43.0.80:80")
			return err == nil && name == "one"
		})
		cluster.Delete(svc())
		netlab.Eventually(t, "a deleted service is refused", func() bool {
			_, _, err := client.Ask("tcp", "10.43.0.80:80")
			return isRefused(err)
		})
	})
}

func TestFirstEndpointFreesWaitingClients(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		outside, one := outsider(t, "outside", "192.168.9.2"), pod(t, "one", "10.42.0.11")
		one.Serve("one", 8080)
		cluster, view := endpointstest.Running(t, svc(nodePort, externalLocal), sliceOf(ep("10.42.0.11", "here", notReady)))
		start(t, view)
		flow, err := outside.Dial("udp", "192.168.9.1:30080")
		netlab.Check(t, err)
		defer flow.Close()
		if _, _, err := netlab.Question(flow); err == nil {
			t.Fatal("an endpoint that is not ready answered")
		}
		cluster.Put(sliceOf(ep("10.42.0.11", "here")))
		netlab.Eventually(t, "the same flow reaches the first endpoint", func() bool {
			name, _, err := netlab.Question(flow)
			return err == nil && name == "one"
		})
	})
}

func TestTamperingIsHealed(t *testing.T) {
	needKernel(t)
	client, one := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11")
	one.Serve("one", 8080)
	_, view := endpointstest.Running(t, svc(), sliceOf(ep("10.42.0.11", "here")))
	start(t, view)

	conn, err := nftables.New()
	netlab.Check(t, err)
	ours := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	cases := map[string]func(){
		"the whole ruleset is flushed": func() { conn.FlushRuleset() },
		"our table is flushed":         func() { conn.FlushTable(ours) },
		"our table is deleted":         func() { conn.DelTable(ours) },
		"one chain is flushed": func() {
			conn.FlushChain(&nftables.Chain{Table: ours, Name: "any4/shop/web/TCP/80"})
		},
	}
	for name, harm := range cases {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			harm()
			netlab.Check(t, conn.Flush())
			netlab.Eventually(t, "the service answers again", func() bool {
				// Less than a second, after which TCP would try again by itself.
				conn, err := client.DialWithin(100*time.Millisecond, "tcp", "10.43.0.80:80")
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
			if took := time.Since(began); took > time.Second {
				t.Errorf("healing took %v, want less than a second", took)
			}
		})
	}
}

// News of changes may be lost when there are many. That is no reason to build a table anew that nobody touched, also when
// a change waits already.
func TestWhatIsThereIsLeftAloneWhenNewsWereLost(t *testing.T) {
	needKernel(t)
	client, one := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11")
	one.Serve("one", 8080)
	cluster, view := endpointstest.Running(t, sliceOf(ep("10.42.0.11", "here")))
	p := proxyOf(view, false)
	endpointstest.Run(t, p)
	events, err := nft.OpenEvents(TableName)
	netlab.Check(t, err)
	var came, went atomic.Bool
	go func() {
		_ = events.Run(t.Context(), func(e nft.Event) {
			if e.Takes {
				went.Store(true)
			} else {
				came.Store(true)
			}
		}, func() {})
	}()
	p.unsure.Store(true)
	cluster.Put(svc())
	netlab.Eventually(t, "the new service answers", func() bool {
		name, _, err := client.Ask("tcp", "10.43.0.80:80")
		return err == nil && name == "one"
	})
	netlab.Eventually(t, "the change is told", came.Load) // what a change takes is told before what it brings
	if went.Load() {
		t.Error("the table was built anew")
	}
}

// An administrator's `nft list ruleset` decodes our rules too, and some versions of it crash on rules that are legal.
func TestTheNftProgramCanListTheTable(t *testing.T) {
	needKernel(t)
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs the nft program")
	}
	guarded := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.LoadBalancerSourceRanges = []string{"192.168.9.0/26"}
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.2"}}
	}
	cluster, view := endpointstest.Running(t, svc(nodePort, sticky, externalLocal, guarded), sliceOf(ep("10.42.0.11", "here"), ep("10.42.7.12", "elsewhere")))
	start(t, view)
	for _, change := range []func(*corev1.Service){sticky, func(*corev1.Service) {}} {
		cluster.Put(svc(nodePort, change))
		for _, args := range [][]string{{"list", "ruleset"}, {"--json", "list", "ruleset"}} {
			if out, err := exec.Command(nft, args...).CombinedOutput(); err != nil {
				t.Errorf("nft %v: %v\n%s", args, err, out)
			}
		}
	}
}

func TestRemoveLeavesNothing(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		_, view := endpointstest.Running(t, svc(sticky, nodePort), sliceOf(ep("10.42.0.11", "here")))
		start(t, view)()
		netlab.Check(t, Remove())
		netlab.Check(t, Remove()) // nothing there is fine
		conn, err := nftables.New()
		netlab.Check(t, err)
		tables, err := conn.ListTables()
		netlab.Check(t, err)
		if len(tables) != 0 {
			t.Errorf("tables left: %v", tables)
		}
		if left := chainsOfTables(t); len(left) != 0 {
			t.Errorf("chains left: %v", left)
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: wayOutProtocol}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
			netlab.Check(t, err)
			if len(routes) != 0 {
				t.Errorf("routes left: %v", routes)
			}
		}
	})
}

// From the first routing rule that is not its own the kernel walks rules for every packet it forwards, twice: a third of
// the connections a second, and more of the packets, were lost to one rule.
func TestNoRoutingRules(t *testing.T) {
	withEither(t, func(t *testing.T, start starter) {
		_, view := endpointstest.Running(t, svc(nodePort), sliceOf(ep("10.42.0.11", "here")))
		start(t, view)
		own := []int{0, 32766, 32767}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rules, err := netlink.RuleList(family)
			netlab.Check(t, err)
			for _, rule := range rules {
				if !slices.Contains(own, rule.Priority) {
					t.Errorf("there is a routing rule: %v", rule)
				}
			}
		}
	})
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestPlacesOfThisNode(t *testing.T) {
	needKernel(t)
	client := outsider(t, "client", "192.168.9.50")
	server, err := net.Listen("tcp", netip.AddrPortFrom(nodeOutside, 6443).String())
	netlab.Check(t, err)
	t.Cleanup(func() { netlab.Check(t, server.Close()) })
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			fmt.Fprintf(conn, "server %s\n", host)
			conn.Close()
		}
	}()
	for name, need := range map[string]func(testing.TB){"nftables": needKernel, "iptables": needTables} {
		t.Run(name, func(t *testing.T) {
			need(t)
			_, view := endpointstest.Running(t)
			p := proxyOf(view, name == "iptables")
			p.cfg.Own = map[netip.AddrPort]netip.AddrPort{netip.MustParseAddrPort("192.168.9.200:6443"): netip.AddrPortFrom(nodeOutside, 6443)}
			defer endpointstest.Run(t, p)()
			if name, seen, err := client.Ask("tcp", "192.168.9.200:6443"); name != "server" || seen != "192.168.9.50" {
				t.Errorf("%q answers, who sees %q, %v", name, seen, err)
			}
		})
	}
}

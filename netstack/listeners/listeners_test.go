package listeners

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/bootstrap/heldports"
	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

func TestListens(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	at := func(a net.Addr, host string) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(host), netip.MustParseAddrPort(a.String()).Port())
	}
	stream, packets := at(tcp.Addr(), "127.0.0.1"), at(udp.LocalAddr(), "127.0.0.1")
	for name, c := range map[string]struct {
		at       netip.AddrPort
		protocol corev1.Protocol
		want     bool
	}{
		"a server at this address":       {stream, corev1.ProtocolTCP, true},
		"one at another address":         {at(tcp.Addr(), "127.0.0.2"), corev1.ProtocolTCP, false},
		"one at all addresses":           {packets, corev1.ProtocolUDP, true},
		"what no program here can speak": {stream, corev1.ProtocolSCTP, false},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the first look changes nothing
				if got := listens(c.at, c.protocol); got != c.want {
					t.Errorf("listens(%s, %s) = %t", c.at, c.protocol, got)
				}
			}
		})
	}
	if err := tcp.Close(); err != nil {
		t.Fatal(err)
	}
	if err := udp.Close(); err != nil {
		t.Fatal(err)
	}
	if listens(stream, corev1.ProtocolTCP) || listens(packets, corev1.ProtocolUDP) {
		t.Error("a server that ended still has its port")
	}
}

func TestReportFollowsServices(t *testing.T) {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 1, Protocol: corev1.ProtocolSCTP}}},
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	cluster, view := endpointstest.Running(t, node)
	if _, err := cluster.Cache().GetInformer(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	endpointstest.Run(t, New(Config{
		Node: "a", NodeIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Nodes: cluster.Cache(), Log: slog.New(slog.DiscardHandler),
		Annotate: func(_ context.Context, annotation, value string) error {
			n := node.DeepCopy()
			n.Annotations = map[string]string{annotation: value}
			cluster.Put(n)
			select {
			case said <- value:
			default: // said already, and not read yet
			}
			return nil
		},
	}, view))
	cluster.Put(service)
	if held, known := heldports.Says(<-said, heldports.Port{Number: 1, Protocol: corev1.ProtocolSCTP}); held || !known {
		t.Errorf("the port is held: %t, known: %t", held, known)
	}
	class := "example.com/theirs"
	service.Spec.LoadBalancerClass = &class
	cluster.Put(service)
	for text := range said {
		if text == "" {
			break // nobody asks any more, and nothing is said
		}
	}
}

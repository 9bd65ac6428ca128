package podnet_test

import (
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/test/lab/lab"
)

// peer is the API object of a node that isn't there.
func peer(n *node, name, podRange string) corev1.Node {
	object := n.object(podRange)
	object.Name = name
	object.Status.Addresses[0].Address = n.IP().Next().String()
	return object
}

func TestPodsOfTwoMachinesReachEachOther(t *testing.T) {
	l := lab.New(t)
	n1, n2 := newNode(t, l.Machine("n1")), newNode(t, l.Machine("n2"))
	n1.up("10.42.0.0/24")
	n2.up("10.42.1.0/24")
	if links := overlayLinks(t, n1); links != 0 {
		t.Errorf("a node alone has %d overlay links", links)
	}
	all := []corev1.Node{n1.object("10.42.0.0/24"), n2.object("10.42.1.0/24")}
	for _, n := range []*node{n1, n2} {
		n.tell(all...)
		n.log.wait(t, `msg="overlay follows the nodes" nodes=1`)
	}
	a, b := n1.connected("a"), n2.connected("b")
	for _, network := range []string{"tcp4", "udp4"} {
		onA := serve(t, a, network, a.address.String()+":0").String()
		expect(t, "pod to pod", b, network, onA, b.address)
		expect(t, "node to pod", n2, network, onA, netip.MustParseAddr("10.42.1.0"))
		onNode := serve(t, n1, network, n1.IP().String()+":0").String()
		expect(t, "pod to the other node, behind its own node's address", b, network, onNode, n2.IP())
	}
	onA := serve(t, a, "tcp4", a.address.String()+":0").String()

	n1.kill9()
	n2.kill9()
	expect(t, "pod to pod, while knarr is away", b, "tcp4", onA, b.address)

	// As after a reboot with no API: the kernel is empty, nobody tells of nodes.
	if err := n2.Do(overlay.Remove); err != nil {
		t.Fatal(err)
	}
	n2.start()
	n2.log.wait(t, `msg="pod network is up"`)
	eventually(t, func() error { _, err := ask(b, "tcp4", onA); return err })

	// Somebody cleans up what they don't know.
	if err := n2.Do(func() error {
		link, err := netlink.LinkByName(overlay.Link)
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link) // which also drops the routes
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := ask(b, "tcp4", onA); return err })

	// A machine gets another address.
	n1.start()
	moved := n2.object("10.42.1.0/24")
	moved.Status.Addresses[0].Address = readdress(t, n2, 200).String()
	for _, n := range []*node{n1, n2} {
		n.tell(all[0], moved)
		n.log.wait(t, `msg="overlay follows the nodes" nodes=1`)
	}
	expect(t, "pod to pod, at another address", b, "tcp4", onA, b.address)

	n1.tell(all[0])
	n1.log.wait(t, `msg="overlay follows the nodes" nodes=0`)
	if links := overlayLinks(t, n1); links != 0 {
		t.Errorf("a node that is alone again has %d overlay links", links)
	}
}

// readdress replaces the machine's address on the switch.
func readdress(t *testing.T, n *node, last byte) netip.Addr {
	t.Helper()
	bytes := n.IP().As4()
	bytes[3] = last
	address := netip.AddrFrom4(bytes)
	if err := n.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		network := func(a netip.Addr) *netlink.Addr {
			return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}
		}
		return errors.Join(netlink.AddrDel(link, network(n.IP())), netlink.AddrAdd(link, network(address)))
	}); err != nil {
		t.Fatal(err)
	}
	return address
}

func overlayLinks(t *testing.T, n *node) int {
	t.Helper()
	count := 0
	if err := n.Do(func() error {
		links, err := dump.Links()
		for _, link := range links {
			if link.Attrs().Name == overlay.Link {
				count++
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return count
}

// eventually asks until there is an answer; asking takes its own time.
func eventually(t *testing.T, ask func() error) {
	t.Helper()
	var err error
	for range 30 {
		if err = ask(); err == nil {
			return
		}
	}
	t.Errorf("still: %v", err)
}

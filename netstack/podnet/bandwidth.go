package podnet

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/cni"
)

// shaperPrefix begins the name of the link through which a limited pod's own packets pass; the rest is as in its host link.
const shaperPrefix = "kns"

func shaperOf(host string) string { return shaperPrefix + strings.TrimPrefix(host, linkPrefix) }

// How a limit is kept: what a pod saved up while it was silent, it may send at once; what comes too fast waits, up to a queue.
// Fifty milliseconds are few enough to keep the limit over any second, and enough for a timer that comes late. The bursts that
// the runtime asks for (4 Gbit, with any limit) would have a pod's first half gigabyte pass as if there were none.
const (
	saved   = 0.05  // seconds at the limit
	waiting = 0.025 // seconds at the limit
	packets = 10    // that may wait, and two that are saved up, however low the limit is
)

// bucket is a token bucket filter for a limit in bits a second.
func bucket(link netlink.Link, limit uint64) *netlink.Tbf {
	rate, packet := float64(limit)/8, float64(link.Attrs().MTU+14)
	burst := max(rate*saved, 2*packet)
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       limit / 8,
		Limit:      uint32(min(burst+max(rate*waiting, packets*packet), math.MaxUint32)),
		Buffer:     uint32(burst / rate * netlink.TIME_UNITS_PER_SEC * netlink.TickInUsec()),
	}
}

// restrict keeps a pod's packets within its limits: those to it where they leave the host's end; those from it on a link of
// their own, for what comes in cannot be made to wait. The pod cannot change either.
func restrict(host string, limits cni.Bandwidth) error {
	if limits == (cni.Bandwidth{}) {
		return nil
	}
	link, err := netlink.LinkByName(host)
	if err != nil {
		return fmt.Errorf("find link %s: %w", host, err)
	}
	if limits.Ingress > 0 {
		if err := netlink.QdiscReplace(bucket(link, limits.Ingress)); err != nil {
			return fmt.Errorf("limit what comes to the pod on %s: %w: the kernel needs sch_tbf", host, err)
		}
	}
	if limits.Egress == 0 {
		return nil
	}
	const needs = "the kernel needs ifb, sch_ingress, cls_u32, act_mirred and sch_tbf"
	name := shaperOf(host)
	if err := removeShaper(host); err != nil { // of an attempt before
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = name, link.Attrs().MTU, net.FlagUp
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("add link %s: %w: %s", name, err, needs)
	}
	shaper, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.QdiscReplace(bucket(shaper, limits.Egress)); err != nil {
		return fmt.Errorf("limit what comes from the pod on %s: %w: %s", name, err, needs)
	}
	incoming := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	if err := netlink.QdiscAdd(incoming); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("take what comes in by %s: %w: %s", host, err, needs)
	}
	everything := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: incoming.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(shaper.Attrs().Index)},
	}
	if err := netlink.FilterReplace(everything); err != nil {
		return fmt.Errorf("lead what comes in by %s through %s: %w: %s", host, name, err, needs)
	}
	return nil
}

// removeShaper removes what restrict made beside the pod's link, with which the rest goes.
func removeShaper(host string) error { return deleteLink(shaperOf(host)) }

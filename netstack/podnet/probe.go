package podnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Probe tries what a pod network takes, in a network namespace that is gone afterwards, and says what this kernel or
// this user cannot do. Nothing of the machine is changed.
func Probe(ipTables bool) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread() // as in inside
			done <- Probe(ipTables)
			return
		}
		done <- probe(ipTables) // never unlocked: the thread ends with this goroutine, and the namespace with the thread
	}()
	return <-done
}

func probe(ipTables bool) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w: knarr needs root (CAP_SYS_ADMIN) and a kernel with CONFIG_NET_NS", err)
	}
	attrs := func(name string) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name = name
		return a
	}
	veth := netlink.NewVeth(attrs("pod"))
	veth.PeerName = "peer"
	for option, link := range map[string]netlink.Link{
		"CONFIG_BRIDGE": &netlink.Bridge{LinkAttrs: attrs("bridge")},
		"CONFIG_VETH":   veth,
	} {
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("make a %s link: %w: %s", link.Type(), err, remedy(err, option))
		}
	}
	network := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	rules, _, err := Config{ClusterRanges: network, IPTables: ipTables}.open()
	if err == nil {
		err = rules.write(network, network, nil)
	}
	if err != nil {
		return fmt.Errorf("try the rules of a pod network: %w", err)
	}
	return nil
}

func remedy(err error, option string) string {
	if errors.Is(err, os.ErrPermission) {
		return "knarr needs root (CAP_NET_ADMIN)"
	}
	return "the kernel needs " + option
}

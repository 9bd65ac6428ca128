package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hold starts a process that does nothing but keep new namespaces.
func hold(name string, namespaces uintptr) (process, error) {
	path, err := exec.LookPath("sleep")
	if err != nil {
		return process{}, fmt.Errorf("find a program that keeps namespaces: %w", err)
	}
	cmd := &exec.Cmd{
		Path: path,
		Args: []string{"knarr-lab:" + name, "infinity"},
		// A session of its own: the terminal's interrupt is not for it.
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: namespaces, Setsid: true},
	}
	if err := cmd.Start(); err != nil {
		return process{}, fmt.Errorf("make namespaces: %w", err)
	}
	go cmd.Wait() // reaps it when we are still here
	return processOf(cmd.Process.Pid)
}

// enter runs f on a thread that is in the namespaces of p, and that ends with f. What f starts is there as well.
func enter(p process, names []string, f func() error) error {
	if !p.alive() {
		return fmt.Errorf("the process that holds the namespaces (%d) is gone", p.PID)
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end. While it is locked here, the next goroutine gets another one.
			defer runtime.UnlockOSThread()
			done <- enter(p, names, f)
			return
		}
		if err := join(p, names); err != nil {
			done <- err
			return
		}
		done <- f() // never unlocked
	}()
	return <-done
}

func join(p process, names []string) error {
	// A mount namespace can only be joined by a thread that shares its working directory with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("leave the other threads: %w", err)
	}
	var files []*os.File
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	for _, name := range names { // opened before the first is joined: /proc may look different there
		file, err := os.Open("/proc/" + strconv.Itoa(p.PID) + "/ns/" + name)
		if err != nil {
			return fmt.Errorf("open %s namespace: %w", name, err)
		}
		files = append(files, file)
	}
	for i, file := range files {
		if err := unix.Setns(int(file.Fd()), 0); err != nil {
			return fmt.Errorf("join %s namespace: %w", names[i], err)
		}
	}
	return nil
}

func (l *Lab) inSwitch(f func() error) error {
	return enter(l.state.Switch, []string{"net"}, f)
}

// cable connects a port of the switch with a new link: of the host, or of the namespace that p holds.
func (l *Lab) cable(link, port string, p *process) error {
	return l.inSwitch(func() error {
		bridge, err := netlink.LinkByName("switch")
		if err != nil {
			return fmt.Errorf("find the switch: %w", err)
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex, attrs.Flags, attrs.MTU = port, bridge.Attrs().Index, net.FlagUp, 1500
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerMTU = link, 1500
		if p == nil {
			veth.PeerNamespace = netlink.NsPid(os.Getpid())
		} else {
			veth.PeerNamespace = netlink.NsPid(p.PID)
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return fmt.Errorf("add cable %s: %w", port, err)
		}
		return nil
	})
}

// plugged waits until a port of the switch carries packets.
func (l *Lab) plugged(port string) error {
	return l.inSwitch(func() error { return errors.Join(carrying(port), carrying("switch")) })
}

// unplugged removes the cable from a port of the switch. A machine's end goes some time after its last process, and
// takes this one along.
func (l *Lab) unplugged(port string) error {
	return l.inSwitch(func() error {
		link, err := netlink.LinkByName(port)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find cable %s: %w", port, err)
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("remove cable %s: %w", port, err)
		}
		return nil
	})
}

// raise gives a link of this namespace an address and brings it up.
func raise(name string, address netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	_, network, err := parseCIDR(address.String())
	if err != nil {
		return err
	}
	network.IP = address.Addr().AsSlice()
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: network}); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("give %s the address %s: %w", name, address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// carrying waits until the kernel has taken up a link that came up: what is sent before is lost.
func carrying(name string) error {
	for range 1000 {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("find link %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Errorf("link %s does not come up", name)
}

func parseCIDR(text string) (net.IP, *net.IPNet, error) {
	ip, network, err := net.ParseCIDR(text)
	if err != nil {
		return nil, nil, fmt.Errorf("read network: %w", err)
	}
	return ip, network, nil
}

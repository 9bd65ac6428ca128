package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Machine is one machine of a lab.
type Machine struct {
	lab *Lab
	machine
}

// machine is what is remembered of it.
type machine struct {
	Hostname string  `json:"hostname"`
	Place    int     `json:"place"`           // its port on the switch, and last part of its first address
	Moved    int     `json:"moved,omitempty"` // how often it got another address
	Holder   process `json:"holder"`
}

var namespaces = []string{"net", "uts", "mnt"}

// Machine adds a machine; the test ends when it can't.
func (l *Lab) Machine(name string) *Machine {
	l.t.Helper()
	m, err := l.Add(name)
	if err != nil {
		l.t.Fatal(err)
	}
	return m
}

// Add adds a machine: bare, connected, with nothing running.
func (l *Lab) Add(name string) (*Machine, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("machine name %q: use lower-case letters, digits and hyphens", name)
	}
	place := firstMachine
	for _, other := range l.Machines {
		if other.Name() == name {
			return nil, fmt.Errorf("lab %q has a machine %q already", l.Name(), name)
		}
		place = max(place, other.Place+1)
	}
	if place >= hostPlace {
		return nil, fmt.Errorf("lab %q is full", l.Name())
	}
	m := &Machine{lab: l, machine: machine{Hostname: name, Place: place}}
	if err := m.hold(); err != nil {
		return nil, err
	}
	l.Machines = append(l.Machines, m)
	if err := errors.Join(l.save(), m.furnish()); err != nil {
		return nil, fmt.Errorf("add machine %q: %w", name, err) // Down removes what there is of it
	}
	return m, nil
}

func (m *Machine) hold() (err error) {
	m.Holder, err = hold(m.lab.Name()+"-"+m.Hostname, syscall.CLONE_NEWNET|syscall.CLONE_NEWNS|syscall.CLONE_NEWUTS)
	return err
}

// Name of the machine; it is its hostname too.
func (m *Machine) Name() string { return m.Hostname }

// IP is the machine's address on the switch.
func (m *Machine) IP() netip.Addr { return m.lab.address(m.Place + m.Moved*movedPlaces) }

// movedPlaces is how far on a machine's next address is.
const movedPlaces = 50

// AddIPv6 gives the machine an address of IPv6 on the switch as well; there is no way from there to anywhere else.
func (m *Machine) AddIPv6() netip.Addr {
	m.lab.t.Helper()
	raw := netip.MustParseAddr("fd30::").As16()
	raw[13], raw[15] = byte(m.lab.state.Number), byte(m.Place)
	address := netip.AddrFrom16(raw)
	if err := m.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		network := &net.IPNet{IP: address.AsSlice(), Mask: net.CIDRMask(112, 128)}
		return netlink.AddrAdd(link, &netlink.Addr{IPNet: network, Flags: unix.IFA_F_NODAD}) // nobody else has it
	}); err != nil {
		m.lab.t.Fatalf("give machine %s the address %s: %v", m.Name(), address, err)
	}
	return address
}

// Dir is the machine's folder, at the same path inside and outside.
func (m *Machine) Dir() string { return filepath.Join(m.lab.dir(), m.Hostname) }

// DataDir and RunDir are for knarr.
func (m *Machine) DataDir() string { return filepath.Join(m.Dir(), "data") }

// RunDir is the machine's folder for sockets.
func (m *Machine) RunDir() string { return filepath.Join(m.Dir(), "run") }

// Kubeconfig is where knarr puts the administrator's.
func (m *Machine) Kubeconfig() string { return filepath.Join(m.DataDir(), "kubeconfig") }

// Do runs f as if on the machine: its network, mounts and hostname. f must not hand its work to other goroutines.
func (m *Machine) Do(f func() error) error { return enter(m.Holder, namespaces, f) }

// port is the machine's place on the switch.
func (m *Machine) port() string { return fmt.Sprintf("port%d", m.Place) }

func (m *Machine) furnish() error {
	for _, dir := range []string{m.DataDir(), m.RunDir(), m.etc(), m.varDir("lib"), m.varDir("log"), m.keep()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the machine's folders: %w", err)
		}
	}
	if err := m.writeEtc(); err != nil {
		return err
	}
	if err := m.makeCgroups(); err != nil {
		return err
	}
	if err := m.lab.cable("eth0", m.port(), &m.Holder); err != nil {
		return err
	}
	err := m.Do(func() error {
		if err := unix.Sethostname([]byte(m.Hostname)); err != nil {
			return fmt.Errorf("set the hostname: %w", err)
		}
		if err := m.connect(); err != nil {
			return err
		}
		return m.mount()
	})
	return errors.Join(err, m.lab.plugged(m.port()))
}

func (m *Machine) connect() error {
	if err := raise("lo", netip.MustParsePrefix("127.0.0.1/8")); err != nil {
		return err
	}
	if err := raise("eth0", netip.PrefixFrom(m.IP(), 24)); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{Gw: m.lab.address(switchPlace).AsSlice()}); err != nil {
		return fmt.Errorf("add the default route: %w", err)
	}
	return carrying("eth0")
}

func (m *Machine) etc() string            { return filepath.Join(m.Dir(), "etc") }
func (m *Machine) varDir(s string) string { return filepath.Join(m.Dir(), "var", s) }
func (m *Machine) keep() string           { return filepath.Join(m.Dir(), "keep") }

// writeEtc writes the files a machine's name and its way to other names are in. Nobody answers for names on the switch,
// and it says so at once.
func (m *Machine) writeEtc() error {
	for name, text := range map[string]string{
		"hostname":    m.Hostname + "\n",
		"hosts":       fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", m.IP(), m.Hostname),
		"resolv.conf": fmt.Sprintf("nameserver %s\noptions timeout:1 attempts:1\n", m.lab.address(switchPlace)),
	} {
		if err := os.WriteFile(filepath.Join(m.etc(), name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write the machine's /etc: %w", err)
		}
	}
	return nil
}

// mount makes the machine's view of the file system. Folders whose names are fixed in programs are its own; /sys shows
// its own network.
func (m *Machine) mount() error {
	type step struct {
		source, target, kind string
		flags                uintptr
	}
	resolv, err := filepath.EvalSymlinks("/etc/resolv.conf") // may lead to /run, which is about to be empty
	if err != nil {
		resolv = "/etc/resolv.conf"
	}
	steps := []step{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE}, // what is mounted here stays here
		{"/sys/fs/cgroup", m.keep(), "", unix.MS_BIND | unix.MS_REC},
		{"sysfs", "/sys", "sysfs", 0},
		{m.keep(), "/sys/fs/cgroup", "", unix.MS_BIND | unix.MS_REC},
		{"tmpfs", "/run", "tmpfs", 0},
		{m.varDir("lib"), "/var/lib", "", unix.MS_BIND},
		{m.varDir("log"), "/var/log", "", unix.MS_BIND},
		{filepath.Join(m.etc(), "resolv.conf"), resolv, "", unix.MS_BIND},
		{filepath.Join(m.etc(), "hosts"), "/etc/hosts", "", unix.MS_BIND},
		{filepath.Join(m.etc(), "hostname"), "/etc/hostname", "", unix.MS_BIND},
		{"", "/", "", unix.MS_REC | unix.MS_SHARED}, // as on a machine of its own: pods may pass on mounts
	}
	for _, s := range steps {
		if strings.HasPrefix(s.target, "/run/") {
			if err := touch(s.target); err != nil {
				return err
			}
		}
		if _, err := os.Stat(s.target); errors.Is(err, os.ErrNotExist) {
			continue // the host hasn't this file, and gets none from us
		}
		if err := unix.Mount(s.source, s.target, s.kind, s.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", s.target, err)
		}
	}
	if err := unix.Unmount(m.keep(), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", m.keep(), err)
	}
	return nil
}

func touch(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the machine's /run: %w", err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		return fmt.Errorf("make the machine's /run: %w", err)
	}
	return nil
}

// Cut takes the machine off the switch, as if its cable were pulled.
func (m *Machine) Cut() error { return m.setPort(false) }

// Heal puts it back.
func (m *Machine) Heal() error {
	return errors.Join(m.setPort(true), m.lab.plugged(m.port()), m.Do(func() error { return carrying("eth0") }))
}

func (m *Machine) setPort(up bool) error {
	return m.lab.inSwitch(func() error {
		port, err := netlink.LinkByName(m.port())
		if err != nil {
			return fmt.Errorf("find the cable of machine %q: %w", m.Hostname, err)
		}
		set := netlink.LinkSetDown
		if up {
			set = netlink.LinkSetUp
		}
		if err := set(port); err != nil {
			return fmt.Errorf("switch the cable of machine %q: %w", m.Hostname, err)
		}
		return nil
	})
}

// Readdress gives the machine another address, in place of the one it has, as a DHCP server may.
func (m *Machine) Readdress() error {
	before := m.IP()
	m.Moved++
	if m.IP().As4()[3] < before.As4()[3] || m.IP() == m.lab.HostIP() {
		return fmt.Errorf("machine %q had every address there is", m.Hostname)
	}
	return errors.Join(m.lab.save(), m.writeEtc(), m.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		old := &netlink.Addr{IPNet: &net.IPNet{IP: before.AsSlice(), Mask: net.CIDRMask(24, 32)}}
		if err := netlink.AddrDel(link, old); err != nil { // and the routes by it
			return fmt.Errorf("take address %s: %w", before, err)
		}
		return m.connect()
	}))
}

// PowerOff is the power cut: every process is gone between two instructions, and what the kernel knew with them. Files
// that were written stay.
func (m *Machine) PowerOff() error {
	if err := m.Cut(); err != nil { // first, so that nobody hears how it dies
		return err
	}
	return errors.Join(m.destroy(), os.RemoveAll(m.RunDir()))
}

// PowerOn gives back what a machine has before anything was started on it.
func (m *Machine) PowerOn() error {
	if err := m.lab.unplugged(m.port()); err != nil {
		return err
	}
	if err := m.hold(); err != nil {
		return err
	}
	return errors.Join(m.lab.save(), m.furnish())
}

// destroy ends every process of the machine, and removes its cgroups. Its namespaces, with all links and mounts in
// them, end with the last process.
func (m *Machine) destroy() error {
	if err := m.killAll(); err != nil {
		return fmt.Errorf("end the processes of machine %q: %w", m.Hostname, err)
	}
	return errors.Join(m.Holder.kill(), m.removeCgroups())
}

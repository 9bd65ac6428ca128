// Package lab makes machines out of namespaces, so that one host can hold a cluster of several.
//
// In:       names. Root, and a kernel with network, mount and UTS namespaces, veth and bridge.
// Out:      machines: each with its own network, mounts, hostname, cgroups and folders; a switch between them whose links
// can be cut; and an address of the switch on the host, so that its kubectl reaches them.
// Promise:  nothing gets out, and whatever is asked of the world outside fails at once. Nothing stays: a lab of a test
// goes with the test, and what a killed test left is swept away by the next one.
// Not here: what runs on the machines.
package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/dump"
)

// Lab is a switch and the machines on it.
type Lab struct {
	t     testing.TB // nil for a lab that outlives its maker
	state state
	// Machines in the order they were added.
	Machines []*Machine
}

// state is what a lab is remembered by, in lab.json of its folder.
type state struct {
	Name     string    `json:"name"`
	Number   int       `json:"number"`          // its network is 172.30.Number.0/24
	Owner    process   `json:"owner,omitempty"` // the test it belongs to; zero for a lab that stays until Down
	Switch   process   `json:"switch"`
	Machines []machine `json:"machines"`
}

// base holds one folder a lab. It is short, because the sockets in it may have 107 characters with their path.
var base = filepath.Join(os.TempDir(), "knarr-lab")

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// New makes a lab that goes with the test.
func New(t testing.TB) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines are made of namespaces, which takes root")
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	owner, err := processOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	l, err := create("", owner)
	if err != nil {
		t.Fatal(err)
	}
	l.t = t
	t.Cleanup(func() {
		if err := l.Down(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Create makes a lab that stays until Down.
func Create(name string) (*Lab, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("lab name %q: use lower-case letters, digits and hyphens", name)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("machines are made of namespaces: run as root")
	}
	return create(name, process{})
}

// create makes the folder and the switch. An empty name takes the number's.
func create(name string, owner process) (*Lab, error) {
	unlock, err := lock("labs.lock")
	if err != nil {
		return nil, err
	}
	defer unlock()
	states, err := states()
	if err != nil {
		return nil, err
	}
	number, err := freeNumber(states)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = "t" + strconv.Itoa(number)
	}
	l := &Lab{state: state{Name: name, Number: number, Owner: owner}}
	if slices.ContainsFunc(states, func(s state) bool { return s.Name == name }) {
		return nil, fmt.Errorf("lab %q exists: take it down first", name)
	}
	if err := os.MkdirAll(l.dir(), 0o755); err != nil {
		return nil, fmt.Errorf("make the lab's folder: %w", err)
	}
	if err := l.save(); err != nil { // before anything that would have to be swept away
		return nil, err
	}
	if err := l.raiseSwitch(); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	return l, nil
}

// Open finds a lab by name.
func Open(name string) (*Lab, error) {
	states, err := states()
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		if s.Name == name {
			return open(s), nil
		}
	}
	return nil, fmt.Errorf("there is no lab %q: make it with `go run ./test/lab up`", name)
}

// List is every lab of this host.
func List() ([]*Lab, error) {
	states, err := states()
	if err != nil {
		return nil, err
	}
	var all []*Lab
	for _, s := range states {
		all = append(all, open(s))
	}
	return all, nil
}

func open(s state) *Lab {
	l := &Lab{state: s}
	for _, m := range s.Machines {
		l.Machines = append(l.Machines, &Machine{lab: l, machine: m})
	}
	return l
}

// Name of the lab.
func (l *Lab) Name() string { return l.state.Name }

// Find is a machine by its name.
func (l *Lab) Find(name string) (*Machine, error) {
	for _, m := range l.Machines {
		if m.Name() == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("lab %q has no machine %q", l.Name(), name)
}

// Network of the switch.
func (l *Lab) Network() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 30, byte(l.state.Number), 0}), 24)
}

// address is the n-th of the network.
func (l *Lab) address(n int) netip.Addr {
	a := l.Network().Addr().As4()
	a[3] = byte(n)
	return netip.AddrFrom4(a)
}

// Places in the network: the switch itself, machines from firstMachine on, the host.
const (
	switchPlace  = 1
	firstMachine = 10
	hostPlace    = 254
)

// HostIP is the host's address on the switch.
func (l *Lab) HostIP() netip.Addr { return l.address(hostPlace) }

func (l *Lab) dir() string { return filepath.Join(base, l.state.Name) }

// hostLink is the host's end of its cable to the switch.
func (l *Lab) hostLink() string { return "knl" + strconv.Itoa(l.state.Number) }

// raiseSwitch makes the switch: a network namespace with a bridge, which is also the machines' default gateway. It has
// nowhere to send what is for the world and says so at once.
func (l *Lab) raiseSwitch() error {
	holder, err := hold(l.Name()+"-switch", syscall.CLONE_NEWNET)
	if err != nil {
		return err
	}
	l.state.Switch = holder
	if err := l.save(); err != nil {
		return err
	}
	if err := l.inSwitch(func() error {
		for name, value := range map[string]string{"ip_forward": "1", "icmp_ratemask": "0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o644); err != nil {
				return fmt.Errorf("set up the switch: %w", err)
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "switch"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return fmt.Errorf("add the switch's bridge: %w", err)
		}
		if err := raise("switch", netip.PrefixFrom(l.address(switchPlace), 24)); err != nil {
			return err
		}
		_, everything, _ := parseCIDR("0.0.0.0/0")
		if err := netlink.RouteAdd(&netlink.Route{Dst: everything, Type: unix.RTN_UNREACHABLE}); err != nil {
			return fmt.Errorf("close the switch to the world: %w", err)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := l.cable(l.hostLink(), "host", nil); err != nil {
		return err
	}
	if err := raise(l.hostLink(), netip.PrefixFrom(l.HostIP(), 24)); err != nil {
		return err
	}
	return errors.Join(carrying(l.hostLink()), l.plugged("host"))
}

// Down removes the lab with everything in it.
func (l *Lab) Down() error {
	var errs []error
	for _, m := range l.Machines {
		errs = append(errs, m.destroy())
	}
	errs = append(errs, l.state.Switch.kill())
	// The host's end goes with the switch's namespace, some time after its last process; a new lab may want the
	// name at once.
	if link, err := netlink.LinkByName(l.hostLink()); err == nil {
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
			errs = append(errs, fmt.Errorf("remove link %s: %w", l.hostLink(), err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take down lab %q: %w", l.Name(), err) // its folder stays, for Sweep to try again
	}
	l.Machines = nil
	if err := os.RemoveAll(l.dir()); err != nil {
		return fmt.Errorf("remove the folder of lab %q: %w", l.Name(), err)
	}
	return nil
}

// Sweep removes the labs of tests that are gone.
func Sweep() error {
	all, err := List()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range all {
		if l.state.Owner.PID != 0 && !l.state.Owner.alive() {
			errs = append(errs, l.Down())
		}
	}
	return errors.Join(errs...)
}

// save writes lab.json, whole or not at all.
func (l *Lab) save() error {
	l.state.Machines = nil
	for _, m := range l.Machines {
		l.state.Machines = append(l.state.Machines, m.machine)
	}
	data, err := json.MarshalIndent(l.state, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the lab: %w", err)
	}
	path := filepath.Join(l.dir(), "lab.json")
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("save the lab: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("save the lab: %w", err)
	}
	return nil
}

func states() ([]state, error) {
	files, err := filepath.Glob(filepath.Join(base, "*", "lab.json"))
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var all []state
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // just taken down
		}
		if err != nil {
			return nil, fmt.Errorf("read lab: %w", err)
		}
		var s state
		if err := json.Unmarshal(data, &s); err != nil {
			return nil, fmt.Errorf("read lab %s: %w", file, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// freeNumber is one that neither a lab nor anything else on the host uses.
func freeNumber(states []state) (int, error) {
	for number := 1; number < 255; number++ {
		if slices.ContainsFunc(states, func(s state) bool { return s.Number == number }) {
			continue
		}
		candidate := &Lab{state: state{Number: number}}
		taken, err := routed(candidate.HostIP())
		if err != nil {
			return 0, err
		}
		if !taken {
			return number, nil
		}
	}
	return 0, errors.New("every network of 172.30.0.0/16 is in use: take down labs that are not needed")
}

// routed says whether the host has a route of its own to the address, other than the default one.
func routed(address netip.Addr) (bool, error) {
	routes, err := dump.Routes(netlink.FAMILY_V4, &netlink.Route{}, 0)
	if err != nil {
		return false, fmt.Errorf("list the host's routes: %w", err)
	}
	for _, route := range routes {
		if route.Dst == nil {
			continue
		}
		if ones, _ := route.Dst.Mask.Size(); ones > 0 && route.Dst.Contains(address.AsSlice()) {
			return true, nil
		}
	}
	return false, nil
}

// lock keeps two processes from making the same thing: labs, which have numbers, or the binary.
func lock(name string) (unlock func(), err error) {
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of labs: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(base, name), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the folder of labs: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the folder of labs: %w", err), file.Close())
	}
	return func() { file.Close() }, nil
}

// process is one process, told from a later one with the same id by when it started.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

func processOf(pid int) (process, error) {
	start, err := startOf(pid)
	if err != nil {
		return process{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return process{PID: pid, Start: start}, nil
}

func (p process) alive() bool {
	start, err := startOf(p.PID)
	return err == nil && start == p.Start
}

// kill ends the process, if it is still the one we mean.
func (p process) kill() error {
	if p.PID == 0 || !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	return nil
}

// startOf is the process's start time in clock ticks; a zombie has none.
func startOf(pid int) (string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	// The name, in brackets, may hold anything; behind it come the state (field 3) and so on.
	_, after, found := strings.Cut(string(data[strings.LastIndexByte(string(data), ')'):]), " ")
	fields := strings.Fields(after)
	if !found || len(fields) < 20 || fields[0] == "Z" {
		return "", errors.New("it has ended")
	}
	return fields[19], nil
}

package xt

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// size is what the kernel tells of a table without listing it: struct ipt_getinfo of linux/netfilter_ipv4/ip_tables.h, of
// which ip6_tables.h has the same.
type size struct {
	name    [32]byte
	hooks   uint32
	entry   [5]uint32 // where the kernel's own chains begin
	policy  [5]uint32 // and end
	entries uint32
	bytes   uint32
}

// getInfo is IPT_SO_GET_INFO and IP6T_SO_GET_INFO.
const getInfo = 64

// sizeOf asks the kernel for a table, which makes it if it can. Whoever adds or takes a rule changes its size.
func sizeOf(p Place) (size, error) {
	domain, level := unix.AF_INET, unix.SOL_IP
	if p.V6 {
		domain, level = unix.AF_INET6, unix.SOL_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return size{}, fmt.Errorf("open ip_tables: %w", err)
	}
	defer unix.Close(fd)
	var s size
	copy(s.name[:], p.Table)
	length := uint32(unsafe.Sizeof(s))
	_, _, failed := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), getInfo, uintptr(unsafe.Pointer(&s)), uintptr(unsafe.Pointer(&length)), 0)
	if failed != 0 {
		return size{}, fmt.Errorf("ask for the table %s of ip_tables: %w", p.Table, failed)
	}
	return s, nil
}

// Changed tells whether a table is another than last time, which Look remembers.
type Changed map[Place]size

// Look is true at the first time too.
func (c Changed) Look(p Place) bool {
	now, err := sizeOf(p)
	if err != nil || now == c[p] {
		return false
	}
	c[p] = now
	return true
}

// InUse are the tables of a family that somebody has used; asking does not make any.
func InUse(v6 bool) []string {
	name := "/proc/thread-self/net/ip_tables_names"
	if v6 {
		name = "/proc/thread-self/net/ip6_tables_names"
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil // the kernel has no ip_tables
	}
	return strings.Fields(string(text))
}

// Probe tells what is missing for families to be served by ip_tables.
func Probe(families ...bool) error {
	for _, v6 := range families {
		if _, err := Find(v6); err != nil {
			return err
		}
		for _, table := range []string{"nat", "filter", "mangle"} {
			if _, err := sizeOf(Place{v6, table}); err != nil {
				return fmt.Errorf("%w; the kernel needs CONFIG_IP_NF_IPTABLES with nat, filter and mangle (modprobe -a iptable_nat iptable_filter iptable_mangle)", err)
			}
		}
	}
	return nil
}

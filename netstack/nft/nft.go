// Package nft is what the owners of nftables tables share.
//
// In:       the kernel's nftables, and what it tells about changes of them.
// Out:      connections for large transactions; word of changes to one table, and of who made them.
// Promise:  nothing is read or written while nobody changes anything.
// Not here: tables and what is in them (netstack/podnet, netstack/proxy, netstack/policy).
package nft

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// bufferSize is room for a whole transaction and its acknowledgements: the kernel takes a transaction in one message.
// It is a limit, not an allocation.
const bufferSize = 256 << 20

// Open returns a connection that stays, and its netlink address, by which Events tells its transactions from other
// people's.
func Open() (conn *nftables.Conn, port uint32, err error) {
	conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := errors.Join(c.SetWriteBuffer(bufferSize), c.SetReadBuffer(bufferSize)); err != nil {
			return err
		}
		port, err = portOf(c)
		return err
	}))
	if err != nil {
		return nil, 0, fmt.Errorf("open nftables: %w", err)
	}
	return conn, port, nil
}

func portOf(c *netlink.Conn) (port uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	control := raw.Control(func(fd uintptr) {
		var addr unix.Sockaddr
		if addr, err = unix.Getsockname(int(fd)); err == nil {
			port = addr.(*unix.SockaddrNetlink).Pid
		}
	})
	return port, errors.Join(control, err)
}

// Ours tells our tables from other people's by their names.
func Ours(table string) bool { return strings.HasPrefix(table, "knarr-") }

// Available is why this kernel has no nftables; nil if it has.
func Available() error {
	conn, err := nftables.New()
	if err == nil {
		_, err = conn.ListTables()
	}
	if err != nil {
		return fmt.Errorf("talk to nftables: %w", err)
	}
	return nil
}

// Remove deletes a table; one that is not there is as good, and so is a kernel that can have none.
func Remove(family nftables.TableFamily, name string) error {
	conn, err := nftables.New()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Name: name, Family: family})
	if err := conn.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("delete nftables table %s: %w", name, err)
	}
	return nil
}

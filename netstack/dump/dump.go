// Package dump reads lists from the kernel whole.
//
// In:       a function that lists links, addresses, routes or neighbours.
// Out:      its result, when no change came in between.
// Promise:  a list is complete or an error.
// Not here: what is listed.
package dump

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// attempts are plenty: a list takes microseconds, and only a change in the same moment spoils it.
const attempts = 50

// Whole lists until the kernel says that nothing changed meanwhile: where pods come and go, things do.
func Whole[T any](list func() ([]T, error)) ([]T, error) {
	for range attempts {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, fmt.Errorf("the list changed during each of %d readings: %w", attempts, netlink.ErrDumpInterrupted)
}

// Links of this network namespace.
func Links() ([]netlink.Link, error) { return Whole(netlink.LinkList) }

// Addresses of a link, or of all links when it is nil, in one family or in all (netlink.FAMILY_ALL).
func Addresses(link netlink.Link, family int) ([]netlink.Addr, error) {
	return Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, family) })
}

// Neighbours of a link in one family.
func Neighbours(link, family int) ([]netlink.Neigh, error) {
	return Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(link, family) })
}

// Routes that fit a filter, as in netlink.RouteListFiltered.
func Routes(family int, filter *netlink.Route, mask uint64) ([]netlink.Route, error) {
	return Whole(func() ([]netlink.Route, error) { return netlink.RouteListFiltered(family, filter, mask) })
}

package nft

import (
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Event is a change of a table, or of something in it.
type Event struct {
	By    uint32 // the netlink address of who made it; 0 is the kernel, on a packet's way
	Takes bool   // a table, a chain or a rule went
}

// Events tells what happens to tables from the moment it is opened.
type Events struct {
	conn *netlink.Conn
	of   func(table string) bool
}

// OpenEvents begins to listen to what happens to one table. Run must follow, and closes it.
func OpenEvents(table string) (*Events, error) {
	return openEvents(func(name string) bool { return name == table })
}

// OpenOthersEvents is OpenEvents for all tables that are not ours.
func OpenOthersEvents() (*Events, error) {
	return openEvents(func(name string) bool { return !Ours(name) })
}

func openEvents(of func(table string) bool) (*Events, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nftables events: %w", err)
	}
	if err := errors.Join(conn.SetReadBuffer(bufferSize), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("follow nftables events: %w", err)
	}
	return &Events{conn, of}, nil
}

// Run calls seen for every change of the tables, and lost when there were more than could be kept. It ends with ctx.
func (e *Events) Run(ctx context.Context, seen func(Event), lost func()) error {
	defer e.conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = e.conn.Close() })
	defer stop()
	for {
		messages, err := e.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			lost()
			continue
		case err != nil:
			return fmt.Errorf("read nftables events: %w", err)
		}
		for _, m := range messages {
			if name, is := about(m); is && e.of(name) {
				seen(Event{By: m.Header.PID, Takes: takes(m)})
			}
		}
	}
}

func takes(m netlink.Message) bool {
	switch m.Header.Type & 0xff {
	case unix.NFT_MSG_DELTABLE, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_DELRULE:
		return true
	}
	return false
}

// about is the table that a message is about. It relies on the table's name being attribute 1 in every kind of nftables
// object.
func about(m netlink.Message) (table string, is bool) {
	const header = 4 // family, version, resource
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < header {
		return "", false
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return "", false
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_TABLE_NAME {
			return attributes.String(), true
		}
	}
	return "", false
}

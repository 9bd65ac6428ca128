package podnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	vnetlink "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guardBridge calls wake when the bridge goes.
func guardBridge(ctx context.Context, wake func()) error {
	links := make(chan vnetlink.LinkUpdate)
	if err := vnetlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return fmt.Errorf("follow changes of links: %w", err)
	}
	for update := range links {
		if update.Header.Type == unix.RTM_DELLINK && update.Attrs().Name == Bridge {
			wake()
		}
	}
	// The channel closes with ctx. Before that, the kernel had more to say than fitted; the regular pass goes on.
	<-ctx.Done()
	return nil
}

// guardRules calls wake when rules of our table go. Our own writing does so too; the pass that follows finds all in place.
func guardRules(ctx context.Context, wake func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open nftables events: %w", err)
	}
	defer conn.Close()
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("follow nftables events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // more was said than fitted
			wake()
		case err != nil:
			return fmt.Errorf("read nftables events: %w", err)
		}
		for _, m := range messages {
			if takesFromUs(m) {
				wake()
				break
			}
		}
	}
}

// takesFromUs relies on the table's name being attribute 1 of tables, chains and rules alike.
func takesFromUs(m netlink.Message) bool {
	switch m.Header.Type {
	case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE,
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELCHAIN,
		unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE:
	default:
		return false
	}
	const header = 4 // family, version, resource
	if len(m.Data) < header {
		return false
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[header:])
	if err != nil {
		return false
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_TABLE_NAME {
			return bytes.Equal(bytes.TrimRight(attributes.Bytes(), "\x00"), []byte(Table))
		}
	}
	return false
}

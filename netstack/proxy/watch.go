package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// watch tells when somebody else changed our table. It costs nothing while nobody does.
type watch struct{ conn *netlink.Conn }

func openWatch() (*watch, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open nftables events: %w", err)
	}
	if err := errors.Join(conn.SetReadBuffer(bufferSize), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("follow nftables events: %w", err)
	}
	return &watch{conn: conn}, nil
}

// run calls tampered when a message about our table comes from another netlink port than ours, and unsure when messages
// were lost. It ends with ctx.
func (w *watch) run(ctx context.Context, ours func() uint32, tampered, unsure func()) error {
	stop := context.AfterFunc(ctx, func() { _ = w.conn.Close() })
	defer stop()
	for {
		messages, err := w.conn.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			unsure()
			continue
		case err != nil:
			return fmt.Errorf("read nftables events: %w", err)
		}
		for _, m := range messages {
			// The packet path (port 0) changes the sticky maps; that is no tampering.
			if m.Header.PID != ours() && m.Header.PID != 0 && aboutOurTable(m) {
				tampered()
				break
			}
		}
	}
}

// aboutOurTable relies on the table's name being attribute 1 in every kind of nftables object.
func aboutOurTable(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || m.Header.Type&0xff == unix.NFT_MSG_NEWGEN || len(m.Data) < 4 {
		return false
	}
	attributes, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return false
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_TABLE_NAME {
			return bytes.Equal(bytes.TrimRight(attributes.Bytes(), "\x00"), []byte(TableName))
		}
	}
	return false
}

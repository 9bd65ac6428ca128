package podnet

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/nft"
)

// guardBridge calls wake when the bridge goes.
func guardBridge(ctx context.Context, wake func()) error {
	links := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
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

// guard wakes for our own writing too; the pass that follows finds all in place.
func (nftRules) guard(ctx context.Context, wake func()) error {
	events, err := nft.OpenEvents(Table)
	if err != nil {
		return err
	}
	return events.Run(ctx, func(e nft.Event) {
		if e.Takes {
			wake()
		}
	}, wake)
}

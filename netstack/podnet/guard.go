package podnet

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/nft"
)

// guardLinks calls wake when the bridge goes, and when a link gets another MTU: what fits through the machine's own links is
// what the next pod may send.
func guardLinks(ctx context.Context, wake func()) error {
	updates := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		return fmt.Errorf("follow changes of links: %w", err)
	}
	links, err := dump.Links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	mtus := map[int]int{}
	for _, link := range links {
		mtus[link.Attrs().Index] = link.Attrs().MTU
	}
	for update := range updates {
		index, mtu := update.Attrs().Index, update.Attrs().MTU
		if update.Header.Type == unix.RTM_DELLINK {
			delete(mtus, index)
			if update.Attrs().Name == Bridge {
				wake()
			}
			continue
		}
		if before, known := mtus[index]; known && before != mtu {
			wake()
		}
		mtus[index] = mtu
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

package shutdown

import (
	"context"
	"fmt"
	"syscall"

	"github.com/godbus/dbus/v5"
)

// inhibitor is logind's: the machine waits while its descriptor is open.
type inhibitor struct{ fd int }

func inhibit(ctx context.Context, object dbus.BusObject) (*inhibitor, error) {
	var fd dbus.UnixFD
	err := object.CallWithContext(ctx, manager+".Inhibit", 0, "shutdown", "knarr", "pods get time to end", "delay").Store(&fd)
	if err != nil {
		return nil, fmt.Errorf("ask systemd-logind to wait for pods when the machine goes down: %w", err)
	}
	return &inhibitor{int(fd)}, nil
}

// release lets the machine go. Again it does nothing.
func (i *inhibitor) release() {
	if i != nil && i.fd >= 0 {
		_ = syscall.Close(i.fd)
		i.fd = -1
	}
}

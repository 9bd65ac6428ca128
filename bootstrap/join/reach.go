package join

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A node that was cut off is of use again as soon as it has spoken to the API server. What stands in the way is patience:
// a connection that died is believed in for as long as the kernel sends again, further and further apart, a new one
// is asked for after 1 s, then 2, 4 and 8 s, and who was refused a few times pauses for half a minute. So a connection
// that nothing comes back on is given up soon, and one that is asked for is waited for, by asking every second.
const (
	askEvery = time.Second      // the kernel itself asks for the second time after one
	askFor   = 30 * time.Second // client-go's own limit; then the caller hears why
	restart  = 5 * time.Second  // a machine that refuses longer than this has no server now, and pods start without
	silent   = 10 * time.Second // a server that lives answers within one round trip
)

// reach connects to the server as soon as it can be reached.
func reach(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	dialer := net.Dialer{
		Timeout: 2 * askEvery, // a round trip over a satellite takes most of the first
		// The lease is renewed every 10 s over the same connection and shows that it lives. The kernel's probes would end
		// it, under the limit below, for a single one that is lost.
		KeepAlive: -1,
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			control := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silent.Milliseconds()))
			})
			if control != nil {
				return control
			}
			return err
		},
	}
	began := time.Now()
	for {
		next := time.NewTimer(askEvery)
		conn, err := dialer.DialContext(ctx, network, address)
		if err == nil {
			next.Stop()
			return conn, nil
		}
		if errors.Is(err, unix.ECONNREFUSED) && time.Since(began) > restart {
			next.Stop()
			return nil, err
		}
		select {
		case <-next.C:
		case <-ctx.Done():
			next.Stop()
			return nil, err
		}
	}
}

package machine

import (
	"fmt"
	"net"
	"os"
)

// notifier tells a service manager that started us with Type=notify that this machine serves (sd_notify(3)).
type notifier struct{ address string }

// newNotifier takes NOTIFY_SOCKET out of the environment: the API server's library would otherwise say READY when it
// alone is, and so would whatever else in here or below us knows the protocol.
func newNotifier() (notifier, error) {
	n := notifier{address: os.Getenv("NOTIFY_SOCKET")}
	return n, os.Unsetenv("NOTIFY_SOCKET")
}

// ready does nothing without a service manager.
func (n notifier) ready() error {
	if n.address == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", n.address)
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

package machine

import (
	"fmt"
	"net"
	"os"
)

// notifyReady tells a service manager that started us with Type=notify (sd_notify(3)); without one it does nothing.
func notifyReady() error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	conn, err := net.Dial("unixgram", address)
	if err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("tell the service manager: %w", err)
	}
	return nil
}

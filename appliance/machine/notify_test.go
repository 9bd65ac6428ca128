package machine

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestOnlyThisMachineSaysReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	n, err := newNotifier()
	if err != nil {
		t.Fatal(err)
	}
	if left, ok := os.LookupEnv("NOTIFY_SOCKET"); ok {
		t.Errorf("NOTIFY_SOCKET is still %q; libraries would use it", left)
	}
	if err := n.ready(); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 64)
	length, _, err := socket.ReadFrom(message)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(message[:length]); got != "READY=1" {
		t.Errorf("the service manager heard %q; want READY=1", got)
	}
}

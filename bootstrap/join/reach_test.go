package join

import (
	"context"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReachWaitsForAServerThatComesBack(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	type result struct {
		net.Conn
		error
	}
	reached := make(chan result, 1)
	go func() {
		conn, err := reach(t.Context(), "tcp", at)
		reached <- result{conn, err}
	}()
	if listener, err = net.Listen("tcp", at); err != nil {
		t.Skipf("somebody else took the port: %v", err)
	}
	defer listener.Close()
	got := <-reached
	if got.error != nil {
		t.Fatal(got.error)
	}
	defer got.Close()
	raw, err := got.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		limit, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		if err != nil || limit != int(silent.Milliseconds()) {
			t.Errorf("a dead connection is believed in for %d ms, %v; want %v", limit, err, silent)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReachEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := reach(ctx, "tcp", "127.0.0.1:1"); err == nil {
		conn.Close()
		t.Error("connected")
	}
}

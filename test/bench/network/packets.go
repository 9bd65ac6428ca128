package main

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const unicastHere = unix.RTN_LOCAL

// serve answers every connection with the address it was made to. It and the client are bare system calls, so that what is
// measured is the kernel's way there and not ours.
func serve(at place) (stop func(), err error) {
	var fd int
	err = at.do(func() error {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.Bind(fd, &unix.SockaddrInet4{Port: podPort}),
			unix.Listen(fd, 1024),
		)
	})
	if err != nil {
		return nil, err
	}
	go func() {
		defer func() { _ = unix.Close(fd) }()
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			switch {
			case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
				continue
			case err != nil:
				return
			}
			if name, err := unix.Getsockname(conn); err == nil {
				_, _ = unix.Write(conn, name.(*unix.SockaddrInet4).Addr[:])
			}
			_ = unix.Close(conn)
		}
	}()
	return func() { _ = unix.Shutdown(fd, unix.SHUT_RDWR) }, nil
}

// How long a connection may take. What is lost is sent again after a second: who waits for an address to answer asks
// anew before that, and who measures connections wants to see it.
const (
	briefly = 20 * time.Millisecond
	patient = 5 * time.Second
)

// dial connects from the namespace of the thread it is called on, and says how long that took.
func dial(to netip.Addr, within time.Duration) (fd int, took time.Duration, err error) {
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, 0, err
	}
	limit := unix.NsecToTimeval(int64(within))
	err = errors.Join(
		// Closing resets, and neither side has anything to remember.
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
	)
	began := time.Now()
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: to.As4()})
	}
	if err != nil {
		_ = unix.Close(fd)
		if errors.Is(err, unix.EINTR) { // Go interrupts its threads, and a limited call is not taken up again
			return dial(to, within)
		}
		return -1, 0, err
	}
	return fd, time.Since(began), nil
}

// ask connects and returns who answered.
func ask(to netip.Addr) (netip.Addr, error) {
	fd, _, err := dial(to, briefly)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	var name [4]byte
	if n, err := unix.Read(fd, name[:]); err != nil || n < len(name) {
		return netip.Addr{}, errors.Join(err, errors.New("no answer"))
	}
	return netip.AddrFrom4(name), nil
}

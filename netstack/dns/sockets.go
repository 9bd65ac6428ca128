package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Sockets are where questions come in. They may outlive the process that opened them, when it begins anew: what is asked in
// between waits in the kernel. A question that is lost is asked again after the client's own time-out, 5 s in most.
type Sockets struct{ Packets, Connections *os.File }

// patience is how long a question that was asked before the start waits for the view to be complete, before it is answered with a
// failure: less than clients wait.
const patience = 3 * time.Second

// Close those that nobody wants.
func (s Sockets) Close() {
	for _, file := range []*os.File{s.Packets, s.Connections} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// taken are the inherited sockets, if they are at this address; ok is false when there are none.
func (s Sockets) taken(at string) (packets net.PacketConn, connections net.Listener, ok bool) {
	if s.Packets == nil || s.Connections == nil {
		return nil, nil, false
	}
	defer s.Close() // what is used is a copy
	packets, err := net.FilePacketConn(s.Packets)
	if err != nil {
		return nil, nil, false
	}
	if connections, err = net.FileListener(s.Connections); err == nil {
		if packets.LocalAddr().String() == at && connections.Addr().String() == at {
			return packets, connections, true
		}
		_ = connections.Close()
	}
	_ = packets.Close()
	return nil, nil, false
}

// left are copies of open sockets, none if there is one that cannot be copied.
func left(packets net.PacketConn, connections net.Listener) Sockets {
	type open interface{ File() (*os.File, error) }
	p, isOpen := packets.(open)
	c, isToo := connections.(open)
	if !isOpen || !isToo {
		return Sockets{}
	}
	var s Sockets
	var errs [2]error
	s.Packets, errs[0] = p.File()
	s.Connections, errs[1] = c.File()
	if errors.Join(errs[:]...) != nil {
		s.Close()
		return Sockets{}
	}
	return s
}

// open is where questions come in from now on.
func (s *Server) open(ctx context.Context, at string) (packets net.PacketConn, connections net.Listener, inherited bool, err error) {
	if packets, connections, ok := s.cfg.Inherited.taken(at); ok {
		return packets, connections, true, nil
	}
	if packets, err = early.ListenPacket(ctx, "udp", at); err != nil {
		return nil, nil, false, listenError("udp", at, err)
	}
	if connections, err = early.Listen(ctx, "tcp", at); err != nil {
		return nil, nil, false, errors.Join(listenError("tcp", at, err), packets.Close())
	}
	return packets, connections, false, nil
}

// awaitView holds back the questions that were asked before the start.
func (s *Server) awaitView(ctx context.Context) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-s.view.Synced():
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Left are the sockets of a server that has ended, for the next one.
func (s *Server) Left() Sockets { return s.left }

func closed(packets net.PacketConn, connections net.Listener) error {
	for _, err := range []error{packets.Close(), connections.Close()} {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("close: %w", err)
		}
	}
	return nil
}

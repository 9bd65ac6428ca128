package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Handler serves the commands. Anything it returns that is not an *Error is sent as CodeInternal.
type Handler interface {
	Add(ctx context.Context, r Request, conf NetConf) (*Result, error)
	Del(ctx context.Context, r Request, conf NetConf) error
	Check(ctx context.Context, r Request, conf NetConf) error
	Status(ctx context.Context) error
	GC(ctx context.Context, keep []Attachment) error
}

// Listen opens the socket, readable and writable by root alone. A socket that a killed process left is replaced.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the CNI socket: %w", err)
	}
	// Bound under another name and renamed when its mode is right: nobody else can connect in between.
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: temporary, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for CNI requests: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	if err := os.Chmod(temporary, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict CNI socket: %w", err), listener.Close())
	}
	if err := os.Rename(temporary, path); err != nil {
		return nil, errors.Join(fmt.Errorf("place CNI socket: %w", err), listener.Close())
	}
	return listener, nil
}

// Serve answers requests until ctx ends, and returns when the last one is answered.
func Serve(ctx context.Context, listener *net.UnixListener, handler Handler) error {
	var requests sync.WaitGroup
	defer requests.Wait()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept CNI request: %w", err)
		}
		requests.Go(func() { answer(ctx, conn, handler) })
	}
}

// answer handles one connection. A client that goes away gets no answer and needs none: the runtime repeats the call.
func answer(ctx context.Context, conn net.Conn, handler Handler) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(clientTimeout)); err != nil {
		return
	}
	var request Request
	if err := json.NewDecoder(conn).Decode(&request); err != nil {
		return
	}
	_ = json.NewEncoder(conn).Encode(dispatch(ctx, request, handler))
}

func dispatch(ctx context.Context, request Request, handler Handler) Reply {
	var conf NetConf
	if err := json.Unmarshal(request.Config, &conf); err != nil {
		return failed("", Errorf(CodeDecode, "decode the CNI configuration: %v", err))
	}
	var err error
	switch request.Command {
	case Add:
		var result *Result
		if result, err = handler.Add(ctx, request, conf); err == nil {
			result.CNIVersion = conf.CNIVersion
			var output []byte
			if output, err = json.Marshal(result); err == nil {
				return Reply{Output: output}
			}
		}
	case Del:
		err = handler.Del(ctx, request, conf)
	case Check:
		err = handler.Check(ctx, request, conf)
	case Status:
		err = handler.Status(ctx)
	case GC:
		err = handler.GC(ctx, conf.ValidAttachments)
	default:
		err = Errorf(CodeEnvironment, "CNI_COMMAND %q is not a command of the specification", request.Command)
	}
	if err != nil {
		return failed(conf.CNIVersion, err)
	}
	return Reply{}
}

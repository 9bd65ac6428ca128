package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo is a zap logger that writes to log. etcd tells its start in fifty Info lines an operator cannot act on, so
// they are Debug here.
func zapTo(log *slog.Logger, fatal fatal) *zap.Logger {
	return zap.New(&core{log: log}, zap.WithPanicHook(fatal), zap.WithFatalHook(fatal))
}

// fatal receives what etcd panics or exits with. A full disk or a damaged file is an error an operator has to read,
// not a stack trace, and it happens on goroutines of etcd's where nobody could recover it.
type fatal chan error

// OnWrite reports the entry and ends the goroutine that wrote it; the member is of no use from here on.
func (f fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := fmt.Errorf("etcd: %s", e.Message)
	encoded := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(encoded)
	}
	for _, key := range []string{"path", "error"} {
		if v, ok := encoded.Fields[key]; ok {
			err = fmt.Errorf("%w: %v", err, v)
		}
	}
	select {
	case f <- err:
	default: // the first one is the cause
	}
	runtime.Goexit()
}

// core is zap's side of the bridge.
type core struct{ log *slog.Logger }

// routine are warnings about what is meant to be so here.
var routine = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true, // a socket for one client
	"simple token is not cryptographically signed":                                         true, // nobody logs in to etcd with tokens
	"etcdserver: failed to register grpc metrics":                                          true, // containerd's, in this process, have the name
	"request stats": true, // the long form of "apply request took too long", which stays
	"setting up serving from embedded etcd failed.": true, // said at every stop; otherwise Run returns the error itself
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

func (c *core) Enabled(l zapcore.Level) bool {
	return c.log.Enabled(context.Background(), level(l))
}

func (c *core) With(fields []zapcore.Field) zapcore.Core {
	return &core{log: c.log.With(pairs(fields)...)}
}

func (c *core) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c *core) Write(e zapcore.Entry, fields []zapcore.Field) error {
	at := level(e.Level)
	if routine[e.Message] || closing(fields) {
		at = slog.LevelDebug
	}
	c.log.Log(context.Background(), at, e.Message, pairs(fields)...)
	return nil
}

// closing tells the errors of a clean stop: etcd closes its listeners and then complains that they are closed.
func closing(fields []zapcore.Field) bool {
	return slices.ContainsFunc(fields, func(f zapcore.Field) bool {
		err, ok := f.Interface.(error)
		return ok && errors.Is(err, net.ErrClosed)
	})
}

func (c *core) Sync() error { return nil }

func pairs(fields []zapcore.Field) []any {
	encoded := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoded)
	}
	list := make([]any, 0, len(fields))
	for _, f := range fields {
		if v, ok := encoded.Fields[f.Key]; ok {
			list = append(list, slog.Any(f.Key, v))
		}
	}
	return list
}

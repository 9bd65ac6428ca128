package command

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/gorilla/websocket"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

// logTo makes the one logger of the process and hands it to the libraries that have their own idea of logging.
func logTo(w io.Writer, level slog.Level) *slog.Logger {
	own := slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	libraries := lowered{own}
	klog.SetSlogLogger(slog.New(libraries).With("from", "klog"))
	ctrl.SetLogger(logr.FromSlogHandler(libraries.WithAttrs([]slog.Attr{slog.String("from", "controller-runtime")})))
	log := slog.New(own)
	slog.SetDefault(log)
	return log
}

// lowered makes a library's Info our Debug: what a library thinks worth telling is rarely what an operator acts on.
type lowered struct{ slog.Handler }

func lower(l slog.Level) slog.Level {
	if l < slog.LevelWarn {
		return min(l, slog.LevelDebug)
	}
	return l
}

func (h lowered) Enabled(ctx context.Context, l slog.Level) bool {
	return h.Handler.Enabled(ctx, lower(l))
}

func (h lowered) Handle(ctx context.Context, r slog.Record) error {
	if r.Level = lower(r.Level); hungUp(r) {
		r.Level = slog.LevelDebug
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// hungUp tells the end of a connection, which libraries report as an error: to every `kubectl exec` belongs one.
func hungUp(r slog.Record) (is bool) {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			is = is || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) ||
				errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, new(*websocket.CloseError))
		}
		return !is
	})
	return is
}

func (h lowered) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lowered{h.Handler.WithAttrs(attrs)}
}

func (h lowered) WithGroup(name string) slog.Handler { return lowered{h.Handler.WithGroup(name)} }

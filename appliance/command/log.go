package command

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	if r.Level = lower(r.Level); hungUp(r) || goingAnyway(r) {
		r.Level = slog.LevelDebug
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// hungUp tells the end of a connection or of a request, which libraries report as an error: to every `kubectl exec`
// belongs one, and to every watch whose client was killed.
func hungUp(r slog.Record) bool {
	switch r.Message {
	case "Timeout or abort while handling", "Post-timeout activity": // the client was answered, or is gone
		return true
	}
	return anyError(r, func(err error) bool {
		if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) ||
			errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.Canceled) || errors.Is(err, http.ErrHandlerTimeout) ||
			errors.As(err, new(*websocket.CloseError)) {
			return true
		}
		// HTTP/2 keeps its errors to itself.
		text := err.Error()
		return strings.HasSuffix(text, "http2: stream closed") || strings.HasSuffix(text, "client disconnected")
	})
}

// goingAnyway tells events that came too late for their namespace: who deletes one is not interested in what its pods
// have to say about it.
func goingAnyway(r slog.Record) bool {
	return strings.HasPrefix(r.Message, "Server rejected event") && anyError(r, func(err error) bool {
		return apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
	})
}

func anyError(r slog.Record, is func(error) bool) (found bool) {
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok && err != nil {
			found = is(err)
		}
		return !found
	})
	return found
}

func (h lowered) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lowered{h.Handler.WithAttrs(attrs)}
}

func (h lowered) WithGroup(name string) slog.Handler { return lowered{h.Handler.WithGroup(name)} }

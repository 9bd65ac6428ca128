package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestLibrariesAreLowered(t *testing.T) {
	events := schema.GroupResource{Resource: "events"}
	terminating := apierrors.NewForbidden(events, "e", errors.New("unable to create new content"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	const rejected = "Server rejected event (will not retry!)"
	tests := map[string]struct {
		level   slog.Level
		message string
		err     error
		shown   bool
	}{
		"what a library thinks worth telling is not shown": {level: slog.LevelInfo},
		"its warnings are":                    {level: slog.LevelWarn, shown: true},
		"its errors are":                      {level: slog.LevelError, err: errors.New("no such host"), shown: true},
		"the end of a connection is no error": {level: slog.LevelError, err: fmt.Errorf("read: %w", net.ErrClosed)},
		"nor is a client that went away while it was written to": {level: slog.LevelError, err: &net.OpError{Op: "write", Err: syscall.EPIPE}},
		"nor one whose last message was cut short":               {level: slog.LevelError, err: fmt.Errorf("websocket: %w", io.ErrUnexpectedEOF)},
		"nor one whose websocket ended without a farewell":       {level: slog.LevelError, err: &websocket.CloseError{Code: websocket.CloseAbnormalClosure}},
		"nor one whose stream ended":                             {level: slog.LevelError, err: fmt.Errorf("unable to write a JSON response: %w", errors.New("http2: stream closed"))},
		"nor a request nobody waits for":                         {level: slog.LevelError, err: fmt.Errorf("list: %w", context.Canceled)},
		"nor one that was given up":                              {level: slog.LevelError, message: "Timeout or abort while handling"},
		"an event for a namespace that goes is none":             {level: slog.LevelError, message: rejected, err: terminating},
		"nor is one for a namespace that is gone":                {level: slog.LevelError, message: rejected, err: apierrors.NewNotFound(events, "e")},
		"an event that is refused for another reason is":         {level: slog.LevelError, message: rejected, err: apierrors.NewForbidden(events, "e", errors.New("no")), shown: true},
		"a connection that could not be made is still an error":  {level: slog.LevelError, err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, shown: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := slog.New(lowered{slog.NewTextHandler(&out, nil)})
			if tc.message == "" {
				tc.message = "it happened"
			}
			log.Log(context.Background(), tc.level, tc.message, "err", tc.err)
			if shown := strings.Contains(out.String(), tc.message); shown != tc.shown {
				t.Errorf("shown = %v; want %v (%s)", shown, tc.shown, out.String())
			}
		})
	}
}

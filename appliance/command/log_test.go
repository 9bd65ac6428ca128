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
)

func TestLibrariesAreLowered(t *testing.T) {
	tests := map[string]struct {
		level slog.Level
		err   error
		shown bool
	}{
		"what a library thinks worth telling is not shown": {level: slog.LevelInfo},
		"its warnings are":                    {level: slog.LevelWarn, shown: true},
		"its errors are":                      {level: slog.LevelError, err: errors.New("no such host"), shown: true},
		"the end of a connection is no error": {level: slog.LevelError, err: fmt.Errorf("read: %w", net.ErrClosed)},
		"nor is a client that went away while it was written to": {level: slog.LevelError, err: &net.OpError{Op: "write", Err: syscall.EPIPE}},
		"nor one whose last message was cut short":               {level: slog.LevelError, err: fmt.Errorf("websocket: %w", io.ErrUnexpectedEOF)},
		"nor one whose websocket ended without a farewell":       {level: slog.LevelError, err: &websocket.CloseError{Code: websocket.CloseAbnormalClosure}},
		"a connection that could not be made is still an error":  {level: slog.LevelError, err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, shown: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			log := slog.New(lowered{slog.NewTextHandler(&out, nil)})
			log.Log(context.Background(), tc.level, "it happened", "err", tc.err)
			if shown := strings.Contains(out.String(), "it happened"); shown != tc.shown {
				t.Errorf("shown = %v; want %v (%s)", shown, tc.shown, out.String())
			}
		})
	}
}

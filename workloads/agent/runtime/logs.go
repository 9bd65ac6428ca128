package runtime

import (
	"context"
	"io"
	"log/slog"
	goruntime "runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// bridgeLogs hands containerd's warnings and errors to our log, and its fatal errors to failed: a library may not
// end this process. containerd has one logger per process, so this is set once for all.
func bridgeLogs(to *slog.Logger, failed chan<- error) {
	log.L.Logger.SetOutput(io.Discard)
	log.L.Logger.SetLevel(log.WarnLevel)
	log.L.Logger.ReplaceHooks(logrus.LevelHooks{})
	log.L.Logger.AddHook(bridge{to: to, failed: failed})
	log.L.Logger.ExitFunc = func(int) { goruntime.Goexit() }
}

type bridge struct {
	to     *slog.Logger
	failed chan<- error
}

func (bridge) Levels() []log.Level {
	return []log.Level{log.WarnLevel, log.ErrorLevel, log.FatalLevel, log.PanicLevel}
}

func (b bridge) Fire(e *log.Entry) error {
	level := slog.LevelWarn
	switch {
	case expected[e.Message] || endedBefore(e):
		level = slog.LevelDebug
	case e.Level <= log.ErrorLevel:
		level = slog.LevelError
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, slog.Any(k, v))
	}
	b.to.LogAttrs(context.Background(), level, e.Message, attrs...)
	if e.Level <= log.FatalLevel {
		select {
		case b.failed <- fatal(e.Message):
		default: // the first one is the cause
		}
	}
	return nil
}

// expected are messages about what is so by design here: the pod network is configured after containerd has started,
// not every filesystem seals its files, a shim that has reported its last event closes its connection, a sandbox is no
// task that one could ask for its processes, and when it is stopped its shim ends.
var expected = map[string]bool{
	"failed to load cni during init, please check CRI plugin status before setting up network for pods": true,
	"failed check for fsverity support":                  true,
	"failed sending message on channel":                  true,
	"ttrpc: received message on inactive stream":         true,
	"failed to query shim pids, keeping shim registered": true,
	"failed to wait sandbox":                             true,
}

// endedBefore: containerd asks after every sandbox when it starts, and the shims of pods that ended are gone.
func endedBefore(e *log.Entry) bool {
	err, ok := e.Data[logrus.ErrorKey].(error)
	return ok && errdefs.IsNotFound(err) && strings.HasPrefix(e.Message, "failed to get sandbox status for ")
}

type fatal string

func (f fatal) Error() string { return "containerd: " + string(f) }

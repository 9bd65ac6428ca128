// Package plugins finds the programs that extend this node: storage drivers, device plugins, drivers of dynamic
// resources.
//
// In:       sockets in the folder plugins_registry, each with the Registration service of pluginregistration/v1.
// Out:      a plugin handed to who knows its type, told whether it was taken, and taken back when its socket goes.
// Promise:  an idle node sleeps in the kernel; a plugin that fails is asked again, rarer each time.
// Not here: what plugins do (storage/csi, workloads/agent/devices, workloads/agent/claims).
package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// Handler takes plugins of one type. A plugin that comes back is registered again without having been deregistered.
type Handler interface {
	Register(ctx context.Context, name, endpoint string, versions []string) error
	Deregister(name, endpoint string)
}

const (
	// Folder is where plugins put their sockets, below the folder they know the agent's by.
	Folder = "plugins_registry"

	askFor    = 30 * time.Second // one registration, with what its handler does
	firstWait = 500 * time.Millisecond
	maxWait   = 2 * time.Minute
	lookEvery = 10 * time.Second // only where the kernel cannot tell of new files
)

// Watcher is the component.
type Watcher struct {
	dir      string
	handlers map[string]Handler
	log      *slog.Logger
	known    map[string]*plugin // by the socket's path
}

// plugin is one socket that was seen.
type plugin struct {
	stamp      stamp
	registered bool
	kind       string
	name       string
	endpoint   string
	wait       time.Duration // until the next try
	next       time.Time
}

// stamp tells a socket from another one made later at the same path.
type stamp struct {
	inode   uint64
	changed int64
}

// New makes a watcher of a folder; handlers are by the type plugins name themselves (CSIPlugin, DRAPlugin, DevicePlugin).
func New(dir string, handlers map[string]Handler, log *slog.Logger) *Watcher {
	return &Watcher{dir: dir, handlers: handlers, log: log.With("component", "plugins"), known: map[string]*plugin{}}
}

// Name of the component.
func (w *Watcher) Name() string { return "plugins" }

// Run looks for plugins until ctx ends.
func (w *Watcher) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(w.dir, 0o750); err != nil {
		return fmt.Errorf("make the plugins' folder: %w", err)
	}
	var changed <-chan fsnotify.Event
	every := time.Duration(0)
	watch, err := fsnotify.NewBufferedWatcher(16)
	if err == nil {
		defer watch.Close()
		err = watch.Add(w.dir)
		changed = watch.Events
	}
	if err != nil {
		every = lookEvery
		w.log.Warn("the kernel does not tell of new plugins; looking for them every 10 s (fs.inotify.max_user_instances may be used up)", "error", err)
	}
	ready()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-timer.C:
		}
		if next := w.pass(ctx, time.Now()); next > 0 || every > 0 {
			timer.Reset(earliest(next, every))
		}
	}
}

func earliest(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// pass settles what there is now, and says when to look again if nothing changes; 0 is never.
func (w *Watcher) pass(ctx context.Context, now time.Time) time.Duration {
	seen, err := sockets(w.dir)
	if err != nil {
		w.log.Warn("look for plugins", "dir", w.dir, "error", err)
		return maxWait
	}
	for path, p := range w.known {
		if stamp, there := seen[path]; !there || stamp != p.stamp {
			w.drop(p, there)
			delete(w.known, path)
		}
	}
	var next time.Duration
	for _, path := range slices.Sorted(maps.Keys(seen)) {
		p := w.known[path]
		if p == nil {
			p = &plugin{stamp: seen[path], wait: firstWait}
			w.known[path] = p
		}
		if p.registered || ctx.Err() != nil {
			continue
		}
		if now.Before(p.next) {
			next = earliest(next, p.next.Sub(now))
			continue
		}
		if err := w.register(ctx, path, p); err != nil {
			if ctx.Err() == nil {
				w.log.Warn("register plugin", "socket", path, "again", p.wait, "error", err)
			}
			p.next = now.Add(p.wait)
			next = earliest(next, p.wait)
			p.wait = min(2*p.wait, maxWait)
		}
	}
	return next
}

// drop takes a plugin back. One whose socket was made anew is about to be registered again.
func (w *Watcher) drop(p *plugin, returns bool) {
	if p.registered && !returns {
		w.handlers[p.kind].Deregister(p.name, p.endpoint)
		w.log.Info("plugin went", "type", p.kind, "name", p.name)
	}
}

func (w *Watcher) register(ctx context.Context, path string, p *plugin) error {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	conn, err := Dial(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := registerv1.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registerv1.InfoRequest{})
	if err != nil {
		return fmt.Errorf("ask who it is: %w", err)
	}
	p.kind, p.name, p.endpoint = info.Type, info.Name, info.Endpoint
	if p.endpoint == "" {
		p.endpoint = path
	}
	err = w.hand(ctx, p, info.SupportedVersions)
	status := &registerv1.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = err.Error()
	}
	if _, told := client.NotifyRegistrationStatus(ctx, status); told != nil && err == nil {
		w.log.Warn("tell a plugin that it is registered", "name", p.name, "error", told)
	}
	if err != nil {
		return err
	}
	p.registered = true
	w.log.Info("plugin registered", "type", p.kind, "name", p.name)
	return nil
}

func (w *Watcher) hand(ctx context.Context, p *plugin, versions []string) error {
	handler, known := w.handlers[p.kind]
	switch {
	case !known:
		return fmt.Errorf("type %q is not known: a plugin is one of %s", p.kind, strings.Join(slices.Sorted(maps.Keys(w.handlers)), ", "))
	case p.name == "":
		return errors.New("it has no name")
	}
	return handler.Register(ctx, p.name, p.endpoint, versions)
}

// sockets lists the sockets of a folder. Names that begin with a dot are being made.
func sockets(dir string) (map[string]stamp, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out := map[string]stamp{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.Type()&os.ModeSocket == 0 {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			out[filepath.Join(dir, e.Name())] = stamp{inode: stat.Ino, changed: stat.Ctim.Nano()}
		}
	}
	return out, nil
}

// Dial reaches a plugin. Nothing is sent before the first call, and an idle connection is closed after a minute.
func Dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithIdleTimeout(time.Minute))
}

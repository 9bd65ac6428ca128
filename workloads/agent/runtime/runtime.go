// Package runtime is what runs containers: containerd inside this process or, if the operator wants it so, a runtime of
// his own behind a socket (workloads/agent/remote).
//
// In:       where things lie on this machine, and the folder of the helpers (runc, shim, CNI client, pause).
// Out:      CRI as plain method calls, container events, image import; CRI and containerd's own API on a unix socket
//
//	for clients in other processes.
//
// Promise:  containers belong to their shims: ending or killing this process leaves them running, and the next one
//
//	finds them again with the same process ids, and nothing of those whose making was cut short.
//
// Not here: what to run (workloads/agent/pod), the pod network (netstack, reached by containerd through the CNI client).
package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/registries"
	"knarr.dev/knarr/workloads/agent/remote"
)

// Namespace is where CRI keeps its images and containers inside containerd.
const Namespace = "k8s.io"

// Config of the runtime.
type Config struct {
	Paths     config.Paths
	HelperDir string // runc, containerd-shim-runc-v2, knarr-cni and pause; "" means they are on PATH
	Socket    string // of the runtime that is used instead of containerd in this process; "" for none
	// Where containerd looks for the pod network: its configuration, and the programs that names.
	CNIConfigDir, CNIBinDir string // of the latter, "" means where the helpers are
	// Registries says where images are fetched from; nil: from their registries, or as the hosts.toml files in
	// DATA-DIR/registries say.
	Registries *registries.Registries
	Log        *slog.Logger
}

// Runtime runs containerd. Its methods may be called once Run has said ready.
type Runtime struct {
	conf   Config
	log    *slog.Logger
	cri    criService
	handle handle
	remote *remote.Runtime                         // nil: cri is in this process
	login  func(host string) (user, secret string) // of this machine itself
	seen   firstSeen                               // images of a remote runtime

	importing sync.WaitGroup // archives found at start
}

// New makes a runtime that Run will start.
func New(conf Config) (*Runtime, error) {
	if conf.Log == nil {
		conf.Log = slog.Default()
	}
	if conf.CNIConfigDir == "" {
		conf.CNIConfigDir = conf.Paths.CNIConfig()
	}
	r := &Runtime{conf: conf, log: conf.Log.With("component", "runtime")}
	if conf.Socket == "" {
		return r, nil
	}
	if err := r.mayBeRemote(); err != nil {
		return nil, err
	}
	var err error
	if r.remote, err = remote.New(conf.Socket, r.log); err != nil {
		return nil, err
	}
	r.cri = r.remote
	return r, nil
}

// Name is the component's name.
func (r *Runtime) Name() string { return "runtime" }

// Run starts containerd and serves until ctx ends.
func (r *Runtime) Run(ctx context.Context, ready func()) (err error) {
	if r.remote != nil {
		ready() // the control plane of this machine, if it has one, does not wait for it
		<-ctx.Done()
		return r.remote.Close()
	}
	began := time.Now()
	// containerd looks for the shim, and the shim for runc, on this process's PATH; there is no setting for it.
	if dir := r.conf.HelperDir; dir != "" && !slices.Contains(filepath.SplitList(os.Getenv("PATH")), dir) {
		if err := os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH")); err != nil {
			return fmt.Errorf("put %s on PATH: %w", dir, err)
		}
	}
	s := settings{
		paths:       r.conf.Paths,
		helpers:     r.conf.HelperDir,
		snapshotter: r.chooseSnapshotter(),
		hugepages:   len(cgroup.New("/").PageSizes()) > 0,
		clampOOM:    !mayLowerOOMScore(),
		path:        os.Getenv("PATH"),
		registries:  filepath.Join(r.conf.Paths.Data, "registries"),
		cniConf:     r.conf.CNIConfigDir,
		cniBin:      r.conf.CNIBinDir,
	}
	r.login = func(string) (string, string) { return "", "" }
	if r.conf.Registries != nil {
		s.registries = filepath.Join(r.conf.Paths.Run, "registries")
		var done func()
		if r.login, done, err = r.conf.Registries.Serve(ctx, s.registries, r.log); err != nil {
			return err
		}
		defer done()
	}
	if s.clampOOM {
		r.log.Info("this machine may not lower oom_score_adj (CAP_SYS_RESOURCE is missing); containers keep at least the value of knarr itself")
	}
	conf := containerdConfig(s)
	if err := server.CreateTopLevelDirectories(conf); err != nil {
		return fmt.Errorf("create containerd's folders: %w", err)
	}

	r.handle.found = func(ctx context.Context, shims tasks) {
		if err := r.keepEnds(ctx, shims); err != nil {
			r.log.Warn("take over what shims know of containers' ends; some of them count as failed", "error", err)
		}
	}
	failed := make(chan error, 1)
	bridgeLogs(r.log, failed)
	// containerd must not see ctx end before Stop: its plugins would drop what they are doing halfway.
	inner, cancel := context.WithCancel(withHandle(context.WithoutCancel(ctx), &r.handle))
	defer cancel()
	daemon, err := server.New(inner, conf)
	if err != nil {
		return fmt.Errorf("start containerd in %s: %w", r.conf.Paths.Containerd(), err)
	}
	defer func() { err = errors.Join(err, r.handle.closeDatabase()) }()
	defer daemon.Stop()
	if r.cri = r.handle.cri; r.cri == nil {
		return errors.New("start containerd: its CRI service did not come up; the messages above say why")
	}
	if !r.handle.looked {
		return errors.New("start containerd: its shims were not looked for; the messages above say why")
	}
	if err := daemon.Start(inner); err != nil {
		return fmt.Errorf("serve containerd on %s: %w", r.conf.Paths.ContainerdSocket(), err)
	}
	recovered := make(chan struct{})
	go func() { daemon.Wait(); close(recovered) }()
	select {
	case <-recovered:
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}

	if err := r.prepare(ctx, s.snapshotter); err != nil {
		return err
	}
	if err := r.clearStrays(ctx); err != nil {
		r.log.Warn("clear up after an interrupted run; what is left of it stays until the next start", "error", err)
	}
	r.log.Info("containerd is up", "took", time.Since(began), "snapshotter", s.snapshotter)
	r.importing.Go(func() { r.importFolder(ctx) })
	ready()
	select {
	case <-ctx.Done():
		err = nil
	case err = <-failed:
	}
	r.importing.Wait()
	return err
}

// prepare names the snapshotter for clients of other processes.
func (r *Runtime) prepare(ctx context.Context, snapshotter string) error {
	ctx = namespaces.WithNamespace(ctx, Namespace)
	spaces := r.handle.client.NamespaceService()
	const key = "containerd.io/defaults/snapshotter"
	labels, err := spaces.Labels(ctx, Namespace)
	if err != nil {
		return fmt.Errorf("read containerd namespace %s: %w", Namespace, err)
	}
	if labels[key] != snapshotter {
		if err := spaces.SetLabel(ctx, Namespace, key, snapshotter); err != nil {
			return fmt.Errorf("label containerd namespace %s: %w", Namespace, err)
		}
	}
	return nil
}

// Client is containerd's client over function calls, for what CRI has no words for.
func (r *Runtime) Client() *containerd.Client { return r.handle.client }

// chooseSnapshotter prefers overlayfs and falls back to copying where the filesystem cannot carry it.
func (r *Runtime) chooseSnapshotter() string {
	root := r.conf.Paths.Containerd()
	if err := os.MkdirAll(root, 0o700); err != nil {
		return "overlayfs" // creating the folders reports it properly
	}
	if err := overlayutils.Supported(root); err != nil {
		r.log.Warn("overlayfs does not work here, so every container gets a full copy of its image; put the data directory on ext4 or xfs to save the space",
			"dir", root, "error", err)
		return "native"
	}
	return "overlayfs"
}

// mayLowerOOMScore tries it on this process: a capability in the status file says nothing about a sandbox around us.
func mayLowerOOMScore() bool {
	const file = "/proc/self/oom_score_adj"
	was, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	if err := os.WriteFile(file, []byte("-998"), 0); err != nil {
		return false
	}
	return os.WriteFile(file, was, 0) == nil
}

// importFolder imports the archives of the image folder that were not imported before.
func (r *Runtime) importFolder(ctx context.Context) {
	dir := r.conf.Paths.Images()
	entries, err := os.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			r.log.Error("read the image folder", "dir", dir, "error", err)
		}
		return
	}
	seen := loadImported(dir)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || e.Name() == importedFile || ctx.Err() != nil {
			continue
		}
		if seen[e.Name()] == stamp(info) {
			continue
		}
		names, err := r.ImportFile(ctx, filepath.Join(dir, e.Name()))
		if err != nil {
			r.log.Error("import image archive", "file", e.Name(), "error", err)
			continue
		}
		r.log.Info("image archive imported", "file", e.Name(), "images", names)
		seen[e.Name()] = stamp(info)
		if err := saveImported(dir, seen); err != nil {
			r.log.Warn("remember imported archives; they will be imported again at the next start", "error", err)
		}
	}
}

// WaitForImports returns when the archives found at start are imported.
func (r *Runtime) WaitForImports() { r.importing.Wait() }

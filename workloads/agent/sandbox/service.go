// Package sandbox is the part of the shim that keeps a pod's sandbox: the process that holds its namespaces.
//
// In:       containerd's sandbox API (runtime/sandbox/v1) over the shim's socket; the pause program beside the shim.
// Out:      the pause process in the pod's namespaces and cgroup; the shim's end when the sandbox is shut down.
// Promise:  the sandbox costs one small process: no image, no snapshot, no runc. Whatever kills the shim, the next
//
//	`delete` of it by containerd finds the pause process and ends it. A stopped sandbox without containers keeps
//	no process.
//
// Not here: the pod's containers (containerd's task service, which the same shim serves), its network and its files.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	api "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/ttrpc"
)

// CRI's names for the two states of a sandbox.
const (
	ready    = "SANDBOX_READY"
	notReady = "SANDBOX_NOTREADY"
)

// Service keeps the one sandbox of a shim.
type Service struct {
	pause string // the program
	end   func()

	mu     sync.Mutex
	id     string
	conf   config
	netns  string
	cmd    *exec.Cmd
	began  time.Time
	gone   chan struct{} // closed when the process has ended
	exited runc.Exit     // once gone is closed

	stopped bool
	tasks   int             // containers that were made and not yet deleted
	running map[string]bool // those of them that were started
}

// New makes the service; end ends the shim, and may be called more than once.
func New(pause string, end func()) *Service {
	return &Service{pause: pause, end: end, running: map[string]bool{}}
}

// RegisterTTRPC serves the sandbox API.
func (s *Service) RegisterTTRPC(server *ttrpc.Server) error {
	api.RegisterTTRPCSandboxService(server, s)
	return nil
}

func (s *Service) CreateSandbox(_ context.Context, q *api.CreateSandboxRequest) (*api.CreateSandboxResponse, error) {
	conf, err := parse(q.GetOptions().GetValue())
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != "" {
		return nil, errgrpc.ToGRPC(fmt.Errorf("create sandbox %s beside %s: %w", q.SandboxID, s.id, errdefs.ErrAlreadyExists))
	}
	s.id, s.conf, s.netns = q.SandboxID, conf, q.NetnsPath
	return &api.CreateSandboxResponse{}, nil
}

func (s *Service) StartSandbox(_ context.Context, q *api.StartSandboxRequest) (*api.StartSandboxResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.id != q.SandboxID || s.cmd != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("start sandbox %s: it is not a new one: %w", q.SandboxID, errdefs.ErrFailedPrecondition))
	}
	if err := s.start(); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("start the process that holds the pod's namespaces: %w", err))
	}
	return &api.StartSandboxResponse{Pid: uint32(s.cmd.Process.Pid), CreatedAt: protobuf.ToTimestamp(s.began)}, nil
}

// start runs the pause program and returns when it has set up everything; s.mu is held.
func (s *Service) start() (err error) {
	goRead, goWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer goWrite.Close()
	defer goRead.Close()
	tellRead, tellWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	defer tellRead.Close()
	defer tellWrite.Close()
	cmd := exec.Command(s.pause, s.conf.arguments(s.netns)...)
	cmd.Env = []string{} // nothing of ours is anybody's business in the pod
	cmd.Dir = "rootfs"   // of the bundle, which is this process's folder
	cmd.ExtraFiles = []*os.File{goRead, tellWrite}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.conf.pid != node {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWPID
	}
	exits, err := reaper.Default.Start(cmd)
	if err != nil {
		return err
	}
	s.cmd, s.began, s.gone = cmd, time.Now(), make(chan struct{})
	go s.watch(exits)
	defer func() {
		if err != nil {
			_ = cmd.Process.Kill() // watch notices its end
		}
	}()
	if err := remember(cmd.Process.Pid); err != nil {
		return err
	}
	if err := join(s.conf.cgroupParent, cmd.Process.Pid); err != nil {
		return err
	}
	if _, err := goWrite.Write([]byte{1}); err != nil {
		return err
	}
	_ = tellWrite.Close() // the process holds the only one now
	reason, err := io.ReadAll(tellRead)
	if err != nil {
		return err
	}
	if len(reason) > 0 {
		return errors.New(string(reason))
	}
	return nil
}

// watch waits for the end of the process.
func (s *Service) watch(exits chan runc.Exit) {
	status, err := reaper.Default.Wait(s.cmd, exits)
	if err != nil {
		status = int(syscall.SIGKILL) + 128
	}
	s.exited = runc.Exit{Timestamp: time.Now(), Pid: s.cmd.Process.Pid, Status: status}
	close(s.gone)
}

func (s *Service) Platform(context.Context, *api.PlatformRequest) (*api.PlatformResponse, error) {
	return &api.PlatformResponse{Platform: &types.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}, nil
}

// lingering is how long the shim of a stopped sandbox waits for its removal, which ends it in better order. That of a
// pod that ended by itself may be days away.
const lingering = time.Second

func (s *Service) StopSandbox(context.Context, *api.StopSandboxRequest) (*api.StopSandboxResponse, error) {
	s.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	s.retire()
	return &api.StopSandboxResponse{}, nil
}

// count takes in that a container was made (1) or deleted (-1).
func (s *Service) count(change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tasks += change
	s.retire()
}

// started takes in that a container runs.
func (s *Service) started(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[id] = true
}

func (s *Service) wasStarted(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.running[id]
}

// deleted takes in that there is no such container any more.
func (s *Service) deleted(id string) {
	s.mu.Lock()
	delete(s.running, id)
	s.mu.Unlock()
	s.count(-1)
}

// retire ends the shim when nothing is left that needs it; s.mu is held.
func (s *Service) retire() {
	if !s.stopped || s.tasks > 0 {
		return
	}
	time.AfterFunc(lingering, func() {
		s.mu.Lock()
		unused := s.tasks == 0
		s.mu.Unlock()
		if unused {
			s.end()
		}
	})
}

// stop ends the process, if there is one; nothing in it would have to end gently.
func (s *Service) stop() {
	s.mu.Lock()
	cmd, gone := s.cmd, s.gone
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill() // an error means that it has ended
		<-gone
	}
}

func (s *Service) WaitSandbox(ctx context.Context, q *api.WaitSandboxRequest) (*api.WaitSandboxResponse, error) {
	s.mu.Lock()
	gone := s.gone
	s.mu.Unlock()
	if gone == nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("wait for sandbox %s: it was never started: %w", q.SandboxID, errdefs.ErrNotFound))
	}
	select {
	case <-gone:
		return &api.WaitSandboxResponse{ExitStatus: uint32(s.exited.Status), ExitedAt: protobuf.ToTimestamp(s.exited.Timestamp)}, nil
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	}
}

func (s *Service) SandboxStatus(_ context.Context, q *api.SandboxStatusRequest) (*api.SandboxStatusResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer := &api.SandboxStatusResponse{SandboxID: q.SandboxID, State: notReady}
	if s.cmd == nil {
		return answer, nil
	}
	answer.Pid, answer.CreatedAt = uint32(s.cmd.Process.Pid), protobuf.ToTimestamp(s.began)
	select {
	case <-s.gone:
		answer.ExitedAt = protobuf.ToTimestamp(s.exited.Timestamp)
	default:
		answer.State = ready
	}
	return answer, nil
}

// UpdateSandbox has nothing to do: the pod's cgroup belongs to the agent.
func (s *Service) UpdateSandbox(context.Context, *api.UpdateSandboxRequest) (*api.UpdateSandboxResponse, error) {
	return &api.UpdateSandboxResponse{}, nil
}

func (s *Service) PingSandbox(context.Context, *api.PingRequest) (*api.PingResponse, error) {
	return &api.PingResponse{}, nil
}

// answering is how long an answer takes to get out, with time to spare. Nothing tells when it is out, and whoever is cut
// off without one takes the sandbox for not removed.
const answering = 100 * time.Millisecond

func (s *Service) ShutdownSandbox(context.Context, *api.ShutdownSandboxRequest) (*api.ShutdownSandboxResponse, error) {
	s.stop()
	time.AfterFunc(answering, s.end)
	return &api.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics is what the whole pod uses.
func (s *Service) SandboxMetrics(_ context.Context, q *api.SandboxMetricsRequest) (*api.SandboxMetricsResponse, error) {
	s.mu.Lock()
	group := s.conf.cgroupParent
	s.mu.Unlock()
	metric, err := usage(group)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("read what sandbox %s uses: %w", q.SandboxID, err))
	}
	return &api.SandboxMetricsResponse{Metrics: &types.Metric{ID: q.SandboxID, Timestamp: protobuf.ToTimestamp(time.Now()), Data: metric}}, nil
}

// Pause is the pause program that lies beside this one.
func Pause() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.Join(filepath.Dir(self), "pause"), nil
}

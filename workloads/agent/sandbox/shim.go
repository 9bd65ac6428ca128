package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"knarr.dev/knarr/workloads/agent/sandbox/ends"
)

// Manager starts and clears away shims as containerd asks for it: containerd's own manager for runc, for shims that
// begin with a sandbox instead of a container.
type Manager struct{ Runc shim.Shim }

func (m Manager) Name() string { return m.Runc.Name() }

func (m Manager) Info(ctx context.Context, options io.Reader) (*types.RuntimeInfo, error) {
	return m.Runc.Info(ctx, options)
}

// configFile is where runc's manager looks for the group a shim belongs to. A sandbox's bundle has none, because there
// is no container in it.
const configFile = "config.json"

func (m Manager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	if _, err := os.Stat(configFile); errors.Is(err, os.ErrNotExist) {
		group, err := json.Marshal(map[string]any{"annotations": map[string]string{"io.kubernetes.cri.sandbox-id": params.GetInstanceID()}})
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(configFile, group, 0o600); err != nil {
			return nil, fmt.Errorf("name the shim's group: %w", err)
		}
	}
	return m.Runc.Start(ctx, params)
}

// Stop clears away what a shim that is gone has left. containerd calls it, in a process of its own and in some folder,
// after each container's and each sandbox's end; mostly nothing is left, and then runc is not asked.
func (m Manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	here, err := os.Getwd()
	if err != nil {
		return shim.StopStatus{}, err
	}
	bundle := filepath.Join(filepath.Dir(here), id)
	if err := forgotten(bundle); err != nil {
		return shim.StopStatus{}, err
	}
	if options, err := runc.ReadOptions(bundle); err == nil && options != nil && options.Root != "" {
		if _, err := os.Stat(filepath.Join(options.Root, namespaceOf(bundle), id)); errors.Is(err, os.ErrNotExist) {
			return shim.StopStatus{ExitedAt: time.Now(), ExitStatus: 128 + int(syscall.SIGKILL)}, nil
		}
	} else if isSandbox(bundle) {
		return shim.StopStatus{ExitedAt: time.Now(), ExitStatus: 128 + int(syscall.SIGKILL)}, nil
	}
	return m.Runc.Stop(ctx, id)
}

// namespaceOf is containerd's namespace: bundles lie in a folder of its name.
func namespaceOf(bundle string) string { return filepath.Base(filepath.Dir(bundle)) }

// pidFile holds the pause process, and when it started so that a reused number is told apart.
const pidFile = "pause.pid"

func isSandbox(bundle string) bool {
	_, err := os.Stat(filepath.Join(bundle, pidFile))
	return err == nil
}

func remember(pid int) error {
	began, err := startTime(pid)
	if err != nil {
		return err
	}
	if err := os.WriteFile(pidFile, fmt.Appendf(nil, "%d %s", pid, began), 0o600); err != nil {
		return fmt.Errorf("note the process for whoever clears up after the shim: %w", err)
	}
	return nil
}

// forgotten ends the pause process of a shim that is gone.
func forgotten(bundle string) error {
	text, err := os.ReadFile(filepath.Join(bundle, pidFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	number, began, _ := strings.Cut(string(text), " ")
	pid, err := strconv.Atoi(number)
	if err != nil || pid <= 1 {
		return nil // written halfway, before the process was let go
	}
	if now, err := startTime(pid); err != nil || now != began {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("end process %d, which held a pod's namespaces: %w", pid, err)
	}
	return nil
}

func startTime(pid int) (string, error) {
	s, err := statOf(pid)
	return s.began, err
}

// stat is what the kernel says of a process: a letter, and when it began, in clock ticks since the machine's start.
type stat struct{ state, began string }

// statOf reads fields 3 and 22 of /proc/PID/stat. The second one is a name, which may hold anything, in brackets.
func statOf(pid int) (stat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	list := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const state, began = 0, 22 - 3 // the third field is the first of these
	if len(list) <= began {
		return stat{}, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(list))
	}
	return stat{list[state], list[began]}, nil
}

// Tasks serves containers. Their last one's end does not end the shim, as it does without a sandbox: the pod may get
// another. How one that was started ended is noted before it is forgotten here, because who is told may be killed before he has
// written it down.
type Tasks struct {
	taskapi.TTRPCTaskService
	Sandbox *Service
}

// RegisterTTRPC serves the task API.
func (t Tasks) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, t)
	return nil
}

func (t Tasks) Create(ctx context.Context, q *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if err := trimSeccomp(q.GetBundle()); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("trim the seccomp profile: %w", err))
	}
	t.Sandbox.count(1) // first, so that the shim does not end meanwhile
	answer, err := t.TTRPCTaskService.Create(ctx, q)
	if err != nil {
		t.Sandbox.count(-1)
	}
	return answer, err
}

func (t Tasks) Start(ctx context.Context, q *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	answer, err := t.TTRPCTaskService.Start(ctx, q)
	if err == nil && q.GetExecID() == "" {
		t.Sandbox.started(q.GetID())
	}
	return answer, err
}

func (t Tasks) Delete(ctx context.Context, q *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if q.GetExecID() != "" {
		return t.TTRPCTaskService.Delete(ctx, q)
	}
	if err := t.noteEnd(ctx, q.GetID()); err != nil {
		log.G(ctx).WithError(err).Warn("how a container ended is lost if knarr is killed now")
	}
	answer, err := t.TTRPCTaskService.Delete(ctx, q)
	if err == nil {
		t.Sandbox.deleted(q.GetID())
	}
	return answer, err
}

// noteEnd comes before the deletion: who asked for that may be killed meanwhile, and its successor looks for what is noted while
// the deletion still goes on.
func (t Tasks) noteEnd(ctx context.Context, id string) error {
	if !t.Sandbox.wasStarted(id) {
		return nil
	}
	state, err := t.State(ctx, &taskapi.StateRequest{ID: id})
	if err != nil || state.GetStatus() != task.Status_STOPPED {
		return nil // the deletion says what is wrong
	}
	return ends.Note(".", id, ends.End{Code: state.GetExitStatus(), At: state.GetExitedAt().AsTime()})
}

func (t Tasks) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

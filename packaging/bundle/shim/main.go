// Command containerd-shim-runc-v2 is the process beside every pod: it keeps the pod's sandbox and its containers alive
// while knarr is away.
//
// In:       containerd's shim protocol: its folder is a bundle, its arguments say start, delete or (none) serve.
// Out:      the sandbox API (workloads/agent/sandbox) and containerd's task API on a unix socket.
// Promise:  to containerd it is its own shim for runc, with one thing more: a sandbox without a container.
// Not here: running containers (containerd's packages, and runc).
package main

import (
	"context"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"knarr.dev/knarr/workloads/agent/sandbox"
)

// sandboxPlugin is a type of its own, so that it is there before the tasks. What serves is found by what it can do.
const sandboxPlugin plugin.Type = "dev.knarr.sandbox"

func main() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin, sandboxPlugin},
		InitFn:   tasks,
	})
	registry.Register(&plugin.Registration{
		Type:     sandboxPlugin,
		ID:       "sandbox",
		Requires: []plugin.Type{plugins.InternalPlugin},
		InitFn:   sandboxes,
	})
	shim.RunShim(context.Background(), sandbox.Manager{Runc: manager.NewShimManager("io.containerd.runc.v2")})
}

func tasks(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	end, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	service, err := task.NewTaskService(ic.Context, publisher.(shim.Publisher), end.(shutdown.Service))
	if err != nil {
		return nil, err
	}
	runc.Monitor = sandbox.Direct{ProcessMonitor: runc.Monitor} // containerd's, which the call before has set
	kept, err := ic.GetByID(sandboxPlugin, "sandbox")
	if err != nil {
		return nil, err
	}
	return sandbox.Tasks{TTRPCTaskService: service, Sandbox: kept.(*sandbox.Service)}, nil
}

func sandboxes(ic *plugin.InitContext) (any, error) {
	end, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	pause, err := sandbox.Pause()
	if err != nil {
		return nil, err
	}
	return sandbox.New(pause, end.(shutdown.Service).Shutdown), nil
}

// Package remote is a container runtime of somebody else's: containerd, CRI-O or another behind its socket.
//
// In:       the path of a unix socket that serves CRI (runtime.v1).
// Out:      the same calls as functions, with containerd's kinds of errors; container events, whether the runtime sends any or not.
// Promise:  no call waits for ever; a runtime that ends and comes back is found again, and what changed meanwhile is told.
// Not here: containerd in this process (workloads/agent/runtime), what to run (workloads/agent/pod).
package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// largest is how long a message may be: CRI's own agreement, for lists of many containers.
	largest = 16 << 20
	// patience is how long a call may take that says nothing of it.
	patience = 2 * time.Minute
	// again is how long after a failure the socket is tried once more, and how often a runtime without events is looked at.
	again = time.Second
)

// Runtime is behind a socket.
type Runtime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	socket  string
	conn    *grpc.ClientConn
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	log     *slog.Logger

	name string // what it calls itself, once Await has returned
}

// New makes a runtime of a socket, which need not be there yet.
func New(socket string, log *slog.Logger) (*Runtime, error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the socket's owner says who may
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largest)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: again / 10, Multiplier: 2, MaxDelay: again}, MinConnectTimeout: 3 * time.Second}),
		grpc.WithUnaryInterceptor(call),
	)
	if err != nil {
		return nil, fmt.Errorf("prepare to reach the container runtime at %s: %w", socket, err)
	}
	return &Runtime{
		socket: socket, conn: conn, log: log,
		runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn),
	}, nil
}

// Close ends all calls.
func (r *Runtime) Close() error { return r.conn.Close() }

// call bounds a call and gives its error the kind that one in this process has.
func call(ctx context.Context, method string, q, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	if limit := limitOf(q); limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return errgrpc.ToNative(invoke(ctx, method, q, answer, conn, options...))
}

// limitOf is how long a call may take whatever its caller thinks; 0 is as long as it takes.
func limitOf(q any) time.Duration {
	switch q := q.(type) {
	case *runtimeapi.PullImageRequest:
		return 0 // large images over slow lines
	case *runtimeapi.StopContainerRequest:
		return patience + time.Duration(q.Timeout)*time.Second
	case *runtimeapi.ExecSyncRequest:
		if q.Timeout == 0 {
			return 0
		}
		return patience + time.Duration(q.Timeout)*time.Second
	}
	return patience
}

// Await waits until the runtime answers, and says what keeps knarr from using it.
func (r *Runtime) Await(ctx context.Context) error {
	for told := false; ; told = true {
		about, err := r.Version(ctx, &runtimeapi.VersionRequest{})
		if err == nil {
			r.log.Info("container runtime is there", "socket", r.socket, "name", about.GetRuntimeName(), "version", about.GetRuntimeVersion())
			r.name = about.GetRuntimeName()
			return r.checkGroups(ctx)
		}
		if !told {
			r.log.Warn("the container runtime does not answer; this node waits for it (does it run, and does it serve CRI there?)", "socket", r.socket, "error", err)
		}
		if err := rest(ctx); err != nil {
			return err
		}
	}
}

// Name is what the runtime calls itself, such as cri-o; it may be asked once Await has returned.
func (r *Runtime) Name() string { return r.name }

// checkGroups refuses a runtime that has systemd make its control groups. A runtime too old to say makes them itself, as
// all do that are not told otherwise.
func (r *Runtime) checkGroups(ctx context.Context) error {
	conf, err := r.RuntimeConfig(ctx, &runtimeapi.RuntimeConfigRequest{})
	if errdefs.IsNotImplemented(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask the container runtime at %s who makes its control groups: %w", r.socket, err)
	}
	if conf.GetLinux() != nil && conf.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_SYSTEMD {
		return fmt.Errorf("the container runtime at %s has systemd make control groups, and knarr makes those of pods itself: "+
			"set SystemdCgroup = false in containerd's configuration (CRI-O: cgroup_manager = \"cgroupfs\" and conmon_cgroup = \"pod\") and restart it", r.socket)
	}
	return nil
}

// rest is the pause between two tries.
func rest(ctx context.Context) error {
	timer := time.NewTimer(again)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// GetContainerEvents passes on the runtime's events until the stream's context ends. Where it sends none, or was away, it
// is looked at, and pods are told of whose sandboxes or containers are in another state than at the look before.
func (r *Runtime) GetContainerEvents(q *runtimeapi.GetEventsRequest, to runtimeapi.RuntimeService_GetContainerEventsServer) error {
	ctx := to.Context()
	states, told := map[string]state{}, false
	for {
		if now, err := r.look(ctx); err == nil {
			for _, event := range changes(states, now) {
				if err := to.Send(event); err != nil {
					return err
				}
			}
			states = now
		}
		err := r.follow(ctx, q, to)
		if errdefs.IsNotImplemented(err) && !told {
			told = true
			r.log.Info("the container runtime sends no events, so it is looked at every second", "socket", r.socket)
		}
		if err := rest(ctx); err != nil {
			return err
		}
	}
}

// follow passes on events while there is a stream of them.
func (r *Runtime) follow(ctx context.Context, q *runtimeapi.GetEventsRequest, to runtimeapi.RuntimeService_GetContainerEventsServer) error {
	stream, err := r.runtime.GetContainerEvents(ctx, q)
	if err != nil {
		return errgrpc.ToNative(err)
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return errgrpc.ToNative(err)
		}
		if err := to.Send(event); err != nil {
			return err
		}
	}
}

// state of a sandbox or a container.
type state struct {
	pod  map[string]string // the labels that name it
	what int32
}

// look at everything there is.
func (r *Runtime) look(ctx context.Context) (map[string]state, error) {
	sandboxes, sandboxErr := r.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	containers, containerErr := r.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err := errors.Join(sandboxErr, containerErr); err != nil {
		return nil, err
	}
	now := make(map[string]state, len(sandboxes.Items)+len(containers.Containers))
	for _, s := range sandboxes.Items {
		now[s.Id] = state{s.Labels, int32(s.State)}
	}
	for _, c := range containers.Containers {
		now[c.Id] = state{c.Labels, int32(c.State)}
	}
	return now, nil
}

// changes are events for all that is new, gone, or in another state.
func changes(before, now map[string]state) []*runtimeapi.ContainerEventResponse {
	var out []*runtimeapi.ContainerEventResponse
	add := func(id string, s state) {
		out = append(out, &runtimeapi.ContainerEventResponse{ContainerId: id, PodSandboxStatus: &runtimeapi.PodSandboxStatus{Labels: s.pod}})
	}
	for id, s := range now {
		if was, known := before[id]; !known || was.what != s.what {
			add(id, s)
		}
	}
	for id, s := range before {
		if _, known := now[id]; !known {
			add(id, s)
		}
	}
	return out
}

package runtime

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The calls below are CRI's, without a wire: requests and responses may share memory with containerd, so neither side
// changes one it has handed over. Errors are containerd's own; github.com/containerd/errdefs tells their kind.

func (r *Runtime) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	return r.cri.RunPodSandbox(in(ctx), q)
}

func (r *Runtime) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return r.cri.StopPodSandbox(in(ctx), q)
}

func (r *Runtime) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return r.cri.RemovePodSandbox(in(ctx), q)
}

func (r *Runtime) PodSandboxStatus(ctx context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return r.cri.PodSandboxStatus(in(ctx), q)
}

func (r *Runtime) ListPodSandbox(ctx context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return r.cri.ListPodSandbox(in(ctx), q)
}

func (r *Runtime) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	return r.cri.CreateContainer(in(ctx), q)
}

func (r *Runtime) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return r.cri.StartContainer(in(ctx), q)
}

func (r *Runtime) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return r.cri.StopContainer(in(ctx), q)
}

func (r *Runtime) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return r.cri.RemoveContainer(in(ctx), q)
}

func (r *Runtime) ContainerStatus(ctx context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return r.cri.ContainerStatus(in(ctx), q)
}

func (r *Runtime) ListContainers(ctx context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return r.cri.ListContainers(in(ctx), q)
}

func (r *Runtime) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return r.cri.UpdateContainerResources(in(ctx), q)
}

func (r *Runtime) CheckpointContainer(ctx context.Context, q *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return r.cri.CheckpointContainer(in(ctx), q)
}

func (r *Runtime) ReopenContainerLog(ctx context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return r.cri.ReopenContainerLog(in(ctx), q)
}

func (r *Runtime) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return r.cri.ExecSync(in(ctx), q)
}

// Exec, Attach and PortForward answer with the URL of containerd's streaming server on 127.0.0.1; the URL carries a
// one-time token.
func (r *Runtime) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return r.cri.Exec(in(ctx), q)
}

func (r *Runtime) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return r.cri.Attach(in(ctx), q)
}

func (r *Runtime) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return r.cri.PortForward(in(ctx), q)
}

func (r *Runtime) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return r.cri.ListContainerStats(in(ctx), q)
}

func (r *Runtime) ListPodSandboxStats(ctx context.Context, q *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return r.cri.ListPodSandboxStats(in(ctx), q)
}

func (r *Runtime) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return r.cri.Status(in(ctx), q)
}

func (r *Runtime) Version(ctx context.Context, q *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return r.cri.Version(in(ctx), q)
}

func (r *Runtime) ListImages(ctx context.Context, q *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return r.cri.ListImages(in(ctx), q)
}

func (r *Runtime) ImageStatus(ctx context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return r.cri.ImageStatus(in(ctx), q)
}

func (r *Runtime) RemoveImage(ctx context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	return r.cri.RemoveImage(in(ctx), q)
}

func (r *Runtime) ImageFsInfo(ctx context.Context, q *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return r.cri.ImageFsInfo(in(ctx), q)
}

// Events calls deliver for every container that is created, started, stopped or removed, in order, until ctx ends.
// It is called after containerd has noted the change, so a look at the container shows it. deliver must not block:
// containerd waits for it. (containerd notices the end of ctx with the next event only; the goroutine waiting for that
// event is left to it.)
func (r *Runtime) Events(ctx context.Context, deliver func(*runtimeapi.ContainerEventResponse)) {
	go func() {
		stream := eventStream{ctx: in(ctx), deliver: deliver}
		if err := r.cri.GetContainerEvents(&runtimeapi.GetEventsRequest{}, stream); err != nil && ctx.Err() == nil {
			r.log.Error("container events ended; changes are noticed by the slow check only", "error", err)
		}
	}()
}

type eventStream struct {
	grpc.ServerStream // nil: containerd calls Send and Context only
	ctx               context.Context
	deliver           func(*runtimeapi.ContainerEventResponse)
}

func (s eventStream) Context() context.Context { return s.ctx }

func (s eventStream) Send(e *runtimeapi.ContainerEventResponse) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	s.deliver(e)
	return nil
}

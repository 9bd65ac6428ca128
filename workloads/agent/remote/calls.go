package remote

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI's calls, as workloads/agent/runtime makes them.

func (r *Runtime) RunPodSandbox(ctx context.Context, q *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	return r.runtime.RunPodSandbox(ctx, q)
}

func (r *Runtime) StopPodSandbox(ctx context.Context, q *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return r.runtime.StopPodSandbox(ctx, q)
}

func (r *Runtime) RemovePodSandbox(ctx context.Context, q *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return r.runtime.RemovePodSandbox(ctx, q)
}

func (r *Runtime) PodSandboxStatus(ctx context.Context, q *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return r.runtime.PodSandboxStatus(ctx, q)
}

func (r *Runtime) ListPodSandbox(ctx context.Context, q *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return r.runtime.ListPodSandbox(ctx, q)
}

func (r *Runtime) CreateContainer(ctx context.Context, q *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	return r.runtime.CreateContainer(ctx, q)
}

func (r *Runtime) StartContainer(ctx context.Context, q *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return r.runtime.StartContainer(ctx, q)
}

func (r *Runtime) StopContainer(ctx context.Context, q *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return r.runtime.StopContainer(ctx, q)
}

func (r *Runtime) RemoveContainer(ctx context.Context, q *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return r.runtime.RemoveContainer(ctx, q)
}

func (r *Runtime) ListContainers(ctx context.Context, q *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	return r.runtime.ListContainers(ctx, q)
}

func (r *Runtime) ContainerStatus(ctx context.Context, q *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return r.runtime.ContainerStatus(ctx, q)
}

func (r *Runtime) UpdateContainerResources(ctx context.Context, q *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return r.runtime.UpdateContainerResources(ctx, q)
}

func (r *Runtime) CheckpointContainer(ctx context.Context, q *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	return r.runtime.CheckpointContainer(ctx, q)
}

func (r *Runtime) ReopenContainerLog(ctx context.Context, q *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return r.runtime.ReopenContainerLog(ctx, q)
}

func (r *Runtime) ExecSync(ctx context.Context, q *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return r.runtime.ExecSync(ctx, q)
}

func (r *Runtime) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return r.runtime.Exec(ctx, q)
}

func (r *Runtime) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return r.runtime.Attach(ctx, q)
}

func (r *Runtime) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return r.runtime.PortForward(ctx, q)
}

func (r *Runtime) ListContainerStats(ctx context.Context, q *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return r.runtime.ListContainerStats(ctx, q)
}

func (r *Runtime) ListPodSandboxStats(ctx context.Context, q *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	return r.runtime.ListPodSandboxStats(ctx, q)
}

func (r *Runtime) Status(ctx context.Context, q *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return r.runtime.Status(ctx, q)
}

func (r *Runtime) Version(ctx context.Context, q *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return r.runtime.Version(ctx, q)
}

func (r *Runtime) RuntimeConfig(ctx context.Context, q *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	return r.runtime.RuntimeConfig(ctx, q)
}

func (r *Runtime) ListImages(ctx context.Context, q *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return r.images.ListImages(ctx, q)
}

func (r *Runtime) ImageStatus(ctx context.Context, q *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	return r.images.ImageStatus(ctx, q)
}

func (r *Runtime) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	return r.images.PullImage(ctx, q)
}

func (r *Runtime) RemoveImage(ctx context.Context, q *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	return r.images.RemoveImage(ctx, q)
}

func (r *Runtime) ImageFsInfo(ctx context.Context, q *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	return r.images.ImageFsInfo(ctx, q)
}

package csi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// disk is a driver whose volumes are in memory: staging mounts one, publishing binds it.
type disk struct {
	csiv1.UnimplementedNodeServer
	t *testing.T

	mu     sync.Mutex
	calls  []string
	refuse map[string]bool // by method
	last   struct {
		publish *csiv1.NodePublishVolumeRequest
		stage   *csiv1.NodeStageVolumeRequest
		expand  *csiv1.NodeExpandVolumeRequest
	}
	can []csiv1.NodeServiceCapability_RPC_Type
}

// start serves a driver on a socket.
func (d *disk) start(t *testing.T, socket string) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	d.t, d.refuse = t, map[string]bool{}
	g := grpc.NewServer()
	csiv1.RegisterNodeServer(g, d)
	go func() { _ = g.Serve(listener) }() // ends with Stop
	t.Cleanup(g.Stop)
}

func (d *disk) called(method, what string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, method+" "+what)
	if d.refuse[method] {
		return status.Error(codes.Unavailable, "not now")
	}
	return nil
}

// count of calls of a method.
func (d *disk) count(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(d.calls), func(c string) bool { return !strings.HasPrefix(c, method+" ") }))
}

func (d *disk) set(method string, refuse bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse[method] = refuse
}

func (d *disk) NodeGetInfo(context.Context, *csiv1.NodeGetInfoRequest) (*csiv1.NodeGetInfoResponse, error) {
	return &csiv1.NodeGetInfoResponse{NodeId: "id-here", MaxVolumesPerNode: 3, AccessibleTopology: &csiv1.Topology{Segments: map[string]string{"disk.example/rack": "r1"}}}, nil
}

func (d *disk) NodeGetCapabilities(context.Context, *csiv1.NodeGetCapabilitiesRequest) (*csiv1.NodeGetCapabilitiesResponse, error) {
	answer := &csiv1.NodeGetCapabilitiesResponse{}
	for _, c := range d.can {
		answer.Capabilities = append(answer.Capabilities, &csiv1.NodeServiceCapability{Type: &csiv1.NodeServiceCapability_Rpc{Rpc: &csiv1.NodeServiceCapability_RPC{Type: c}}})
	}
	return answer, nil
}

func (d *disk) NodeStageVolume(_ context.Context, q *csiv1.NodeStageVolumeRequest) (*csiv1.NodeStageVolumeResponse, error) {
	d.last.stage = q
	if err := d.called("stage", q.VolumeId); err != nil {
		return nil, err
	}
	there, err := mounted(q.StagingTargetPath)
	if err == nil && !there {
		err = unix.Mount("disk", q.StagingTargetPath, "tmpfs", 0, "size=1m")
	}
	return &csiv1.NodeStageVolumeResponse{}, err
}

func (d *disk) NodeUnstageVolume(_ context.Context, q *csiv1.NodeUnstageVolumeRequest) (*csiv1.NodeUnstageVolumeResponse, error) {
	if err := d.called("unstage", q.VolumeId); err != nil {
		return nil, err
	}
	return &csiv1.NodeUnstageVolumeResponse{}, gone(unix.Unmount(q.StagingTargetPath, 0))
}

func (d *disk) NodePublishVolume(_ context.Context, q *csiv1.NodePublishVolumeRequest) (*csiv1.NodePublishVolumeResponse, error) {
	d.last.publish = q
	if err := d.called("publish", q.VolumeId); err != nil {
		return nil, err
	}
	answer := &csiv1.NodePublishVolumeResponse{}
	if there, err := mounted(q.TargetPath); err != nil || there {
		return answer, err
	}
	if q.VolumeCapability.GetBlock() != nil {
		return answer, errors.Join(os.WriteFile(q.TargetPath, nil, 0o600), unix.Mount("/dev/zero", q.TargetPath, "", unix.MS_BIND, ""))
	}
	if err := os.MkdirAll(q.TargetPath, 0o750); err != nil {
		return nil, err
	}
	if q.StagingTargetPath == "" {
		return answer, unix.Mount("disk", q.TargetPath, "tmpfs", 0, "size=1m")
	}
	return answer, unix.Mount(q.StagingTargetPath, q.TargetPath, "", unix.MS_BIND, "")
}

func (d *disk) NodeUnpublishVolume(_ context.Context, q *csiv1.NodeUnpublishVolumeRequest) (*csiv1.NodeUnpublishVolumeResponse, error) {
	if err := d.called("unpublish", q.VolumeId); err != nil {
		return nil, err
	}
	return &csiv1.NodeUnpublishVolumeResponse{}, errors.Join(gone(unix.Unmount(q.TargetPath, 0)), gone(os.Remove(q.TargetPath)))
}

func (d *disk) NodeExpandVolume(_ context.Context, q *csiv1.NodeExpandVolumeRequest) (*csiv1.NodeExpandVolumeResponse, error) {
	d.last.expand = q
	return &csiv1.NodeExpandVolumeResponse{CapacityBytes: q.CapacityRange.RequiredBytes}, d.called("expand", fmt.Sprint(q.CapacityRange.RequiredBytes))
}

func (d *disk) NodeGetVolumeStats(_ context.Context, q *csiv1.NodeGetVolumeStatsRequest) (*csiv1.NodeGetVolumeStatsResponse, error) {
	if _, err := os.Stat(q.VolumePath); err != nil || q.StagingTargetPath == "" {
		return nil, status.Errorf(codes.NotFound, "%q, %q: %v", q.VolumePath, q.StagingTargetPath, err)
	}
	return &csiv1.NodeGetVolumeStatsResponse{Usage: []*csiv1.VolumeUsage{
		{Unit: csiv1.VolumeUsage_BYTES, Total: 100, Used: 30, Available: 70}, {Unit: csiv1.VolumeUsage_INODES, Total: 9, Used: -1, Available: 9},
	}}, d.called("usage", q.VolumeId)
}

// gone passes over what is not there any more: drivers have to.
func gone(err error) error {
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// leftovers are files and mounts below the places volumes lie at.
func leftovers(t *testing.T, folder string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, "pods", "*", "volumes", "kubernetes.io~csi", "*"))
	if err != nil {
		t.Fatal(err)
	}
	staged, err := filepath.Glob(filepath.Join(folder, "plugins", "kubernetes.io", "csi", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return append(found, staged...)
}

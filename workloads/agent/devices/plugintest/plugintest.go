// Package plugintest is a device plugin for tests.
//
// In:       devices, by id, and whether each works.
// Out:      the plugin's side of device plugins v1beta1 on a socket.
// Promise:  what it was asked is there to be looked at.
// Not here: what the node makes of it (workloads/agent/devices).
package plugintest

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pluginv1 "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Plugin has devices of one resource.
type Plugin struct {
	pluginv1.UnimplementedDevicePluginServer
	// Answer is what containers get beside DEVICES, the ids of theirs.
	Answer *pluginv1.ContainerAllocateResponse
	// Nodes are the NUMA nodes of devices that say where they are.
	Nodes map[string]int64
	// Prefer are devices it would rather give, in this order; nil: it has no preferences.
	Prefer []string

	server *grpc.Server
	lists  chan []*pluginv1.Device

	mu        sync.Mutex
	allocated []string
}

// Start serves a plugin in a folder and registers it with the node that has it, prepared before anybody asks it.
func Start(ctx context.Context, dir, resource string, devices map[string]bool, prepare ...func(*Plugin)) (*Plugin, error) {
	p := &Plugin{server: grpc.NewServer(), lists: make(chan []*pluginv1.Device, 8), Answer: &pluginv1.ContainerAllocateResponse{}}
	for _, f := range prepare {
		f(p)
	}
	name := strings.ReplaceAll(resource, "/", "_") + ".sock"
	listener, err := net.Listen("unix", filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	pluginv1.RegisterDevicePluginServer(p.server, p)
	go func() { _ = p.server.Serve(listener) }() // ends with Stop
	p.Set(devices)
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.Stop()
		return nil, err
	}
	defer conn.Close()
	if _, err := pluginv1.NewRegistrationClient(conn).Register(ctx, &pluginv1.RegisterRequest{Version: pluginv1.Version, Endpoint: name, ResourceName: resource}); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

// Stop ends the plugin and its socket.
func (p *Plugin) Stop() { p.server.Stop() }

// Set tells the node of other devices.
func (p *Plugin) Set(devices map[string]bool) {
	var list []*pluginv1.Device
	for id, works := range devices {
		health := pluginv1.Unhealthy
		if works {
			health = pluginv1.Healthy
		}
		d := &pluginv1.Device{ID: id, Health: health}
		if node, said := p.Nodes[id]; said {
			d.Topology = &pluginv1.TopologyInfo{Nodes: []*pluginv1.NUMANode{{ID: node}}}
		}
		list = append(list, d)
	}
	p.lists <- list
}

// Allocated are the ids that were asked for, joined by a comma, one entry a request.
func (p *Plugin) Allocated() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.allocated...)
}

// GetDevicePluginOptions implements the service.
func (p *Plugin) GetDevicePluginOptions(context.Context, *pluginv1.Empty) (*pluginv1.DevicePluginOptions, error) {
	return &pluginv1.DevicePluginOptions{GetPreferredAllocationAvailable: p.Prefer != nil}, nil
}

// GetPreferredAllocation implements the service.
func (p *Plugin) GetPreferredAllocation(_ context.Context, q *pluginv1.PreferredAllocationRequest) (*pluginv1.PreferredAllocationResponse, error) {
	out := &pluginv1.PreferredAllocationResponse{}
	for _, one := range q.ContainerRequests {
		ids := slices.Clone(one.MustIncludeDeviceIDs)
		for _, id := range slices.Concat(p.Prefer, one.AvailableDeviceIDs) {
			if len(ids) < int(one.AllocationSize) && slices.Contains(one.AvailableDeviceIDs, id) && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
		out.ContainerResponses = append(out.ContainerResponses, &pluginv1.ContainerPreferredAllocationResponse{DeviceIDs: ids})
	}
	return out, nil
}

// ListAndWatch implements the service.
func (p *Plugin) ListAndWatch(_ *pluginv1.Empty, stream grpc.ServerStreamingServer[pluginv1.ListAndWatchResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case list := <-p.lists:
			if err := stream.Send(&pluginv1.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
		}
	}
}

// Allocate implements the service.
func (p *Plugin) Allocate(_ context.Context, q *pluginv1.AllocateRequest) (*pluginv1.AllocateResponse, error) {
	if len(q.ContainerRequests) != 1 {
		return nil, errors.New("asked for more than one container")
	}
	ids := strings.Join(q.ContainerRequests[0].DevicesIds, ",")
	p.mu.Lock()
	p.allocated = append(p.allocated, ids)
	p.mu.Unlock()
	answer := &pluginv1.ContainerAllocateResponse{
		Envs: map[string]string{"DEVICES": ids}, Mounts: p.Answer.Mounts, Devices: p.Answer.Devices, CdiDevices: p.Answer.CdiDevices, Annotations: p.Answer.Annotations,
	}
	return &pluginv1.AllocateResponse{ContainerResponses: []*pluginv1.ContainerAllocateResponse{answer}}, nil
}

package remote

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// other is a runtime that has containers and no events.
type other struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	driver *runtimeapi.CgroupDriver // nil: it does not say

	mu     sync.Mutex
	states map[string]runtimeapi.ContainerState // by id, which is the pod's too
}

func (o *other) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "other", RuntimeVersion: "1"}, nil
}

func (o *other) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	if o.driver == nil {
		return nil, status.Error(codes.Unimplemented, "not yet")
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: *o.driver}}, nil
}

func (o *other) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return nil, status.Error(codes.NotFound, "no such container")
}

func (o *other) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{}, nil
}

func (o *other) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	answer := &runtimeapi.ListContainersResponse{}
	for id, state := range o.states {
		answer.Containers = append(answer.Containers, &runtimeapi.Container{Id: id, State: state, Labels: map[string]string{"pod": id}})
	}
	return answer, nil
}

func (o *other) set(id string, state runtimeapi.ContainerState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.states[id] = state
}

// serve it until the function that is returned is called.
func (o *other) serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(server, o)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	return func() { server.Stop(); <-ended }
}

func connect(t *testing.T) (*Runtime, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kr") // short: a socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "cri.sock")
	r, err := New(socket, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return r, socket
}

func TestARuntimeIsWaitedForAndAsked(t *testing.T) {
	systemd, own := runtimeapi.CgroupDriver_SYSTEMD, runtimeapi.CgroupDriver_CGROUPFS
	tests := map[string]struct {
		driver *runtimeapi.CgroupDriver
		want   string // part of the error
	}{
		"one that makes its own groups":           {driver: &own},
		"one that does not say":                   {},
		"one that has systemd make them, refused": {driver: &systemd, want: "set SystemdCgroup = false"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, socket := connect(t)
			answered := make(chan error, 1)
			go func() { answered <- r.Await(t.Context()) }() // nobody is there yet
			defer (&other{driver: tc.driver}).serve(t, socket)()
			err := <-answered
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Await() = %v; want %q", err, tc.want)
			}
			if r.Name() != "other" {
				t.Errorf("it is called %q", r.Name())
			}
			if _, err := r.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{}); !errdefs.IsNotFound(err) {
				t.Errorf("ContainerStatus() = %v; want one that is not found", err)
			}
		})
	}
	r, _ := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Await(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Await() = %v after its context ended", err)
	}
}

// told are the pods that events name.
type told struct {
	grpc.ServerStream
	ctx  context.Context
	pods chan string
}

func (s told) Context() context.Context { return s.ctx }

func (s told) Send(e *runtimeapi.ContainerEventResponse) error {
	s.pods <- e.PodSandboxStatus.Labels["pod"]
	return nil
}

func TestChangesAreToldByARuntimeWithoutEvents(t *testing.T) {
	r, socket := connect(t)
	o := &other{states: map[string]runtimeapi.ContainerState{"a": 1, "b": 1}}
	stop := o.serve(t, socket)
	ctx, cancel := context.WithCancel(t.Context())
	stream, ended := told{ctx: ctx, pods: make(chan string, 10)}, make(chan error, 1)
	go func() { ended <- r.GetContainerEvents(&runtimeapi.GetEventsRequest{}, stream) }()
	first := []string{<-stream.pods, <-stream.pods}
	slices.Sort(first)
	if !slices.Equal(first, []string{"a", "b"}) {
		t.Errorf("at first it tells of %v", first)
	}
	o.set("b", 2)
	if got := <-stream.pods; got != "b" {
		t.Errorf("%s is told of, and b changed", got)
	}
	stop() // it is away, and meanwhile a ends
	o.set("a", 2)
	defer o.serve(t, socket)()
	if got := <-stream.pods; got != "a" {
		t.Errorf("%s is told of, and a changed", got)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("GetContainerEvents() = %v after its context ended", err)
	}
}

func TestLimits(t *testing.T) {
	for want, q := range map[time.Duration]any{
		0:                      &runtimeapi.PullImageRequest{},
		patience:               &runtimeapi.CreateContainerRequest{},
		patience + time.Second: &runtimeapi.StopContainerRequest{Timeout: 1},
		patience + time.Minute: &runtimeapi.ExecSyncRequest{Timeout: 60},
	} {
		if got := limitOf(q); got != want {
			t.Errorf("limitOf(%T) = %s, want %s", q, got, want)
		}
	}
}

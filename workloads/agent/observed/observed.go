// Package observed is what the runtime says about a pod.
//
// In:       CRI, asked for one pod or for all.
// Out:      Pod: sandboxes and containers, newest first, with the messages ended containers left.
// Promise:  only reads.
// Not here: what follows from it (workloads/agent/pod, workloads/agent/status).
package observed

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/translate"
)

// Runtime is the part of CRI that is read.
type Runtime interface {
	ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error)
	PodSandboxStatus(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error)
	ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error)
	ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error)
}

// State of a container.
type State string

const (
	Created State = "created" // made, never started
	Running State = "running"
	Exited  State = "exited"
	Lost    State = "lost" // it ran, or was about to; the runtime finds nothing of it and does not know whether it runs
)

// Pod is everything the runtime has of one pod.
type Pod struct {
	Sandboxes  []Sandbox
	Containers map[string][]Container
}

// Sandbox is one incarnation of the pod's network and namespaces.
type Sandbox struct {
	ID      string
	Attempt uint32
	Ready   bool
	Created time.Time
	IPs     []string // empty on the host's network
}

// Container is one run of one of the pod's containers.
type Container struct {
	ID, Name, Sandbox          string
	Attempt                    uint32
	Round                      int // of the pod, counted by how often all its containers were started anew
	State                      State
	Hash                       string
	Image, ImageID             string
	Created, Started, Finished time.Time
	ExitCode                   int32
	Reason, Message            string
	MessageFile, LogPath       string
	User                       *runtimeapi.LinuxContainerUser
	Bounds                     translate.Bounds // as they were when it was first seen; a resize changes them
	CPUs                       string           // those it may run on, "" for all; as they were when it was first seen
	OwnCPUs                    bool             // it has them to itself

	// Ended is when this process first saw that the container had ended. Finished is by the machine's clock, which may
	// have been set since; how long ago a container ended is for this one to say.
	Ended time.Time
}

// Wanted are the bounds that its resources ask for.
func (c *Container) Wanted(spec *corev1.Container) translate.Bounds {
	if c.OwnCPUs {
		return translate.Wanted(spec).WithoutQuota()
	}
	return translate.Wanted(spec)
}

// Sandbox is the newest one, nil when there is none.
func (p Pod) Sandbox() *Sandbox {
	if len(p.Sandboxes) == 0 {
		return nil
	}
	return &p.Sandboxes[0]
}

// Latest is a container's newest run, nil when it never had one.
func (p Pod) Latest(name string) *Container {
	if runs := p.Containers[name]; len(runs) > 0 {
		return &runs[0]
	}
	return nil
}

// Running lists what runs, in no order.
func (p Pod) Running() []Container { return p.in(Running) }

// Alive lists what runs and what may, in no order.
func (p Pod) Alive() []Container { return p.in(Running, Lost) }

func (p Pod) in(states ...State) []Container {
	var out []Container
	for _, runs := range p.Containers {
		for _, c := range runs {
			if slices.Contains(states, c.State) {
				out = append(out, c)
			}
		}
	}
	return out
}

// Empty says that the runtime has nothing of the pod.
func (p Pod) Empty() bool { return len(p.Sandboxes) == 0 && len(p.Containers) == 0 }

// Read asks for one pod. What was known before and cannot have changed is taken from there: the details of a container
// cost the runtime a look at its whole specification.
func Read(ctx context.Context, rt Runtime, uid types.UID, before Pod) (Pod, error) {
	all, err := read(ctx, rt, map[string]string{translate.LabelPodUID: string(uid)}, before)
	return all[uid], err
}

// ReadAll asks for every pod.
func ReadAll(ctx context.Context, rt Runtime) (map[types.UID]Pod, error) {
	return read(ctx, rt, nil, Pod{})
}

func read(ctx context.Context, rt Runtime, labels map[string]string, before Pod) (map[types.UID]Pod, error) {
	pods := map[types.UID]Pod{}
	get := func(labels map[string]string) (types.UID, Pod) {
		uid := types.UID(labels[translate.LabelPodUID])
		p := pods[uid]
		if p.Containers == nil {
			p.Containers = map[string][]Container{}
		}
		return uid, p
	}
	sandboxes, err := rt.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes.Items {
		sandbox, err := readSandbox(ctx, rt, s, before)
		if errdefs.IsNotFound(err) {
			continue // removed between the two questions
		}
		if err != nil {
			return nil, fmt.Errorf("look at sandbox %s: %w", s.Id, err)
		}
		uid, p := get(s.Labels)
		p.Sandboxes = append(p.Sandboxes, sandbox)
		pods[uid] = p
	}
	containers, err := rt.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers.Containers {
		one, err := readContainer(ctx, rt, c, before)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at container %s: %w", c.Id, err)
		}
		uid, p := get(c.Labels)
		p.Containers[one.Name] = append(p.Containers[one.Name], one)
		pods[uid] = p
	}
	for _, p := range pods {
		slices.SortFunc(p.Sandboxes, func(a, b Sandbox) int { return newest(a.Attempt, b.Attempt, a.Created, b.Created) })
		for _, runs := range p.Containers {
			slices.SortFunc(runs, func(a, b Container) int { return newest(a.Attempt, b.Attempt, a.Created, b.Created) })
		}
	}
	return pods, nil
}

func newest(a, b uint32, at, bt time.Time) int {
	if a != b {
		return int(b) - int(a)
	}
	return bt.Compare(at)
}

func readSandbox(ctx context.Context, rt Runtime, s *runtimeapi.PodSandbox, before Pod) (Sandbox, error) {
	out := Sandbox{
		ID: s.Id, Attempt: s.Metadata.GetAttempt(), Created: time.Unix(0, s.CreatedAt),
		Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY,
	}
	if !out.Ready {
		return out, nil
	}
	for _, known := range before.Sandboxes {
		if known.ID == s.Id && known.Ready {
			return known, nil
		}
	}
	status, err := rt.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: s.Id})
	if err != nil {
		return out, err
	}
	if n := status.GetStatus().GetNetwork(); n.GetIp() != "" {
		out.IPs = append(out.IPs, n.Ip)
		for _, more := range n.AdditionalIps {
			out.IPs = append(out.IPs, more.Ip)
		}
	}
	return out, nil
}

func readContainer(ctx context.Context, rt Runtime, c *runtimeapi.Container, before Pod) (Container, error) {
	for _, known := range before.Containers[c.Labels[translate.LabelContainer]] {
		settled := known.State == Running || known.State == Exited && known.ExitCode != killed
		if known.ID == c.Id && known.State == states[c.State] && settled {
			return known, nil
		}
	}
	status, err := rt.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
	if err != nil {
		return Container{}, err
	}
	return seen(details(c, status.Status), before, time.Now()), nil
}

// seen notes when a container's end was first seen.
func seen(c Container, before Pod, now time.Time) Container {
	if c.State != Exited {
		return c
	}
	c.Ended = now
	for _, known := range before.Containers[c.Name] {
		if known.ID == c.ID && known.State == Exited {
			c.Ended = known.Ended
		}
	}
	return c
}

// killed is the exit code after SIGKILL. That it was for want of memory may become known after the end.
const killed = 137

var states = map[runtimeapi.ContainerState]State{
	runtimeapi.ContainerState_CONTAINER_CREATED: Created,
	runtimeapi.ContainerState_CONTAINER_RUNNING: Running,
	runtimeapi.ContainerState_CONTAINER_EXITED:  Exited,
	runtimeapi.ContainerState_CONTAINER_UNKNOWN: Lost,
}

func details(c *runtimeapi.Container, s *runtimeapi.ContainerStatus) Container {
	notes := s.GetAnnotations()
	out := Container{
		ID:          c.Id,
		Name:        c.Labels[translate.LabelContainer],
		Sandbox:     c.PodSandboxId,
		Hash:        notes[translate.NoteHash],
		Attempt:     s.GetMetadata().GetAttempt(),
		Image:       s.GetImage().GetImage(),
		ImageID:     s.ImageRef,
		Created:     moment(s.CreatedAt),
		Started:     moment(s.StartedAt),
		Finished:    moment(s.FinishedAt),
		ExitCode:    s.ExitCode,
		Reason:      s.Reason,
		Message:     s.Message,
		MessageFile: notes[translate.NoteMessageFile],
		LogPath:     s.LogPath,
		User:        s.GetUser().GetLinux(),
		Bounds:      translate.BoundsOf(s.GetResources().GetLinux()),
		CPUs:        s.GetResources().GetLinux().GetCpusetCpus(),
		OwnCPUs:     notes[translate.NoteOwnCPUs] != "",
	}
	if n, err := strconv.ParseUint(notes[translate.NoteRestarts], 10, 32); err == nil {
		out.Attempt = uint32(n)
	}
	if n, err := strconv.Atoi(notes[translate.NoteRound]); err == nil {
		out.Round = n
	}
	switch out.State = states[s.State]; {
	case neverStarted(s):
		out.State, out.ExitCode, out.Reason = Created, 0, ""
	case out.State == Exited:
		out.Message = lastWords(out, notes)
	}
	return out
}

// neverStarted says that the runtime was cut off while it made the container: it noted nothing of it yet, or, when it found
// again a task that was not started, it killed that and was cut off once more.
func neverStarted(s *runtimeapi.ContainerStatus) bool {
	switch s.State {
	case runtimeapi.ContainerState_CONTAINER_UNKNOWN:
		return s.CreatedAt == 0 && s.StartedAt == 0
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return s.StartedAt == 0 && s.ExitCode == killed && s.Reason == "Error"
	}
	return false
}

func moment(nanos int64) time.Time {
	if nanos <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

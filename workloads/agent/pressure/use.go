package pressure

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/translate"
)

// Amount is what something takes of a disk.
type Amount struct{ Bytes, Inodes uint64 }

func (a Amount) plus(b Amount) Amount { return Amount{a.Bytes + b.Bytes, a.Inodes + b.Inodes} }

// Use is what a pod uses of the node.
type Use struct {
	Memory, Processes uint64
	Containers        map[string]ContainerUse // those that run
	Volumes           map[string]Amount       // emptyDirs on disk
}

// ContainerUse is what a container uses.
type ContainerUse struct {
	Memory      uint64
	Layer, Logs Amount // Layer: what it wrote into its image's files
}

// Runtime knows what containers wrote; workloads/agent/runtime is one.
type Runtime interface {
	ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error)
}

// Meter measures pods.
type Meter struct {
	Groups  *cgroup.Tree
	Runtime Runtime
	LogRoot string
}

// memory of a pod and its containers, and how many processes it has. A pod whose group cannot be read is ending.
func (m Meter) memory(pod Pod) (Use, bool) {
	group, err := m.Groups.Use(m.Groups.Pod(cgroup.QOS(pod.Pod), pod.UID))
	if err != nil {
		return Use{}, false
	}
	use := Use{Memory: group.WorkingSet(), Processes: group.Processes, Containers: map[string]ContainerUse{}}
	for name, id := range pod.Running {
		if own, err := m.Groups.Use(m.Groups.Container(pod.Pod, id)); err == nil {
			use.Containers[name] = ContainerUse{Memory: own.WorkingSet()}
		}
	}
	return use, true
}

// layers are what all running containers wrote into their images' files, by container id. The runtime counts every
// minute.
func (m Meter) layers(ctx context.Context) (map[string]Amount, error) {
	answer, err := m.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime what containers wrote: %w", err)
	}
	out := map[string]Amount{}
	for _, s := range answer.GetStats() {
		layer := s.GetWritableLayer()
		out[s.GetAttributes().GetId()] = Amount{layer.GetUsedBytes().GetValue(), layer.GetInodesUsed().GetValue()}
	}
	return out, nil
}

// disk counts what a pod takes of the node's disk.
func (m Meter) disk(ctx context.Context, pod Pod, layers map[string]Amount) Use {
	use := Use{Containers: map[string]ContainerUse{}, Volumes: map[string]Amount{}}
	for name, id := range pod.Running {
		logs := count(ctx, filepath.Join(m.LogRoot, translate.LogFolder(pod.Pod), name))
		use.Containers[name] = ContainerUse{Layer: layers[id], Logs: logs}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if path := pod.Volumes[v.Name]; path != "" && onDisk(v) {
			use.Volumes[v.Name] = count(ctx, path)
		}
	}
	return use
}

// onDisk: is it an emptyDir on the node's disk? One in memory is held to its size by the kernel.
func onDisk(v *corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
}

// count looks at every file of a folder. What goes meanwhile takes no room; a file with several names is counted once.
func count(ctx context.Context, dir string) (out Amount) {
	type file struct{ dev, ino uint64 }
	linked := map[file]bool{}
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error { // ends early only with ctx
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil
		}
		if s.Nlink > 1 && !entry.IsDir() {
			id := file{uint64(s.Dev), s.Ino}
			if linked[id] {
				return nil
			}
			linked[id] = true
		}
		out = out.plus(Amount{uint64(s.Blocks) * 512, 1})
		return nil
	})
	return out
}

package sandbox

import (
	"errors"
	"fmt"
	"path"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

const cgroupMount = "/sys/fs/cgroup"

// join puts the pause process into the pod's cgroup: under v2 into a leaf of it, because only leaves hold processes.
func join(group string, pid int) error {
	if group == "" {
		return nil
	}
	if cgroups.Mode() == cgroups.Unified {
		leaf, err := cgroup2.NewManager(cgroupMount, path.Join(group, "pause"), &cgroup2.Resources{})
		if err != nil {
			return fmt.Errorf("make cgroup %s: %w", path.Join(group, "pause"), err)
		}
		if err := leaf.AddProc(uint64(pid)); err != nil {
			return fmt.Errorf("join cgroup %s: %w", path.Join(group, "pause"), err)
		}
		return nil
	}
	pod, err := cgroup1.Load(cgroup1.StaticPath(group))
	if errors.Is(err, cgroup1.ErrCgroupDeleted) { // who talks CRI need not have made it
		pod, err = cgroup1.New(cgroup1.StaticPath(group), &specs.LinuxResources{})
	}
	if err != nil {
		return fmt.Errorf("find cgroup %s: %w", group, err)
	}
	if err := pod.AddProc(uint64(pid)); err != nil {
		return fmt.Errorf("join cgroup %s: %w", group, err)
	}
	return nil
}

// usage reads the pod's cgroup.
func usage(group string) (*anypb.Any, error) {
	var stats any
	if cgroups.Mode() == cgroups.Unified {
		pod, err := cgroup2.Load(group)
		if err != nil {
			return nil, err
		}
		if stats, err = pod.Stat(); err != nil {
			return nil, err
		}
	} else {
		pod, err := cgroup1.Load(cgroup1.StaticPath(group))
		if err != nil {
			return nil, err
		}
		if stats, err = pod.Stat(cgroup1.IgnoreNotExist); err != nil {
			return nil, err
		}
	}
	packed, err := typeurl.MarshalAny(stats)
	if err != nil {
		return nil, err
	}
	return typeurl.MarshalProto(packed), nil
}

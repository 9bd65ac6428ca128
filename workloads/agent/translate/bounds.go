package translate

import (
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/cgroup"
)

// Bounds are what the kernel holds a container to. They are all of its configuration that can change while it runs.
// The zero value is not known.
type Bounds struct{ Shares, Quota, Memory int64 }

// Place is where a container runs: CPUs and NUMA nodes for its memory, as the kernel lists them. "" is as it is, which is
// anywhere for one that is made.
type Place struct {
	CPUs, Mems string
	Own        bool // nobody else's containers run there, so the container's CPU has no other bound (no quota)
}

// in puts it into what the runtime is asked for.
func (p Place) in(r *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	r.CpusetCpus, r.CpusetMems = p.CPUs, p.Mems
	if p.Own {
		r.CpuQuota = 0
	}
	return r
}

const unlimited = -1

// Wanted are the bounds that a container's resources ask for.
func Wanted(c *corev1.Container) Bounds {
	request, ok := c.Resources.Requests[corev1.ResourceCPU]
	if !ok {
		request = c.Resources.Limits[corev1.ResourceCPU]
	}
	quota, _ := cgroup.Quota(c.Resources.Limits.Cpu().MilliValue())
	return Bounds{Shares: cgroup.Shares(request.MilliValue()), Quota: quota, Memory: c.Resources.Limits.Memory().Value()}.plain()
}

// BoundsOf are those the runtime says a container has.
func BoundsOf(r *runtimeapi.LinuxContainerResources) Bounds {
	if r == nil || r.CpuShares == 0 {
		return Bounds{}
	}
	return Bounds{Shares: r.CpuShares, Quota: r.CpuQuota, Memory: r.MemoryLimitInBytes}.plain()
}

// WithoutQuota are the same for a container on CPUs of its own.
func (b Bounds) WithoutQuota() Bounds {
	b.Quota = unlimited
	return b
}

// plain has one word for no limit.
func (b Bounds) plain() Bounds {
	if b.Quota <= 0 {
		b.Quota = unlimited
	}
	if b.Memory <= 0 {
		b.Memory = unlimited
	}
	return b
}

// Change is what the runtime has to be told to bring a container from other bounds to these. What stays without a limit
// is left out: to the runtime 0 means as it is, and -1 none.
func (b Bounds) Change(from Bounds) *runtimeapi.LinuxContainerResources {
	_, period := cgroup.Quota(0)
	r := &runtimeapi.LinuxContainerResources{CpuShares: b.Shares, CpuQuota: b.Quota, CpuPeriod: period, MemoryLimitInBytes: b.Memory}
	if b.Quota == unlimited && from.Quota == unlimited {
		r.CpuQuota = 0
	}
	if b.Memory == unlimited && from.Memory == unlimited {
		r.MemoryLimitInBytes = 0
	}
	return r
}

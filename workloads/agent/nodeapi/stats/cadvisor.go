package stats

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/topology"
)

// Groups reads control groups; *cgroup.Tree does.
type Groups interface {
	Pods() string
	Pod(qos corev1.PodQOSClass, uid types.UID) string
	Container(pod *corev1.Pod, id string) string
	Use(group string) (cgroup.Use, error)
	Swap(group string) (used uint64, left *uint64, ok bool)
}

// group is one control group and whose it is.
type group struct {
	id, namespace, pod, container, image, name string
	limits                                     corev1.ResourceList
	requests                                   corev1.ResourceList
	whole                                      bool // a container or a pod, whose bounds are shown
	use                                        cgroup.Use
}

func (g *group) labels(more ...string) string {
	text := fmt.Sprintf("container=%q,id=%q,image=%q,name=%q,namespace=%q,pod=%q", g.container, g.id, g.image, g.name, g.namespace, g.pod)
	for i := 0; i+1 < len(more); i += 2 {
		text += fmt.Sprintf(",%s=%q", more[i], more[i+1])
	}
	return text
}

// WriteContainers writes what pods and containers use under the names cAdvisor gave the figures, which dashboards ask for.
func (c *Collector) WriteContainers(ctx context.Context, out io.Writer) error {
	summary, err := c.Summary(ctx, false)
	if err != nil {
		return err
	}
	for _, f := range containerFamilies(c.groups(c.Pods()), summary, time.Now()) {
		if err := f.write(out); err != nil {
			return err
		}
	}
	return nil
}

// groups are all pods together, each pod, and each running container. Those that end while we look are left out.
func (c *Collector) groups(pods []*corev1.Pod) []group {
	all := []group{{id: c.Groups.Pods()}}
	for _, p := range pods {
		if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		all = append(all, group{id: c.Groups.Pod(cgroup.QOS(p), p.UID), namespace: p.Namespace, pod: p.Name})
		for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for i := range list {
				_, id, _ := strings.Cut(list[i].ContainerID, "://")
				if list[i].State.Running == nil || id == "" {
					continue
				}
				g := group{id: c.Groups.Container(p, id), namespace: p.Namespace, pod: p.Name, container: list[i].Name, image: list[i].Image, name: id, whole: true}
				for _, specs := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
					if at := slices.IndexFunc(specs, func(s corev1.Container) bool { return s.Name == g.container }); at >= 0 {
						g.limits, g.requests = specs[at].Resources.Limits, specs[at].Resources.Requests
					}
				}
				all = append(all, g)
			}
		}
	}
	alive := all[:0]
	for _, g := range all {
		var err error
		if g.use, err = c.Groups.Use(g.id); err == nil {
			alive = append(alive, g)
		}
	}
	return alive
}

// cpuPeriod is the period quotas are enforced in, in microseconds.
const cpuPeriod = 100_000

// containerFamilies arranges the figures.
func containerFamilies(groups []group, summary *statsapi.Summary, now time.Time) []family {
	var out []family
	add := func(kind, name, help string, value func(g *group) (float64, bool), more ...string) {
		f := family{name: name, help: help, kind: kind}
		for i := range groups {
			if v, known := value(&groups[i]); known {
				f.samples = append(f.samples, sample{labels: groups[i].labels(more...), value: v})
			}
		}
		out = append(out, f)
	}
	always := func(of func(u *cgroup.Use) float64) func(g *group) (float64, bool) {
		return func(g *group) (float64, bool) { return of(&g.use), true }
	}
	seconds := func(of func(u *cgroup.Use) time.Duration) func(g *group) (float64, bool) {
		return always(func(u *cgroup.Use) float64 { return of(u).Seconds() })
	}
	bytes := func(of func(u *cgroup.Use) uint64) func(g *group) (float64, bool) {
		return always(func(u *cgroup.Use) float64 { return float64(of(u)) })
	}
	limited := func(of func(u *cgroup.Use) float64) func(g *group) (float64, bool) { // those without a quota have no periods
		return func(g *group) (float64, bool) { return of(&g.use), g.use.Periods > 0 }
	}
	bound := func(list func(g *group) corev1.ResourceList, name corev1.ResourceName, unit func(v float64) float64) func(g *group) (float64, bool) {
		return func(g *group) (float64, bool) {
			q, set := list(g)[name]
			return unit(q.AsApproximateFloat64()), set && g.whole
		}
	}
	limits := func(g *group) corev1.ResourceList { return g.limits }
	requests := func(g *group) corev1.ResourceList { return g.requests }
	same := func(v float64) float64 { return v }

	add("counter", "container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", seconds(func(u *cgroup.Use) time.Duration { return u.CPU }), "cpu", "total")
	add("counter", "container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", seconds(func(u *cgroup.Use) time.Duration { return u.User }))
	add("counter", "container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", seconds(func(u *cgroup.Use) time.Duration { return u.System }))
	add("counter", "container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", limited(func(u *cgroup.Use) float64 { return float64(u.Periods) }))
	add("counter", "container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", limited(func(u *cgroup.Use) float64 { return float64(u.Throttled) }))
	add("counter", "container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", limited(func(u *cgroup.Use) float64 { return u.ThrottledFor.Seconds() }))
	add("gauge", "container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", bytes(func(u *cgroup.Use) uint64 { return u.Memory }))
	add("gauge", "container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", bytes(func(u *cgroup.Use) uint64 { return u.MaxMemory }))
	add("gauge", "container_memory_working_set_bytes", "Current working set in bytes.", bytes(func(u *cgroup.Use) uint64 { return u.WorkingSet() }))
	add("gauge", "container_memory_rss", "Size of RSS in bytes.", bytes(func(u *cgroup.Use) uint64 { return u.RSS }))
	add("gauge", "container_memory_cache", "Number of bytes of page cache memory.", bytes(func(u *cgroup.Use) uint64 { return u.Cache }))
	add("gauge", "container_memory_mapped_file", "Size of memory mapped files in bytes.", bytes(func(u *cgroup.Use) uint64 { return u.Mapped }))
	add("gauge", "container_memory_swap", "Container swap usage in bytes.", bytes(func(u *cgroup.Use) uint64 { return u.Swap }))
	add("gauge", "container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", bytes(func(u *cgroup.Use) uint64 { return u.Kernel }))
	add("gauge", "container_memory_total_active_file_bytes", "Current total active file in bytes.", bytes(func(u *cgroup.Use) uint64 { return u.ActiveFile }))
	add("gauge", "container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", bytes(func(u *cgroup.Use) uint64 { return u.InactiveFile }))
	add("counter", "container_memory_failcnt", "Number of memory usage hits limits", bytes(func(u *cgroup.Use) uint64 { return u.Failures }))
	add("counter", "container_memory_failures_total", "Cumulative count of memory allocation failures.", bytes(func(u *cgroup.Use) uint64 { return u.Faults }), "failure_type", "pgfault", "scope", "hierarchy")
	out[len(out)-1].samples = append(out[len(out)-1].samples, majorFaults(groups)...)
	add("counter", "container_oom_events_total", "Count of out of memory events observed for the container", bytes(func(u *cgroup.Use) uint64 { return u.Killed }))
	add("gauge", "container_processes", "Number of processes running inside the container.", bytes(func(u *cgroup.Use) uint64 { return u.Processes }))
	add("gauge", "container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", bytes(func(u *cgroup.Use) uint64 { return u.MaxProcesses }))
	add("gauge", "container_spec_cpu_period", "CPU period of the container.", bound(limits, corev1.ResourceCPU, func(float64) float64 { return cpuPeriod }))
	add("gauge", "container_spec_cpu_quota", "CPU quota of the container.", bound(limits, corev1.ResourceCPU, func(v float64) float64 { return v * cpuPeriod }))
	add("gauge", "container_spec_cpu_shares", "CPU share of the container.", bound(requests, corev1.ResourceCPU, func(v float64) float64 { return float64(cgroup.Shares(int64(v * 1000))) }))
	add("gauge", "container_spec_memory_limit_bytes", "Memory limit for the container.", bound(limits, corev1.ResourceMemory, same))
	add("gauge", "container_last_seen", "Last time a container was seen by the exporter", always(func(*cgroup.Use) float64 { return float64(now.Unix()) }))
	return slices.Concat(out, diskFamilies(groups, summary), networkFamilies(groups, summary), machineFamilies(summary))
}

func majorFaults(groups []group) (samples []sample) {
	for i := range groups {
		samples = append(samples, sample{labels: groups[i].labels("failure_type", "pgmajfault", "scope", "hierarchy"), value: float64(groups[i].use.MajorFaults)})
	}
	return samples
}

// find the statistics of a pod.
func find(summary *statsapi.Summary, namespace, name string) *statsapi.PodStats {
	for i := range summary.Pods {
		if ref := &summary.Pods[i].PodRef; ref.Namespace == namespace && ref.Name == name {
			return &summary.Pods[i]
		}
	}
	return nil
}

func (f *family) add(labels string, value *uint64) {
	if value != nil {
		f.samples = append(f.samples, sample{labels: labels, value: float64(*value)})
	}
}

// diskFamilies are about the containers' writable layers.
func diskFamilies(groups []group, summary *statsapi.Summary) []family {
	used := family{name: "container_fs_usage_bytes", help: "Number of bytes that are consumed by the container on this filesystem.", kind: "gauge"}
	limit := family{name: "container_fs_limit_bytes", help: "Number of bytes that can be consumed by the container on this filesystem.", kind: "gauge"}
	inodes := family{name: "container_fs_inodes_total", help: "Number of Inodes", kind: "gauge"}
	free := family{name: "container_fs_inodes_free", help: "Number of available Inodes", kind: "gauge"}
	for i := range groups {
		pod := find(summary, groups[i].namespace, groups[i].pod)
		if pod == nil || groups[i].container == "" {
			continue
		}
		for j := range pod.Containers {
			if c := &pod.Containers[j]; c.Name == groups[i].container && c.Rootfs != nil {
				labels := groups[i].labels()
				used.add(labels, c.Rootfs.UsedBytes)
				limit.add(labels, c.Rootfs.CapacityBytes)
				inodes.add(labels, c.Rootfs.Inodes)
				free.add(labels, c.Rootfs.InodesFree)
			}
		}
	}
	return []family{used, limit, inodes, free}
}

// networkFamilies are about pods, whose containers share their interfaces.
func networkFamilies(groups []group, summary *statsapi.Summary) []family {
	kinds := []struct {
		family
		of func(*statsapi.InterfaceStats) *uint64
	}{
		{family{name: "container_network_receive_bytes_total", help: "Cumulative count of bytes received", kind: "counter"}, func(s *statsapi.InterfaceStats) *uint64 { return s.RxBytes }},
		{family{name: "container_network_receive_errors_total", help: "Cumulative count of errors encountered while receiving", kind: "counter"}, func(s *statsapi.InterfaceStats) *uint64 { return s.RxErrors }},
		{family{name: "container_network_transmit_bytes_total", help: "Cumulative count of bytes transmitted", kind: "counter"}, func(s *statsapi.InterfaceStats) *uint64 { return s.TxBytes }},
		{family{name: "container_network_transmit_errors_total", help: "Cumulative count of errors encountered while transmitting", kind: "counter"}, func(s *statsapi.InterfaceStats) *uint64 { return s.TxErrors }},
	}
	var out []family
	for _, kind := range kinds {
		for i := range groups {
			pod := find(summary, groups[i].namespace, groups[i].pod)
			if pod == nil || groups[i].container != "" || pod.Network == nil {
				continue
			}
			for j := range pod.Network.Interfaces {
				if card := &pod.Network.Interfaces[j]; card.Name != "lo" {
					kind.add(groups[i].labels("interface", card.Name), kind.of(card))
				}
			}
		}
		out = append(out, kind.family)
	}
	return out
}

func machineFamilies(summary *statsapi.Summary) []family {
	one := func(name, help string, value float64) family {
		return family{name: name, help: help, kind: "gauge", samples: []sample{{value: value}}}
	}
	var out []family
	if cpus, err := topology.Online("/sys"); err == nil {
		out = append(out, one("machine_cpu_cores", "Number of logical CPU cores.", float64(cpus)))
	}
	if m := summary.Node.Memory; m != nil && m.AvailableBytes != nil && m.WorkingSetBytes != nil {
		out = append(out, one("machine_memory_bytes", "Amount of memory installed on the machine.", float64(*m.AvailableBytes+*m.WorkingSetBytes)))
	}
	if s := summary.Node.Swap; s != nil && s.SwapAvailableBytes != nil && s.SwapUsageBytes != nil {
		out = append(out, one("machine_swap_bytes", "Amount of swap memory available on the machine.", float64(*s.SwapAvailableBytes+*s.SwapUsageBytes)))
	}
	return out
}

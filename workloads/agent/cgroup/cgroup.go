// Package cgroup keeps the control groups of pods: one for all pods, one a QoS class, one a pod.
//
// In:       a root below which everything lies (so that several machines can share one host), pods.
// Out:      groups with the pod's CPU and memory bounds, on cgroup v1 and v2; the parent path for the runtime.
// Promise:  a pod cannot use more than the sum of its containers' limits; best-effort pods yield CPU to all others; no pod
//
//	takes all the processes the machine can have.
//
// Not here: the containers' own groups (runc makes them below the pod's).
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	podresources "k8s.io/component-helpers/resource"
)

const (
	mountpoint = "/sys/fs/cgroup"
	hugepages  = "/sys/kernel/mm/hugepages"
)

// Tree is the part of the machine's cgroups that holds pods.
type Tree struct {
	root    string
	unified bool
	mount   string // where the kernel shows the groups
	pages   string // and where the sizes of hugepages it has
	pids    int64  // of a pod, as BoundPids has it
	own     func(types.UID) bool
}

// New returns the tree below root, "/" for the machine's own.
func New(root string) *Tree {
	return &Tree{root: path.Join("/", root), unified: cgroups.Mode() == cgroups.Unified, mount: mountpoint, pages: hugepages}
}

// Unified says whether this machine has cgroup v2 only.
func (t *Tree) Unified() bool { return t.unified }

// BoundsSwap says whether groups can be held to a part of the swap: only v2 can, and only where the kernel counts it. The
// root group has no such file, so a process that lies there does not know, and the answer is no.
func (t *Tree) BoundsSwap() bool {
	own, err := ownGroup()
	if !t.unified || err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(t.mount, own, "memory.swap.max"))
	return err == nil
}

// ownGroup is where this process lies in the hierarchy of v2.
func ownGroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("look for this process's cgroup: %w", err)
	}
	_, group, _ := strings.Cut(strings.TrimSpace(string(text)), "0::")
	return group, nil
}

// clear moves this process, and those beside it, out of a group that the pods' are below: v2 has processes only in groups
// that pass no controller on, but for the machine's root (cgroups(7), "no internal processes"). In a container that has a view
// of its own, knarr begins in what it sees as the root.
func (t *Tree) clear() error {
	if !t.unified {
		return nil
	}
	own, err := ownGroup()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(t.mount, own, "cgroup.type")); !above(own, t.Pods()) || errors.Is(err, fs.ErrNotExist) {
		return nil // the machine's root has no type
	}
	leaf := filepath.Join(t.mount, own, "init")
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a cgroup for knarr itself: %w", err)
	}
	for range 100 { // those that are born meanwhile are found the next time
		procs, err := os.ReadFile(filepath.Join(t.mount, own, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("list the processes of cgroup %s: %w", own, err)
		}
		pids := strings.Fields(string(procs))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0)
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("move process %s out of cgroup %s, which pods' groups are below: %w", pid, own, err)
			}
		}
	}
	return fmt.Errorf("cgroup %s gets new processes faster than they can be moved; start knarr in a group of its own", own)
}

// above says whether a group has another somewhere below it. One outside of what this process sees begins with "/..".
func above(group, other string) bool {
	return group != other && strings.HasPrefix(other+"/", strings.TrimSuffix(group, "/")+"/")
}

// Pods is the group of all pods.
func (t *Tree) Pods() string { return path.Join(t.root, "kubepods") }

// Pod is a pod's group, the parent of its containers'.
func (t *Tree) Pod(qos corev1.PodQOSClass, uid types.UID) string {
	return path.Join(t.class(qos), "pod"+string(uid))
}

func (t *Tree) class(qos corev1.PodQOSClass) string {
	if qos == corev1.PodQOSGuaranteed {
		return t.Pods()
	}
	return path.Join(t.Pods(), strings.ToLower(string(qos)))
}

// Whole is what all pods together may have of a machine; what is 0 is not bounded.
type Whole struct {
	MilliCPU  int64 // a weight against what runs beside the pods, not a bound
	Memory    int64 // bytes
	Processes int64
}

// Sharing is what is left for all pods when so much of the machine is reserved for others (node allocatable in the
// Kubernetes documentation): of what nothing is reserved, there is no bound.
func Sharing(capacity, reserved corev1.ResourceList) Whole {
	left := func(name corev1.ResourceName, of func(resource.Quantity) int64, all int64) int64 {
		kept := reserved[name]
		if kept.IsZero() {
			return 0
		}
		return max(all-of(kept), 1)
	}
	milli, whole := func(q resource.Quantity) int64 { return q.MilliValue() }, func(q resource.Quantity) int64 { return q.Value() }
	return Whole{
		MilliCPU:  left(corev1.ResourceCPU, milli, capacity.Cpu().MilliValue()),
		Memory:    left(corev1.ResourceMemory, whole, capacity.Memory().Value()),
		Processes: left("pid", whole, machinePids()),
	}
}

// resources in the kernel's terms.
func (w Whole) resources() *specs.LinuxResources {
	res := &specs.LinuxResources{}
	if w.MilliCPU > 0 {
		res.CPU = &specs.LinuxCPU{Shares: new(uint64(Shares(w.MilliCPU)))}
	}
	if w.Memory > 0 {
		res.Memory = &specs.LinuxMemory{Limit: &w.Memory}
	}
	if w.Processes > 0 {
		res.Pids = &specs.LinuxPids{Limit: &w.Processes}
	}
	return res
}

// Init makes the groups above the pods.
func (t *Tree) Init(all Whole) error {
	if err := t.clear(); err != nil {
		return err
	}
	if err := t.ensure(t.Pods(), all.resources()); err != nil {
		return err
	}
	least := uint64(minShares)
	for qos, res := range map[corev1.PodQOSClass]*specs.LinuxResources{
		corev1.PodQOSBurstable:  {},
		corev1.PodQOSBestEffort: {CPU: &specs.LinuxCPU{Shares: &least}},
	} {
		if err := t.ensure(t.class(qos), res); err != nil {
			return err
		}
	}
	return nil
}

// EnsurePod makes a pod's group with its bounds and returns its path.
func (t *Tree) EnsurePod(pod *corev1.Pod) (string, error) {
	group := t.Pod(QOS(pod), pod.UID)
	res := PodResources(pod)
	if t.own != nil && t.own(pod.UID) {
		res.CPU.Quota, res.CPU.Period = nil, nil
	}
	res.HugepageLimits = PageLimits(podresources.PodLimits(pod, podresources.PodResourcesOptions{}), t.PageSizes())
	res.Pids = &specs.LinuxPids{Limit: new(podPids(t.pids, machinePids()))}
	return group, t.ensure(group, res)
}

// OwnCPUs says which pods have CPUs to themselves: where they run bounds them, and a quota would only hold them up.
func (t *Tree) OwnCPUs(has func(types.UID) bool) *Tree {
	t.own = has
	return t
}

// BoundPids says how many processes and threads one pod may have: 0 for what suits the machine, -1 for as many as it has.
func (t *Tree) BoundPids(limit int64) *Tree {
	t.pids = limit
	return t
}

// podPids is how many processes and threads one pod may have on a machine that can have so many. Where nobody said, a
// quarter, and never more than any program was seen to need: nothing in a pod's specification bounds them, and a fork bomb
// would leave none for the node itself; the agent's own measure against that (pid.available) comes too late for it.
func podPids(limit, machine int64) int64 {
	switch {
	case limit < 0:
		return machine // written all the same: a group that has a bound keeps it otherwise
	case limit > 0:
		return min(limit, machine)
	}
	return max(min(machine/4, 16384), 256)
}

// machinePids is the least of the kernel's own limits.
func machinePids() int64 {
	least := int64(1 << 22) // the kernel's own most
	for _, name := range []string{"pid_max", "threads-max"} {
		text, err := os.ReadFile(filepath.Join("/proc/sys/kernel", name))
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
			least = min(least, n)
		}
	}
	return least
}

// Thaw lets a pod's processes go on that something has frozen: they hear no signal, and under v1 do not even die.
func (t *Tree) Thaw(pod *corev1.Pod) error {
	root, name, value := filepath.Join(t.mount, "freezer"), "freezer.state", "THAWED"
	if t.unified {
		root, name, value = t.mount, "cgroup.freeze", "0"
	}
	return filepath.WalkDir(filepath.Join(root, t.Pod(QOS(pod), pod.UID)), func(dir string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = os.WriteFile(filepath.Join(dir, name), []byte(value), 0)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENODEV) {
			return fmt.Errorf("thaw cgroup: %w", err)
		}
		return nil // one that went meanwhile needs it no more
	})
}

// Hasten lets a container that was told to die do so as fast as the machine can: its processes have some way to go in the
// kernel, which a quota stretches to minutes where a fork bomb made hundreds of them. The pod's own quota goes too for the whole
// pod, until EnsurePod. Containers beside it keep theirs, and all of them their weight against other pods.
func (t *Tree) Hasten(pod *corev1.Pod, container string, whole bool) error {
	root, name, none := filepath.Join(t.mount, "cpu"), "cpu.cfs_quota_us", "-1"
	if t.unified {
		root, name, none = t.mount, "cpu.max", "max"
	}
	group := filepath.Join(root, t.Pod(QOS(pod), pod.UID))
	below, err := os.ReadDir(group)
	var lift []string
	if whole {
		lift = append(lift, group)
	}
	for _, e := range below {
		if e.IsDir() && strings.Contains(e.Name(), container) { // some runtimes put a word of their own before it
			lift = append(lift, filepath.Join(group, e.Name()))
		}
	}
	errs := []error{err}
	for _, dir := range lift {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(none), 0))
	}
	errs = slices.DeleteFunc(errs, func(err error) bool { // what went meanwhile needs it no more
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
	})
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("lift the CPU quota of a cgroup: %w", err)
	}
	return nil
}

// Fits says why a container cannot be held to so many bytes: on cgroup v2 the kernel makes room for a smaller bound by
// killing, where it refuses on v1.
func (t *Tree) Fits(pod *corev1.Pod, container string, memory int64) error {
	if !t.unified || memory <= 0 {
		return nil
	}
	file := filepath.Join(t.mount, t.Pod(QOS(pod), pod.UID), container, "memory.current")
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the container's memory: %w", err)
	}
	used, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return fmt.Errorf("look at the container's memory: %w", err)
	}
	if used > memory {
		return fmt.Errorf("it uses %d bytes of memory, and is to have %d", used, memory)
	}
	return nil
}

// Remove deletes a pod's group, in whichever class it is. The groups of its containers must be gone.
func (t *Tree) Remove(uid types.UID) error {
	var errs []error
	for _, qos := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		errs = append(errs, t.remove(t.Pod(qos, uid)))
	}
	return errors.Join(errs...)
}

// Uids lists the pods that have a group here.
func (t *Tree) Uids() []types.UID {
	base := filepath.Join(t.mount, "memory")
	if t.unified {
		base = t.mount
	}
	var uids []types.UID
	for _, qos := range []corev1.PodQOSClass{corev1.PodQOSGuaranteed, corev1.PodQOSBurstable, corev1.PodQOSBestEffort} {
		found, _ := filepath.Glob(filepath.Join(base, t.class(qos), "pod*"))
		for _, f := range found {
			uids = append(uids, types.UID(strings.TrimPrefix(filepath.Base(f), "pod")))
		}
	}
	return uids
}

func (t *Tree) ensure(group string, res *specs.LinuxResources) error {
	if t.unified {
		made, err := cgroup2.NewManager(t.mount, group, cgroup2.ToResources(res))
		if err == nil {
			err = made.ToggleControllers(t.offered(), cgroup2.Enable)
		}
		if err != nil {
			return fmt.Errorf("make cgroup %s: %w", group, err)
		}
		return nil
	}
	if _, err := cgroup1.New(cgroup1.StaticPath(group), res); err != nil {
		return fmt.Errorf("make cgroup %s: %w", group, err)
	}
	return nil
}

// offered are the controllers that groups are counted and bounded by, of those the machine has. A group is only counted
// from when the groups above pass the controller on, which the bounds themselves bring about only where there are some.
func (t *Tree) offered() []string {
	text, err := os.ReadFile(filepath.Join(t.mount, "cgroup.controllers"))
	if err != nil {
		return nil // what bounds need is asked for with them, and said if it is missing
	}
	return slices.DeleteFunc(strings.Fields(string(text)), func(name string) bool {
		return !slices.Contains([]string{"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}, name)
	})
}

// remove deletes the group's folder in every hierarchy. It is done by hand: the library's own deletion moves on only
// after sleeping when a dying container still holds the folder, and the caller tries again anyway.
func (t *Tree) remove(group string) error {
	if t.unified {
		return removeTree(filepath.Join(t.mount, group))
	}
	hierarchies, err := os.ReadDir(t.mount)
	if err != nil {
		return fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var errs []error
	for _, h := range hierarchies {
		errs = append(errs, removeTree(filepath.Join(t.mount, h.Name(), group)))
	}
	return errors.Join(errs...)
}

// removeTree removes a folder of folders from the leaves up; the files in a cgroup's folder go with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look into cgroup %s: %w", dir, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = os.Remove(dir)
	if errors.Is(err, syscall.EBUSY) {
		// Whoever removes a group has stopped all that belongs there. What is left is a container that was being made
		// when its runc was killed: no record names it, so nobody else will ever stop it.
		return errors.Join(fmt.Errorf("remove cgroup: %w", err), killAll(dir))
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	return nil
}

// killAll ends the processes of one group; they are gone a moment later, not on return.
func killAll(dir string) error {
	// v2 kills them all at once (5.14), however fast they multiply.
	if kill, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0); err == nil {
		_, err = kill.WriteString("1")
		return errors.Join(err, kill.Close())
	}
	// Under v1 a frozen process does not even die. Other hierarchies and v2, where it does, have no such file.
	err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("thaw cgroup: %w", err)
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list processes of cgroup: %w", err)
	}
	for _, field := range strings.Fields(string(procs)) {
		pid, err := strconv.Atoi(field)
		if err != nil || pid <= 0 { // 0: a process of another pid namespace, not ours to name
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill process %d of cgroup %s: %w", pid, dir, err)
		}
	}
	return nil
}

const (
	minShares = 2
	maxShares = 262144
	minQuota  = 1000 // microseconds; the kernel takes no less
	period    = 100000
)

// Shares is the weight of so many thousandths of a CPU.
func Shares(milli int64) int64 {
	return min(max(milli*1024/1000, minShares), maxShares)
}

// Quota is how long, of each period, so many thousandths of a CPU may run; no limit is -1.
func Quota(milli int64) (quota, per int64) {
	if milli == 0 {
		return -1, period
	}
	return max(milli*period/1000, minQuota), period
}

// PodResources are the bounds of a pod's own group: what its containers may use together.
func PodResources(pod *corev1.Pod) *specs.LinuxResources {
	requests := podresources.PodRequests(pod, podresources.PodResourcesOptions{})
	limits := podresources.PodLimits(pod, podresources.PodResourcesOptions{})
	shares := uint64(Shares(requests.Cpu().MilliValue()))
	res := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}
	if everyContainerLimits(pod, corev1.ResourceCPU) {
		quota, per := Quota(limits.Cpu().MilliValue())
		p := uint64(per)
		res.CPU.Quota, res.CPU.Period = &quota, &p
	}
	if everyContainerLimits(pod, corev1.ResourceMemory) {
		limit := limits.Memory().Value()
		res.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	return res
}

// everyContainerLimits: one container without a limit makes the sum meaningless.
func everyContainerLimits(pod *corev1.Pod, name corev1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if q, ok := list[i].Resources.Limits[name]; !ok || q.IsZero() {
				return false
			}
		}
	}
	return len(pod.Spec.Containers) > 0
}

// QOS is the pod's quality-of-service class: what the API server has said, or what it would say.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	any, guaranteed := false, true
	lists := [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers}
	if podresources.IsPodLevelResourcesSet(pod) { // they stand for all containers' (KEP-2837)
		lists = [][]corev1.Container{{{Resources: *pod.Spec.Resources}}}
	}
	for _, list := range lists {
		for i := range list {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				request, limit := list[i].Resources.Requests[name], list[i].Resources.Limits[name]
				any = any || !request.IsZero() || !limit.IsZero()
				if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
					guaranteed = false
				}
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

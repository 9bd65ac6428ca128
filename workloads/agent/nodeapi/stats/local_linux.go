package stats

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// size of a folder.
type size struct {
	bytes, inodes uint64
	at            time.Time
}

// measure counts what lies in a folder on its own filesystem.
func measure(ctx context.Context, dir string, now time.Time) (size, bool) {
	made := size{at: now}
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil // what goes while it is counted takes no room
		}
		if info, err := entry.Info(); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				made.bytes += uint64(s.Blocks) * 512
				made.inodes++
			}
		}
		return nil
	})
	return made, err == nil && made.inodes > 0
}

// Volumes are those of a pod, in its order, but for what the machine itself has (hostPath), which is counted for nobody.
func (c *Collector) Volumes(ctx context.Context, pod *corev1.Pod, now time.Time) []statsapi.VolumeStats {
	if pod == nil || c.Paths == nil {
		return nil
	}
	paths := c.Paths(pod.UID)
	found := make([]*statsapi.FsStats, len(pod.Spec.Volumes))
	var group sync.WaitGroup // some wait for others' servers
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path := paths[v.Name]
		if path == "" || v.HostPath != nil {
			continue
		}
		group.Go(func() {
			found[i], _ = c.volumes.of(ctx, path, now, func(ctx context.Context) (*statsapi.FsStats, bool) {
				disk := c.volume(ctx, pod.UID, path, now)
				return disk, disk != nil
			})
		})
	}
	group.Wait()
	var out []statsapi.VolumeStats
	for i, disk := range found {
		if disk != nil {
			v := &pod.Spec.Volumes[i]
			out = append(out, statsapi.VolumeStats{FsStats: *disk, Name: v.Name, PVCRef: claimOf(pod, v)})
		}
	}
	return out
}

// claimOf is the claim behind a volume.
func claimOf(pod *corev1.Pod, v *corev1.Volume) *statsapi.PVCReference {
	switch {
	case v.PersistentVolumeClaim != nil:
		return &statsapi.PVCReference{Name: v.PersistentVolumeClaim.ClaimName, Namespace: pod.Namespace}
	case v.Ephemeral != nil:
		return &statsapi.PVCReference{Name: pod.Name + "-" + v.Name, Namespace: pod.Namespace}
	}
	return nil
}

// volume asks its driver, and else its filesystem. One that is but a folder on the node's disk is counted, if it is in a
// folder for volumes: of anything else, such as a path of the machine's behind a claim, nobody knows how much it is.
func (c *Collector) volume(ctx context.Context, pod types.UID, path string, now time.Time) *statsapi.FsStats {
	if c.Drivers != nil {
		disk, err := c.Drivers.Usage(ctx, pod, path)
		if disk != nil || err != nil {
			return disk
		}
	}
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return nil
	}
	disk := readDisk(path, now)
	ours := slices.ContainsFunc(c.VolumeRoots, func(root string) bool { return strings.HasPrefix(path, root+"/") })
	if disk == nil || !ours || device(path) != device(filepath.Dir(path)) {
		return disk
	}
	s, ok := measure(ctx, path, now)
	if !ok {
		return nil
	}
	disk.Time, disk.UsedBytes, disk.InodesUsed = metav1.NewTime(s.at), &s.bytes, &s.inodes
	return disk
}

func device(path string) uint64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return uint64(s.Dev)
}

// addLocal tells what else of the node's disk a pod uses: its volumes there, and its containers' logs.
func (c *Collector) addLocal(ctx context.Context, stats *statsapi.PodStats, pod *corev1.Pod, disk *statsapi.FsStats, now time.Time) {
	stats.VolumeStats = c.Volumes(ctx, pod, now)
	if disk == nil || stats.EphemeralStorage == nil {
		return
	}
	bytes, inodes := stats.EphemeralStorage.UsedBytes, stats.EphemeralStorage.InodesUsed
	home := filepath.Join(c.LogRoot, strings.Join([]string{stats.PodRef.Namespace, stats.PodRef.Name, stats.PodRef.UID}, "_"))
	for i := range stats.Containers {
		dir := filepath.Join(home, stats.Containers[i].Name)
		s, ok := c.logs.of(ctx, dir, now, func(ctx context.Context) (size, bool) { return measure(ctx, dir, now) })
		if !ok {
			continue
		}
		stats.Containers[i].Logs = &statsapi.FsStats{
			Time: metav1.NewTime(s.at), UsedBytes: &s.bytes, InodesUsed: &s.inodes, AvailableBytes: disk.AvailableBytes,
			CapacityBytes: disk.CapacityBytes, InodesFree: disk.InodesFree, Inodes: disk.Inodes,
		}
		*bytes, *inodes = *bytes+s.bytes, *inodes+s.inodes
	}
	for i := range stats.VolumeStats {
		v := &stats.VolumeStats[i]
		if local(pod, v.Name) && v.UsedBytes != nil && v.InodesUsed != nil {
			*bytes, *inodes = *bytes+*v.UsedBytes, *inodes+*v.InodesUsed
		}
	}
}

// local says whether a volume takes room on the node's disk that ends with the pod.
func local(pod *corev1.Pod, name string) bool {
	if pod == nil {
		return false
	}
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.Name == name {
			return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault
		}
	}
	return false
}

// rates turns counters of CPU time into use, by those of the question before.
type rates struct {
	mu   sync.Mutex
	last map[string]point
}

type point struct {
	at    time.Time
	total uint64
}

// Rates are of at least a second, and of ten minutes at most.
const (
	shortest = time.Second
	longest  = 10 * time.Minute
)

// add fills in how many billionths of a core are used now. What was not known at the last question keeps what the runtime
// says, if it says anything.
func (r *rates) add(summary *statsapi.Summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[string]point{}
	one := func(key string, cpu *statsapi.CPUStats) {
		if cpu == nil || cpu.UsageCoreNanoSeconds == nil {
			return
		}
		now := point{cpu.Time.Time, *cpu.UsageCoreNanoSeconds}
		next[key] = now
		then, known := r.last[key]
		window := now.at.Sub(then.at)
		switch {
		case !known || window < 0 || window > longest || now.total < then.total:
		case window < shortest:
			next[key] = then // a later one is compared with it
		default:
			used := uint64(float64(now.total-then.total) / window.Seconds())
			cpu.UsageNanoCores = &used
		}
	}
	one("", summary.Node.CPU)
	for i := range summary.Pods {
		pod := &summary.Pods[i]
		one(pod.PodRef.UID, pod.CPU)
		for j := range pod.Containers {
			c := &pod.Containers[j]
			one(pod.PodRef.UID+"/"+c.Name+"/"+c.StartTime.String(), c.CPU)
		}
	}
	r.last = next
}

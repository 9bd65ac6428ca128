package stats

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// counted is how long the size of a folder is remembered: counting one means looking at every file in it.
const counted = time.Minute

// folders remembers sizes of folders, while somebody asks for them.
type folders struct {
	mu    sync.Mutex
	sizes map[string]size
}

type size struct {
	bytes, inodes uint64
	at            time.Time
}

// of counts what lies in a folder on its own filesystem.
func (f *folders) of(ctx context.Context, dir string, now time.Time) (size, bool) {
	f.mu.Lock()
	known, found := f.sizes[dir]
	f.mu.Unlock()
	if found && now.Sub(known.at).Abs() < counted {
		return known, true
	}
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
	if err != nil || made.inodes == 0 {
		return size{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, s := range f.sizes {
		if now.Sub(s.at).Abs() >= counted {
			delete(f.sizes, path)
		}
	}
	if f.sizes == nil {
		f.sizes = map[string]size{}
	}
	f.sizes[dir] = made
	return made, true
}

// volumes are those of a pod that lie in its folder: what the machine itself has (hostPath) is not counted for anybody.
func (c *Collector) volumes(ctx context.Context, pod *corev1.Pod, uid types.UID, now time.Time) []statsapi.VolumeStats {
	mounted, err := filepath.Glob(filepath.Join(c.VolumeRoot, string(uid), "volumes", "*", "*"))
	if err != nil {
		return nil
	}
	var out []statsapi.VolumeStats
	for _, dir := range mounted {
		disk := c.volume(ctx, dir, now)
		if disk == nil {
			continue
		}
		v := statsapi.VolumeStats{FsStats: *disk, Name: filepath.Base(dir)}
		if pod != nil {
			for i := range pod.Spec.Volumes {
				if claim := pod.Spec.Volumes[i].PersistentVolumeClaim; claim != nil && pod.Spec.Volumes[i].Name == v.Name {
					v.PVCRef = &statsapi.PVCReference{Name: claim.ClaimName, Namespace: pod.Namespace}
				}
			}
		}
		out = append(out, v)
	}
	return out
}

// volume asks the filesystem if the volume is one of its own, and counts otherwise.
func (c *Collector) volume(ctx context.Context, dir string, now time.Time) *statsapi.FsStats {
	disk := readDisk(dir, now)
	if disk == nil || device(dir) != device(filepath.Dir(dir)) {
		return disk
	}
	s, ok := c.folders.of(ctx, dir, now)
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
	stats.VolumeStats = c.volumes(ctx, pod, types.UID(stats.PodRef.UID), now)
	if disk == nil || stats.EphemeralStorage == nil {
		return
	}
	bytes, inodes := stats.EphemeralStorage.UsedBytes, stats.EphemeralStorage.InodesUsed
	home := filepath.Join(c.LogRoot, strings.Join([]string{stats.PodRef.Namespace, stats.PodRef.Name, stats.PodRef.UID}, "_"))
	for i := range stats.Containers {
		s, ok := c.folders.of(ctx, filepath.Join(home, stats.Containers[i].Name), now)
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

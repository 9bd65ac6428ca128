package stats

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestVolumesAndLogsOfAPod(t *testing.T) {
	dir := t.TempDir()
	for path, bytes := range map[string]int{
		"pods/u/volumes/kubernetes.io~empty-dir/cache/file": 8192, "volumes/pvc-1/file": 4096, "log/shop_web_u/app/0.log": 12288,
	} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, bytes), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		{Name: "machine", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}},
		{Name: "elsewhere", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "other"}}},
		{Name: "disk", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		{Name: "unmounted", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}}}
	c := &Collector{
		VolumeRoots: []string{filepath.Join(dir, "pods"), filepath.Join(dir, "volumes")}, LogRoot: filepath.Join(dir, "log"),
		Paths: func(types.UID) map[string]string {
			return map[string]string{
				"cache": filepath.Join(dir, "pods/u/volumes/kubernetes.io~empty-dir/cache"), "data": filepath.Join(dir, "volumes/pvc-1"),
				"machine": "/", "elsewhere": dir, "disk": "/disk",
			}
		},
		Drivers: driver{"/disk": 77},
	}
	disk := readDisk(dir, now)
	stats := &statsapi.PodStats{PodRef: statsapi.PodReference{Namespace: "shop", Name: "web", UID: "u"}, Containers: []statsapi.ContainerStats{{Name: "app"}, {Name: "silent"}}}
	addDisk(stats, disk)
	c.addLocal(t.Context(), stats, pod, disk, now)
	if len(stats.VolumeStats) != 4 {
		t.Fatalf("volumes: %+v, want all four that are mounted and not the machine's", stats.VolumeStats)
	}
	cache, data := stats.VolumeStats[0], stats.VolumeStats[1]
	if whole := stats.VolumeStats[2]; whole.Name != "elsewhere" || *whole.UsedBytes != *disk.UsedBytes {
		t.Errorf("a claim's path on the machine: %+v, want what its filesystem has", whole)
	}
	if d := stats.VolumeStats[3]; d.Name != "disk" || *d.UsedBytes != 77 || d.PVCRef == nil || d.PVCRef.Name != "web-disk" {
		t.Errorf("a driver's volume: %+v, want what the driver says", d)
	}
	if cache.Name != "cache" || *cache.UsedBytes < 8192 || *cache.InodesUsed != 2 || cache.PVCRef != nil {
		t.Errorf("cache: %+v", cache)
	}
	if data.Name != "data" || data.PVCRef == nil || data.PVCRef.Name != "claim" || data.PVCRef.Namespace != "shop" {
		t.Errorf("data: %+v", data)
	}
	logs := stats.Containers[0].Logs
	if logs == nil || *logs.UsedBytes < 12288 || stats.Containers[1].Logs != nil {
		t.Errorf("logs: %+v", stats.Containers)
	}
	if got := *stats.EphemeralStorage.UsedBytes; got != *cache.UsedBytes+*logs.UsedBytes {
		t.Errorf("ephemeral storage = %d, want the cache and the logs, not the claim", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "pods/u/volumes/kubernetes.io~empty-dir/cache/more"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again := c.Volumes(t.Context(), pod, now.Add(counted/2)); *again[0].InodesUsed != 2 {
		t.Error("it was counted again within a minute")
	}
	if again := c.Volumes(t.Context(), pod, now.Add(share*counted)); *again[0].InodesUsed != 3 {
		t.Error("it was not counted again after the longest time an answer holds")
	}
}

// driver has volumes by their paths.
type driver map[string]uint64

func (d driver) Usage(_ context.Context, _ types.UID, path string) (*statsapi.FsStats, error) {
	used, found := d[path]
	if !found {
		return nil, nil
	}
	return &statsapi.FsStats{UsedBytes: &used}, nil
}

func TestNobodyWaitsForWhoNeverAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &remembered[int]{}
		answered := make(chan int)
		asked := 0
		ask := func(context.Context) (int, bool) { asked++; return <-answered, true }
		if _, found := r.of(t.Context(), "a", time.Now(), ask); found {
			t.Error("there is an answer that nobody gave")
		}
		if _, found := r.of(t.Context(), "a", time.Now(), ask); found || asked != 1 {
			t.Errorf("asked %d times while the first question is open", asked)
		}
		answered <- 1
		synctest.Wait()
		if got, found := r.of(t.Context(), "a", time.Now(), ask); !found || got != 1 || asked != 1 {
			t.Errorf("of() = %d, %v, asked %d times; want the answer that came late", got, found, asked)
		}
		time.Sleep(share * slow * 4) // it took a while, so it holds for longer than a minute
		go func() { answered <- 2 }()
		if got, _ := r.of(t.Context(), "a", time.Now(), ask); got != 2 || asked != 2 {
			t.Errorf("of() = %d, asked %d times; want it asked again", got, asked)
		}
	})
}

func TestRatesComeFromTheQuestionBefore(t *testing.T) {
	ask := func(r *rates, after time.Duration, total uint64) *uint64 {
		s := &statsapi.Summary{Node: statsapi.NodeStats{CPU: &statsapi.CPUStats{Time: metav1.NewTime(now.Add(after)), UsageCoreNanoSeconds: &total}}}
		r.add(s)
		return s.Node.CPU.UsageNanoCores
	}
	r := &rates{}
	if got := ask(r, 0, 0); got != nil {
		t.Errorf("the first question is answered with %d", *got)
	}
	if got := ask(r, 500*time.Millisecond, 1); got != nil {
		t.Errorf("after half a second the answer is %d", *got)
	}
	if got := ask(r, 2*time.Second, 1e9); got == nil || *got != 5e8 {
		t.Errorf("after two seconds the answer is %v, want half a core since the first question", got)
	}
	if got := ask(r, time.Hour, 2e9); got != nil {
		t.Errorf("after an hour the answer is %d", *got)
	}
	if got := ask(r, time.Hour+time.Minute, 1e9); got != nil {
		t.Errorf("a counter that began again is answered with %d", *got)
	}
	if got := ask(r, time.Minute, 2e9); got != nil {
		t.Errorf("a clock that was set back is answered with %d", *got)
	}
}

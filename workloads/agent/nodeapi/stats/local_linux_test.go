package stats

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func TestVolumesAndLogsOfAPod(t *testing.T) {
	dir := t.TempDir()
	for path, bytes := range map[string]int{
		"pods/u/volumes/kubernetes.io~empty-dir/cache/file": 8192, "pods/u/volumes/kubernetes.io~local/data/file": 4096, "log/shop_web_u/app/0.log": 12288,
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
	}}}
	c := &Collector{VolumeRoot: filepath.Join(dir, "pods"), LogRoot: filepath.Join(dir, "log")}
	disk := readDisk(dir, now)
	stats := &statsapi.PodStats{PodRef: statsapi.PodReference{Namespace: "shop", Name: "web", UID: "u"}, Containers: []statsapi.ContainerStats{{Name: "app"}, {Name: "silent"}}}
	addDisk(stats, disk)
	c.addLocal(t.Context(), stats, pod, disk, now)
	if len(stats.VolumeStats) != 2 {
		t.Fatalf("volumes: %+v, want both", stats.VolumeStats)
	}
	cache, data := stats.VolumeStats[0], stats.VolumeStats[1]
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
	if again := c.volumes(t.Context(), pod, "u", now.Add(counted/2)); *again[0].InodesUsed != 2 {
		t.Error("it was counted again within a minute")
	}
	if again := c.volumes(t.Context(), pod, "u", now.Add(counted)); *again[0].InodesUsed != 3 {
		t.Error("it was not counted again after a minute")
	}
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

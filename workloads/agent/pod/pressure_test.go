package pod

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/pressure"
)

// A keeper beside the real runtime ends the pod that is above its volume's limit, and leaves its neighbour alone.
func TestVolumeAboveItsLimit(t *testing.T) {
	m := newMachine(t)
	m.on(t)
	for _, name := range []string{"small", "greedy"} {
		pod := named(name, app("sleep"))
		pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{
			EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: ptr.To(resource.MustParse("1Mi"))},
		}}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
		m.create(pod)
		m.await(name, "ready", isReady)
	}
	file := filepath.Join(m.paths.Agent(), "pods", "uid-greedy", "volumes", "scratch", "file")
	if err := os.WriteFile(file, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	keeper := pressure.NewKeeper(pressure.Config{
		NodeName: nodeName, Gauge: pressure.NewGauge("/nowhere", func() string { return "/nowhere" }, pressure.Usual()), Pods: m.manager, Changed: func() {},
		Meter:  pressure.Meter{Groups: cgroup.New(m.cgroups), Runtime: m.runtime, LogRoot: m.paths.PodLogs()},
		Events: record.NewFakeRecorder(100), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	keeper.Pass(t.Context())
	got := m.await("greedy", "failed", hasPhase(corev1.PodFailed))
	if got.Status.Reason != "Evicted" || !strings.Contains(got.Status.Message, `Usage of EmptyDir volume "scratch" exceeds the limit "1Mi"`) {
		t.Errorf("status = %s: %s", got.Status.Reason, got.Status.Message)
	}
	m.await("small", "ready", isReady)
}

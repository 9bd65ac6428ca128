package csi

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/storage/tree"
)

const driverName = "disk.example"

// machine is a node with one driver, in a folder.
type machine struct {
	t      *testing.T
	folder string
	api    *fake.Clientset
	disk   *disk
	node   *Node
}

func newMachine(t *testing.T, about *storagev1.CSIDriver) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	folder, err := os.MkdirTemp("", "kc") // short: a socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, folder: folder, disk: &disk{can: []csiv1.NodeServiceCapability_RPC_Type{
		csiv1.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csiv1.NodeServiceCapability_RPC_EXPAND_VOLUME,
	}}}
	t.Cleanup(func() {
		if err := tree.Detach(folder); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(folder); err != nil {
			t.Error(err)
		}
	})
	m.api = fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", UID: "node-uid"}}, about)
	m.disk.start(t, filepath.Join(folder, "csi.sock"))
	m.restart()
	return m
}

// restart is what a new process does: nothing of the old one's memory is left.
func (m *machine) restart() {
	m.t.Helper()
	m.node = NewNode(Config{
		NodeName: "here", Folder: m.folder, Client: m.api, Log: slog.New(slog.NewTextHandler(m.t.Output(), nil)),
		Token: func(_ context.Context, pod *corev1.Pod, audience string, _ int64) (string, time.Time, error) {
			return pod.Name + "@" + audience, time.Unix(0, 0), nil
		},
	})
}

func (m *machine) register() {
	m.t.Helper()
	if err := m.node.Register(m.t.Context(), driverName, filepath.Join(m.folder, "csi.sock"), []string{"1.0.0"}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) mount(pod *corev1.Pod, v Volume) (string, error) {
	return m.node.Mount(m.t.Context(), pod, v, func(folder string) error { return os.Chown(folder, -1, int(*fsGroup(pod))) })
}

func (m *machine) mustMount(pod *corev1.Pod, v Volume) string {
	m.t.Helper()
	path, err := m.mount(pod, v)
	if err != nil {
		m.t.Fatal(err)
	}
	return path
}

func (m *machine) unmount(pod *corev1.Pod) {
	m.t.Helper()
	if err := m.node.Unmount(m.t.Context(), pod.UID); err != nil {
		m.t.Fatal(err)
	}
}

func podNamed(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name)}, Spec: corev1.PodSpec{ServiceAccountName: "till"}}
}

func about(change func(*storagev1.CSIDriverSpec)) *storagev1.CSIDriver {
	d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false)}}
	if change != nil {
		change(&d.Spec)
	}
	return d
}

func volume() Volume {
	return Volume{Name: "data", PV: &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv-1"},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: driverName, VolumeHandle: "vol/1", FSType: "ext4", VolumeAttributes: map[string]string{"kind": "fast"},
			}},
		},
	}}
}

func TestAVolumeIsStagedOnceForAllItsPods(t *testing.T) {
	m := newMachine(t, about(nil))
	m.register()
	node, err := m.api.StorageV1().CSINodes().Get(t.Context(), "here", metav1.GetOptions{})
	if err != nil || len(node.Spec.Drivers) != 1 || node.Spec.Drivers[0].NodeID != "id-here" || *node.Spec.Drivers[0].Allocatable.Count != 3 {
		t.Errorf("CSINode %+v, %v", node, err)
	}
	first, second := podNamed("first"), podNamed("second")
	first.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To(int64(2000))}
	at := m.mustMount(first, volume())
	if err := os.WriteFile(filepath.Join(at, "note"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := m.mustMount(second, volume())
	if text, err := os.ReadFile(filepath.Join(other, "note")); string(text) != "kept" {
		t.Errorf("the second pod reads %q, %v", text, err)
	}
	m.unmount(first)
	if got := m.disk.count("unstage"); got != 0 {
		t.Errorf("a volume in use was unstaged %d times", got)
	}
	m.unmount(second)
	if got := []int{m.disk.count("stage"), m.disk.count("publish"), m.disk.count("unpublish"), m.disk.count("unstage")}; got[0] != 2 || got[1] != 2 || got[2] != 2 || got[3] != 1 {
		t.Errorf("calls: stage, publish, unpublish, unstage: %v", got)
	}
	if left := leftovers(t, m.folder); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	m.node.Deregister(driverName, filepath.Join(m.folder, "csi.sock"))
	if node, _ := m.api.StorageV1().CSINodes().Get(t.Context(), "here", metav1.GetOptions{}); len(node.Spec.Drivers) != 0 {
		t.Errorf("the driver went, and CSINode has %v", node.Spec.Drivers)
	}
}

func TestADriverSaysWhatIsInItsVolume(t *testing.T) {
	m := newMachine(t, about(nil))
	m.disk.can = append(m.disk.can, csiv1.NodeServiceCapability_RPC_GET_VOLUME_STATS)
	m.register()
	pod := podNamed("app")
	at := m.mustMount(pod, volume())
	got, err := m.node.Usage(t.Context(), pod.UID, at)
	if err != nil || *got.CapacityBytes != 100 || *got.UsedBytes != 30 || *got.AvailableBytes != 70 || *got.Inodes != 9 || *got.InodesUsed != 0 {
		t.Errorf("Usage() = %+v, %v", got, err)
	}
	if got, err := m.node.Usage(t.Context(), pod.UID, "/elsewhere"); got != nil || err != nil {
		t.Errorf("Usage() of what no driver has = %+v, %v", got, err)
	}
	m.disk.set("usage", true)
	if _, err := m.node.Usage(t.Context(), pod.UID, at); err == nil {
		t.Error("Usage() hides that the driver failed")
	}
	m.unmount(pod)
}

func TestACrashBetweenTwoCallsHeals(t *testing.T) {
	pod := podNamed("app")
	tests := map[string]struct {
		begin func(*machine)
		then  func(*machine)
	}{
		"between staging and publishing, and the pod is still wanted": {
			begin: func(m *machine) {
				m.disk.set("publish", true)
				if _, err := m.mount(pod, volume()); err == nil {
					m.t.Error("publishing did not fail")
				}
				m.disk.set("publish", false)
			},
			then: func(m *machine) { m.mustMount(pod, volume()); m.unmount(pod) },
		},
		"between staging and publishing, and the pod is gone": {
			begin: func(m *machine) {
				m.disk.set("publish", true)
				_, _ = m.mount(pod, volume())
			},
			then: func(m *machine) { m.unmount(pod) },
		},
		"after publishing: the running pod's volume is left alone": {
			begin: func(m *machine) { m.mustMount(pod, volume()) },
			then: func(m *machine) {
				m.mustMount(pod, volume())
				if got := m.disk.count("publish"); got != 1 {
					m.t.Errorf("published %d times", got)
				}
				m.unmount(pod)
			},
		},
		"between unpublishing and unstaging": {
			begin: func(m *machine) {
				m.mustMount(pod, volume())
				m.disk.set("unstage", true)
				m.unmount(pod)
				m.disk.set("unstage", false)
			},
			then: func(*machine) {}, // the driver's registration is enough
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t, about(nil))
			m.register()
			tc.begin(m)
			m.restart()
			m.register()
			tc.then(m)
			if left := leftovers(t, m.folder); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestAPodWaitsForItsVolumesAttachment(t *testing.T) {
	m := newMachine(t, about(func(s *storagev1.CSIDriverSpec) { s.AttachRequired = nil }))
	m.register()
	attachment := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: AttachmentName(driverName, "vol/1", "here")}}
	attachments := m.api.StorageV1().VolumeAttachments()
	if _, err := attachments.Create(t.Context(), attachment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod, done := podNamed("app"), make(chan error, 1)
	go func() {
		_, err := m.mount(pod, volume())
		done <- err
	}()
	attachment.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"path": "/dev/x"}}
	if _, err := attachments.UpdateStatus(t.Context(), attachment, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := m.disk.last.stage.PublishContext["path"]; got != "/dev/x" {
		t.Errorf("the driver was told %q", got)
	}
	if got := m.node.InUse(); len(got) != 1 || got[0] != "kubernetes.io/csi/disk.example^vol/1" {
		t.Errorf("in use: %v", got)
	}
	m.unmount(pod)
	if got := m.node.InUse(); len(got) != 0 {
		t.Errorf("in use after the end: %v", got)
	}
}

func TestAnInlineVolumeIsOfItsPodAlone(t *testing.T) {
	m := newMachine(t, about(func(s *storagev1.CSIDriverSpec) {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}
		s.PodInfoOnMount, s.RequiresRepublish = ptr.To(true), ptr.To(true)
		s.TokenRequests = []storagev1.TokenRequest{{Audience: "vault"}}
	}))
	m.register()
	pod, inline := podNamed("app"), Volume{Name: "keys", Inline: &corev1.CSIVolumeSource{Driver: driverName, VolumeAttributes: map[string]string{"a": "b"}}}
	m.mustMount(pod, inline)
	told := m.disk.last.publish.VolumeContext
	for key, want := range map[string]string{
		"a": "b", "csi.storage.k8s.io/pod.name": "app", "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/serviceAccount.name": "till",
		"csi.storage.k8s.io/serviceAccount.tokens": `{"vault":{"token":"app@vault","expirationTimestamp":"1970-01-01T00:00:00Z"}}`,
	} {
		if told[key] != want {
			t.Errorf("%s is %q; want %q", key, told[key], want)
		}
	}
	if err := m.node.Republish(t.Context(), pod, inline); err != nil || m.disk.count("publish") != 2 {
		t.Errorf("published %d times, %v; want 2", m.disk.count("publish"), err)
	}
	if _, err := m.mount(podNamed("other"), volume()); err == nil || !strings.Contains(err.Error(), "only supports") {
		t.Errorf("a claim's volume of a driver for inline ones: %v", err)
	}
	m.unmount(pod)
	if left := leftovers(t, m.folder); len(left) != 0 || m.disk.count("stage") != 0 || m.disk.count("unstage") != 0 {
		t.Errorf("left: %v; calls: %v", left, m.disk.calls)
	}
}

func TestABlockVolumeIsADevice(t *testing.T) {
	m := newMachine(t, about(nil))
	m.register()
	v, pod := volume(), podNamed("app")
	v.PV.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
	at := m.mustMount(pod, v)
	if info, err := os.Stat(at); err != nil || info.Mode()&os.ModeDevice == 0 {
		t.Errorf("%s is no device: %v, %v", at, info, err)
	}
	m.unmount(pod)
	if left := leftovers(t, m.folder); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAFilesystemGrowsWithItsClaim(t *testing.T) {
	m := newMachine(t, about(nil))
	m.register()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"},
		Status: corev1.PersistentVolumeClaimStatus{
			Capacity:   corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			Conditions: []corev1.PersistentVolumeClaimCondition{{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue}},
		},
	}
	if _, err := m.api.CoreV1().PersistentVolumeClaims("shop").Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	v, pod := volume(), podNamed("app")
	v.Claim = claim
	m.mustMount(pod, v)
	if m.disk.count("expand") != 0 {
		t.Error("a volume that has its size was expanded")
	}
	v.PV.Spec.Capacity[corev1.ResourceStorage] = resource.MustParse("2Gi")
	if err := m.node.Republish(t.Context(), pod, v); err != nil {
		t.Fatal(err)
	}
	after, err := m.api.CoreV1().PersistentVolumeClaims("shop").Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil || after.Status.Capacity.Storage().String() != "2Gi" || len(after.Status.Conditions) != 0 || m.disk.count("expand") != 1 {
		t.Errorf("claim %+v, %v; calls %v", after.Status, err, m.disk.calls)
	}
	m.unmount(pod)
}

func TestADriverThatIsNotThereIsNamed(t *testing.T) {
	m := newMachine(t, about(nil))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.node.driver(ctx, driverName, time.Hour); err == nil {
		t.Error("a driver that never registered was found")
	}
	if _, err := m.node.driver(t.Context(), driverName, 0); err == nil || !strings.Contains(err.Error(), "driver name disk.example not found") {
		t.Errorf("error: %v", err)
	}
	if err := m.node.Register(t.Context(), driverName, "/nowhere", []string{"0.3.0"}); err == nil || !strings.Contains(err.Error(), "1.x is needed") {
		t.Errorf("an old driver: %v", err)
	}
}

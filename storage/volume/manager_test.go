package volume

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"knarr.dev/knarr/storage/tree"
)

const uid types.UID = "6f2f0000-0000-4000-8000-000000000001"

// newManager works in a temporary folder with real mounts, all of which are gone when the test ends.
func newManager(t *testing.T, objects ...runtime.Object) (*Manager, *fake.Clientset) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	root := filepath.Join(t.TempDir(), "pods")
	t.Cleanup(func() {
		mounts, _ := tree.Mounts(root)
		for i := len(mounts) - 1; i >= 0; i-- {
			_ = unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	})
	client := fake.NewClientset(objects...)
	var issued atomic.Int64
	client.PrependReactor("create", "serviceaccounts", func(action clienttesting.Action) (bool, runtime.Object, error) {
		request := action.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenRequest).DeepCopy()
		request.Status.Token = fmt.Sprintf("token-%d-for-%s", issued.Add(1), request.Spec.BoundObjectRef.Name)
		request.Status.ExpirationTimestamp = metav1.NewTime(time.Now().Add(time.Duration(*request.Spec.ExpirationSeconds) * time.Second))
		return true, request, nil
	})
	return New(Config{Root: root, NodeName: "n1", Client: client}), client
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: uid, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Volumes: volumes, Containers: []corev1.Container{{Name: "c"}}},
	}
}

func configMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings", Namespace: "shop"}, Data: data}
}

var settings = corev1.Volume{Name: "settings", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
	LocalObjectReference: corev1.LocalObjectReference{Name: "settings"},
}}}

func mountAll(t *testing.T, m *Manager, pod *corev1.Pod) map[string]string {
	t.Helper()
	paths, err := m.Mount(t.Context(), pod)
	if err != nil {
		t.Fatalf("Mount() = %v", err)
	}
	return paths
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestConfigMapFilesFollowTheObject(t *testing.T) {
	m, client := newManager(t, configMap(map[string]string{"color": "red", "size": "1"}))
	folder := mountAll(t, m, podWith(settings))["settings"]
	open, err := os.Open(filepath.Join(folder, "..data"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if got := read(t, folder, "color"); got != "red" {
		t.Fatalf("color = %q, want red", got)
	}

	if err := client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("configmaps"), configMap(map[string]string{"color": "blue", "shape": "round"}), "shop"); err != nil {
		t.Fatal(err)
	}
	m.refresh(t.Context())
	if got := read(t, folder, "color"); got != "blue" {
		t.Errorf("color = %q after the refresh, want blue", got)
	}
	if got := read(t, folder, "shape"); got != "round" {
		t.Errorf("shape = %q after the refresh, want round", got)
	}
	if _, err := os.Lstat(filepath.Join(folder, "size")); !os.IsNotExist(err) {
		t.Errorf("size is still there after its key went: %v", err)
	}

	before := read(t, folder, "..data/color")
	link, _ := os.Readlink(filepath.Join(folder, "..data"))
	m.refresh(t.Context())
	if again, _ := os.Readlink(filepath.Join(folder, "..data")); again != link || before != "blue" {
		t.Errorf("a refresh without a change wrote anew: %s -> %s", link, again)
	}
	if err := client.Tracker().Delete(corev1.SchemeGroupVersion.WithResource("configmaps"), "shop", "settings"); err != nil {
		t.Fatal(err)
	}
	m.refresh(t.Context())
	if got := read(t, folder, "color"); got != "blue" {
		t.Errorf("color = %q after the object was deleted, want it kept", got)
	}
}

func TestUmaskAndModesDoNotMix(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	m, _ := newManager(t, configMap(map[string]string{"color": "red"}))
	volume := *settings.DeepCopy()
	volume.ConfigMap.Items = []corev1.KeyToPath{{Key: "color", Path: "deep/down/color", Mode: to[int32](0o604)}}
	pod := podWith(volume)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: to[int64](1234)}
	folder := mountAll(t, m, pod)["settings"]
	info, err := os.Stat(filepath.Join(folder, "deep/down/color"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o644 || !ownedAs(info, file{gid: 1234}) {
		t.Errorf("color is %v, want 0644 (0604 and the group may read) in group 1234", info.Mode())
	}
}

func TestSecretsAndTokensLieInMemory(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "key", Namespace: "shop"}, Data: map[string][]byte{"k": []byte("s3")}}
	m, _ := newManager(t, secret, configMap(map[string]string{"ca.crt": "CA"}))
	pod := podWith(
		corev1.Volume{Name: "key", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "key"}}},
		corev1.Volume{Name: "api", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: to[int64](3607)}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			}}},
		}}}},
	)
	paths := mountAll(t, m, pod)
	for name, content := range map[string]string{"key/k": "s3", "api/token": "token-1-for-web", "api/ca.crt": "CA", "api/labels": `app="web"`} {
		volume, path, _ := strings.Cut(name, "/")
		if got := read(t, paths[volume], path); got != content {
			t.Errorf("%s = %q, want %q", name, got, content)
		}
		var at unix.Statfs_t
		if err := unix.Statfs(paths[volume], &at); err != nil || at.Type != unix.TMPFS_MAGIC {
			t.Errorf("volume %s lies on filesystem %x (%v), want tmpfs", volume, at.Type, err)
		}
	}

	again := mountAll(t, m, pod)
	if diff := cmp.Diff(paths, again); diff != "" {
		t.Errorf("a second Mount() gave other paths:\n%s", diff)
	}
	if got := read(t, paths["api"], "token"); got != "token-1-for-web" {
		t.Errorf("a second Mount() asked for a new token: %q", got)
	}
	mounts, err := tree.Mounts(m.config.Root)
	if err != nil || len(mounts) != 2 {
		t.Errorf("mounts after two passes: %v (%v), want 2", mounts, err)
	}

	relabelled := pod.DeepCopy()
	relabelled.Labels["app"] = "shop"
	if err := m.Update(t.Context(), relabelled); err != nil {
		t.Fatal(err)
	}
	if got := read(t, paths["api"], "labels"); got != `app="shop"` {
		t.Errorf("labels = %q after the pod changed", got)
	}
}

func TestFailuresAreWordedForEvents(t *testing.T) {
	pvc := func(phase corev1.PersistentVolumeClaimPhase, volume string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "shop", UID: "c1"},
			Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volume},
			Status:     corev1.PersistentVolumeClaimStatus{Phase: phase},
		}
	}
	claim := corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}
	file := corev1.HostPathFile
	tests := map[string]struct {
		objects []runtime.Object
		volume  corev1.Volume
		want    string
	}{
		"a configmap that is not there": {volume: settings,
			want: `MountVolume.SetUp failed for volume "settings" : configmap "settings" not found: create it in namespace "shop", or make the volume's reference optional`},
		"a claim that is not bound": {volume: claim, objects: []runtime.Object{pvc(corev1.ClaimPending, "")},
			want: `MountVolume.SetUp failed for volume "data" : persistentvolumeclaim "data" is not bound to a volume yet (Pending): see its events for why`},
		"a claim whose volume is gone": {volume: claim, objects: []runtime.Object{pvc(corev1.ClaimBound, "pv1")},
			want: `MountVolume.SetUp failed for volume "data" : persistentvolume "pv1" of claim "data" not found: the claim is lost; restore the volume or make a new claim`},
		"a hostPath that is something else": {volume: corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/tmp", Type: &file}}},
			want: `MountVolume.SetUp failed for volume "host" : hostPath type check failed: /tmp is not a file`},
		"a kind nobody mounts here": {volume: corev1.Volume{Name: "lun", VolumeSource: corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{}}},
			want: `MountVolume.SetUp failed for volume "lun" : this kind of volume is not supported on this node: use a persistentVolumeClaim, hostPath, emptyDir, configMap, secret, downwardAPI, projected, csi or nfs volume`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m, _ := newManager(t, tc.objects...)
			if _, err := m.Mount(t.Context(), podWith(tc.volume)); message(err) != tc.want {
				t.Errorf("Mount() = %q\nwant      %q", message(err), tc.want)
			}
		})
	}
}

func TestUnmountKeepsWhatIsNotThePods(t *testing.T) {
	precious := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(mkdir(t, precious)+"/file", []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef:               &corev1.ObjectReference{UID: "c1"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: precious}},
	}}
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Namespace: "shop", UID: "c1"},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pv1"},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	m, _ := newManager(t, pv, claim)
	pod := podWith(
		corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: precious}}},
		corev1.Volume{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		corev1.Volume{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
	)
	paths := mountAll(t, m, pod)
	if paths["data"] != precious || paths["host"] != precious {
		t.Fatalf("Mount() = %v, want claim and hostPath at %s", paths, precious)
	}
	// A container left a link to the host's folder and a mount of it in its emptyDir.
	if err := os.Symlink(precious, filepath.Join(paths["disk"], "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(precious, mkdir(t, paths["disk"], "bound"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	busy, err := os.Create(filepath.Join(paths["memory"], "busy")) // an open file keeps a plain unmount from working
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()

	if uids, err := m.Pods(); err != nil || len(uids) != 1 || uids[0] != uid {
		t.Errorf("Pods() = %v, %v, want %s", uids, err, uid)
	}
	for range 2 { // the second time there is nothing left to do
		if err := m.Unmount(t.Context(), uid); err != nil {
			t.Fatalf("Unmount() = %v", err)
		}
	}
	if got := read(t, precious, "file"); got != "keep" {
		t.Errorf("file = %q, want it untouched", got)
	}
	if left, err := os.ReadDir(m.config.Root); err != nil || len(left) != 0 {
		t.Errorf("left after Unmount(): %v, %v", left, err)
	}
	if mounts, err := tree.Mounts(m.config.Root); err != nil || len(mounts) != 0 {
		t.Errorf("mounts left after Unmount(): %v, %v", mounts, err)
	}
}

func TestFilesStayWhenTheAPIIsAway(t *testing.T) {
	m, client := newManager(t, configMap(map[string]string{"color": "red"}))
	folder := mountAll(t, m, podWith(settings))["settings"]
	client.PrependReactor("get", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, fmt.Errorf("get: %w", context.DeadlineExceeded)
	})
	restarted := New(m.config) // a new process knows nothing but the disk
	if got := mountAll(t, restarted, podWith(settings))["settings"]; got != folder || read(t, got, "color") != "red" {
		t.Errorf("Mount() = %q, want the files that are there", got)
	}
}

func TestRunStops(t *testing.T) {
	m, _ := newManager(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := m.Run(ctx, cancel); err != nil {
		t.Errorf("Run() = %v, want nil", err)
	}
}

func mkdir(t *testing.T, path ...string) string {
	t.Helper()
	folder := filepath.Join(path...)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

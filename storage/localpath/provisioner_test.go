package localpath

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

// machines are nodes whose disks are folders of the test.
type machines struct {
	t    *testing.T
	down bool
	disk Folders
}

func (m *machines) ask(method, name string) (string, error) {
	if m.down {
		return "", errors.New("no route to host")
	}
	answer := httptest.NewRecorder()
	m.disk.ServeHTTP(answer, httptest.NewRequest(method, Prefix+name, nil))
	if answer.Code != http.StatusOK {
		return "", errors.New(answer.Body.String())
	}
	return filepath.Join(m.disk.Root, name), nil
}

func (m *machines) Make(_ context.Context, _, name string) (string, error) {
	return m.ask(http.MethodPut, name)
}

func (m *machines) Remove(_ context.Context, _, name string) error {
	_, err := m.ask(http.MethodDelete, name)
	return err
}

func TestAVolumesLife(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{corev1.LabelHostname: "host-a"}}}
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: ClassName}, Provisioner: Provisioner}
	c := fake.NewClientBuilder().WithObjects(node, class, claim()).WithStatusSubresource(&corev1.PersistentVolume{}).Build()
	disk := &machines{t: t, disk: Folders{Root: filepath.Join(t.TempDir(), "volumes")}, down: true}
	p := &provisioner{client: c, nodes: disk, events: record.NewFakeRecorder(100)}
	make := func() error {
		_, err := p.reconcileClaim(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "data"}})
		return err
	}
	end := func() error {
		_, err := p.reconcileVolume(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "pvc-1"}})
		return err
	}
	v := &corev1.PersistentVolume{}
	get := func() error { return c.Get(t.Context(), types.NamespacedName{Name: "pvc-1"}, v) }

	if err := make(); err == nil {
		t.Error("a node that does not answer is no error")
	}
	if err := get(); !apierrors.IsNotFound(err) {
		t.Fatalf("a volume without a folder was made: %v", err)
	}
	disk.down = false
	for range 2 { // the second pass changes nothing
		if err := make(); err != nil {
			t.Fatal(err)
		}
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}
	folder := v.Spec.Local.Path
	if err := os.WriteFile(filepath.Join(folder, "file"), nil, 0o600); err != nil {
		t.Errorf("the volume's folder cannot be written to: %v", err)
	}
	if err := volume.CheckNodeAffinity(v, node.Labels); err != nil || v.Spec.ClaimRef.UID != "1" {
		t.Errorf("the volume is not on its node for its claim: %v, %v", err, v.Spec.ClaimRef)
	}
	v.Status.Phase = corev1.VolumeBound
	if err := errors.Join(c.Status().Update(t.Context(), v), c.Delete(t.Context(), v), end(), get()); err != nil {
		t.Fatalf("a bound volume that is deleted by hand: %v", err)
	}
	v.Status.Phase = corev1.VolumeReleased
	if err := c.Status().Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	disk.down = true
	if err := end(); err == nil || get() != nil {
		t.Errorf("the volume went before its folder: %v", err)
	}
	disk.down = false
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) || !apierrors.IsNotFound(get()) {
		t.Errorf("left of the volume: %v, %v", err, get())
	}
	if err := end(); err != nil {
		t.Errorf("a volume that is gone: %v", err)
	}
}

func TestAClaimIsGivenBackWhenItsNodeIsGone(t *testing.T) {
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: ClassName}, Provisioner: Provisioner}
	c := fake.NewClientBuilder().WithObjects(class, claim()).Build()
	p := &provisioner{client: c, nodes: &machines{t: t}, events: record.NewFakeRecorder(100)}
	key := client.ObjectKeyFromObject(claim())
	if _, err := p.reconcileClaim(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	got := &corev1.PersistentVolumeClaim{}
	if err := c.Get(t.Context(), key, got); err != nil || got.Annotations[volume.AnnSelectedNode] != "" {
		t.Errorf("selected node is still %q (%v)", got.Annotations[volume.AnnSelectedNode], err)
	}
}

func TestFoldersRefuse(t *testing.T) {
	root := filepath.Join(t.TempDir(), "volumes")
	for name, request := range map[string]struct {
		method, path string
		want         int
	}{
		"a path upwards":    {http.MethodPut, Prefix + "../escape", http.StatusBadRequest},
		"the folder itself": {http.MethodDelete, Prefix, http.StatusBadRequest},
		"two names":         {http.MethodDelete, Prefix + "a/b", http.StatusBadRequest},
		"another verb":      {http.MethodGet, Prefix + "a", http.StatusMethodNotAllowed},
	} {
		t.Run(name, func(t *testing.T) {
			answer := httptest.NewRecorder()
			r := httptest.NewRequest(request.method, Prefix, nil)
			r.URL.Path = request.path
			Folders{Root: root}.ServeHTTP(answer, r)
			if answer.Code != request.want {
				t.Errorf("answer is %d, want %d: %s", answer.Code, request.want, answer.Body)
			}
		})
	}
}

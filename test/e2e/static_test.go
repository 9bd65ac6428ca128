package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestPodsOfTheMachinesOwn runs a pod because a file says so, and shows that the API has no say in it.
func TestPodsOfTheMachinesOwn(t *testing.T) {
	dir := t.TempDir()
	pods, config := filepath.Join(dir, "pods"), filepath.Join(dir, "kubelet.yaml")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	manifest := func(args ...string) string {
		own := pod("own", app(args...))
		own.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
		text, err := yaml.Marshal(own)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if err := os.Mkdir(pods, 0o700); err != nil {
		t.Fatal(err)
	}
	write(config, fmt.Sprintf("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: %s\nkubeReserved: {memory: 256Mi}\n", pods))
	write(filepath.Join(pods, "own.yaml"), manifest("serve"))
	c := start(t, "--kubelet-config", config)
	name := "own-" + c.server.Name()

	first := c.awaitPod(name, "to be ready", podReady)
	if first.Status.PodIP == "" || first.Annotations[corev1.MirrorPodAnnotationKey] == "" || len(first.OwnerReferences) != 1 || first.OwnerReferences[0].Kind != "Node" {
		t.Errorf("the mirror lacks an address, its annotation or its owner: %v %v %v", first.Status.PodIP, first.Annotations, first.OwnerReferences)
	}
	c.kubectl("exec", name, "--", "/app", "id")

	c.kubectl("delete", "pod", name)
	again := c.awaitPod(name, "to be shown again", podReady)
	if again.UID == first.UID || again.Status.ContainerStatuses[0].ContainerID != first.Status.ContainerStatuses[0].ContainerID {
		t.Errorf("after its mirror was deleted it is pod %s with %s, was %s with %s: want another mirror of the same container",
			again.UID, again.Status.ContainerStatuses[0].ContainerID, first.UID, first.Status.ContainerStatuses[0].ContainerID)
	}

	write(filepath.Join(pods, "own.yaml"), manifest("sleep"))
	c.awaitPod(name, "to be replaced", func(p *corev1.Pod) bool {
		return podReady(p) && p.Annotations[corev1.MirrorPodAnnotationKey] != first.Annotations[corev1.MirrorPodAnnotationKey]
	})

	if err := os.Remove(filepath.Join(pods, "own.yaml")); err != nil {
		t.Fatal(err)
	}
	c.eventually("the pod to be gone", func() error {
		list, err := c.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d pods are left", len(list.Items))
		}
		return err
	})
	if left := c.containerPids(); len(left) > 0 {
		t.Errorf("processes %v are left of a pod whose file is gone", left)
	}
}

// TestAServerWhoseDatastoreWaits: its datastore lacks its majority, so nothing of its control plane serves. Its node starts
// all the same what it was last told to run, and what its own files say.
func TestAServerWhoseDatastoreWaits(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "kubelet.yaml")
	own := pod("own", app("serve"))
	own.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	text, err := yaml.Marshal(own)
	if err != nil {
		t.Fatal(err)
	}
	pods := filepath.Join(dir, "pods")
	if err := os.Mkdir(pods, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		filepath.Join(pods, "own.yaml"): string(text),
		config:                          fmt.Sprintf("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nstaticPodPath: %s\n", pods),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := start(t, "--kubelet-config", config)
	told := pod("told", app("serve"))
	told.Spec.AutomountServiceAccountToken = new(bool) // a token is the API's to give
	c.create(told)
	c.awaitPod("told", "to be ready", podReady)
	c.awaitPod("own-"+c.server.Name(), "to be ready", podReady)
	want := len(c.containerPids())

	store, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(c.server.RunDir(), "etcd.sock")}, DialTimeout: patience})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.MemberAdd(t.Context(), []string{"https://192.0.2.99:2380"}) // that will never be seen
	_ = store.Close()                                                          // it has no majority to answer with
	if err != nil {
		t.Fatal(err)
	}
	if err := c.server.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if err := c.server.PowerOn(); err != nil {
		t.Fatal(err)
	}
	if err := c.knarr.Start(); err != nil {
		t.Fatal(err)
	}
	c.eventually("its pods to run again", func() error {
		if got := len(c.containerPids()); got < want {
			return fmt.Errorf("%d processes in pods' groups, want %d", got, want)
		}
		return nil
	})
	if _, err := c.tryConnect(); err == nil {
		t.Error("the API serves, so nothing was shown")
	}
}

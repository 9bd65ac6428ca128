package pod

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/workloads/agent/registries"
)

// TestImagesFromARegistry pulls with a pod's secret, refuses what it brought to a pod without one, and pulls through a
// mirror that knows the image by another name and wants this machine's own login.
func TestImagesFromARegistry(t *testing.T) {
	helpers := helpers(t)
	path, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	registry, err := images.NewRegistry(path)
	if err != nil {
		t.Fatal(err)
	}
	registry.Private = map[string]string{"private/app": "robot:right", "kept/app": "node:own"}
	server := httptest.NewServer(registry)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	dir, err := os.MkdirTemp("", "kn")
	if err != nil {
		t.Fatal(err)
	}
	m := machineIn(t, dir, fmt.Sprintf("/knarr-test-%d", os.Getpid()))
	t.Cleanup(m.remove)
	m.from = mirrored(t, dir, host)
	m.start(helpers)

	if _, err := m.api.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "login", UID: "login-uid"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths": {"` + host + `": {"username": "robot", "password": "right"}}}`)},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	running := func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodRunning }
	of := func(name, image string, secrets ...string) *corev1.Pod {
		pod := named(name, app("serve"))
		pod.Spec.Containers[0].Image, pod.Spec.Containers[0].ImagePullPolicy = image, corev1.PullIfNotPresent
		for _, s := range secrets {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: s})
		}
		return m.create(pod)
	}
	of("owner", host+"/private/app:v1", "login")
	m.await("owner", "running with its secret", running)
	of("stranger", host+"/private/app:v1")
	m.await("stranger", "refused the image it could not pull itself", func(p *corev1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == errPull
	})
	pulls := len(registry.Served())
	of("second", host+"/private/app:v1", "login")
	m.await("second", "running without another pull", running)
	if got := registry.Served()[pulls:]; len(got) != 0 {
		t.Errorf("a pod with the same secret pulled again: %v", got)
	}
	of("mirrored", "registry.invalid/team/app:v2")
	m.await("mirrored", "running from the mirror", running)
	if !slices.Contains(registry.Served(), "kept/app") {
		t.Errorf("the mirror served %v; want kept/app", registry.Served())
	}
	for _, name := range []string{"owner", "stranger", "second", "mirrored"} {
		m.deletePod(name, 0)
	}
	for _, name := range []string{"owner", "stranger", "second", "mirrored"} {
		m.await(name, "gone", isGone)
	}
}

func mirrored(t *testing.T, dir, host string) *registries.Registries {
	t.Helper()
	file := filepath.Join(dir, "registries.yaml")
	text := "mirrors: {registry.invalid: {endpoint: ['http://" + host + "'], rewrite: {'^team/': 'kept/'}}}\n" +
		"configs: {'" + host + "': {auth: {username: node, password: own}}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	from, err := registries.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return from
}

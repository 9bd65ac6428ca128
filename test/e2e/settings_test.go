package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/test/lab/lab"
)

// TestAdmissionIsTheOperators: a file and two lists of names say what is admitted. What is wrong with them stops the
// start, and the log says where it is.
func TestAdmissionIsTheOperators(t *testing.T) {
	l := lab.New(t)
	c := &cluster{t: t, lab: l, server: l.Machine("m1")}
	file := filepath.Join(t.TempDir(), "admission.yaml")
	write := func(levels string) {
		t.Helper()
		content := "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  configuration:\n" +
			"    apiVersion: pod-security.admission.config.k8s.io/v1\n    kind: PodSecurityConfiguration\n" + levels
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"--disable-node", "--admission-config", file}
	refused := func(words ...string) {
		t.Helper()
		before, _ := os.ReadFile(c.server.LogFile()) // none before the first start
		knarr := c.server.StartKnarr("server", args...)
		select {
		case <-knarr.Ended():
		case <-time.After(patience):
			t.Fatalf("knarr goes on with it: %v", knarr.Kill9())
		}
		if knarr.Err() == nil {
			t.Error("knarr ended well")
		}
		after, err := os.ReadFile(c.server.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range words {
			if !strings.Contains(string(after[len(before):]), word) {
				t.Errorf("the log does not say %q", word)
			}
		}
	}
	write("    defaults: {enforce: strict}\n")
	refused(file, "PodSecurity", "enforce: must be one of privileged, baseline, restricted")

	write("    defaults: {enforce: baseline}\n    exemptions: {namespaces: [free]}\n")
	args = append(args, "--disable-admission-plugins", "PodSecurityPolicy")
	refused(`disable-admission-plugins: there is no plugin "PodSecurityPolicy"`)

	args[len(args)-1] = "DefaultTolerationSeconds"
	c.knarr = c.server.StartKnarr("server", args...)
	c.connect()
	if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "free"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	host := pod("host", app("serve"))
	host.Spec.HostNetwork = true
	create := func(namespace string) (created *corev1.Pod, err error) {
		t.Helper()
		again := time.NewTicker(20 * time.Millisecond)
		defer again.Stop()
		for deadline := time.Now().Add(patience); ; <-again.C { // the namespace's account comes from a controller
			created, err = c.client.CoreV1().Pods(namespace).Create(t.Context(), host, metav1.CreateOptions{})
			if err == nil || !strings.Contains(err.Error(), "error looking up service account") || time.Now().After(deadline) {
				return created, err
			}
		}
	}
	if _, err := create("default"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest"`) {
		t.Errorf("a pod of the host's network where no label allows it: %v", err)
	}
	created, err := create("free")
	if err != nil {
		t.Fatalf("a pod in an exempt namespace: %v", err)
	}
	if len(created.Spec.Tolerations) > 0 {
		t.Errorf("DefaultTolerationSeconds is off, and a pod tolerates %v", created.Spec.Tolerations)
	}
}

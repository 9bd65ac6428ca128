package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// buildHelm compiles the real one, from the module in helm/.
func buildHelm(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "helm")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", program, "helm.sh/helm/v4/cmd/helm")
	build.Dir = "helm"
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build helm: %v\n%s", err, out)
	}
	return program
}

// TestHelm installs, tests, upgrades, rolls back and removes a chart with a bit of everything.
func TestHelm(t *testing.T) {
	program := buildHelm(t)
	c := start(t)
	home := t.TempDir()
	helm := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--kubeconfig", c.server.Kubeconfig()}, args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	const release, chart, limit = "quay", "testdata/chart", "--timeout=120s"

	c.expect(helm("install", release, chart, "--wait", limit), "STATUS: deployed", "REVISION: 1")
	ctx := t.Context()
	for _, hook := range []string{"pre-install", "post-install"} {
		job, err := c.client.BatchV1().Jobs("default").Get(ctx, release+"-"+hook, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if job.Status.Succeeded != 1 {
			t.Errorf("hook %s: %+v", hook, job.Status)
		}
	}
	if got := c.kubectl("get", "boat", release, "-o", "jsonpath={.spec.length}"); got != "16" {
		t.Errorf("the custom resource's default is %q", got)
	}
	c.expect(c.kubectl("get", "configmap", release, "-o", "jsonpath={.data}"), `"served-by":"v1\.37\.`, `"has-ingress":"true"`, `"namespace":"default"`)
	c.expect(c.kubectl("get", "ingress", release), `harbour\.example`)
	c.expect(c.kubectl("auth", "can-i", "list", "boats.harbour.knarr.dev", "--as=system:serviceaccount:default:"+release), "^yes")
	c.kubectl("wait", "--for=condition=Complete", "job/"+release+"-dredge", "--timeout=60s")
	c.expect(helm("test", release, limit, "--logs"), "Phase: +Succeeded", "hello from "+release+"-0")
	c.expect(helm("list"), release+`\s+default\s+1\s+.*deployed\s+harbour-1\.0\.0`)

	c.expect(helm("upgrade", release, chart, "--set=berths=2", "--wait", limit), "REVISION: 2")
	c.expect(c.kubectl("get", "statefulset", release), `2/2`)
	helm("rollback", release, "1", "--wait", limit)
	c.expect(helm("history", release), `(?m)^3\s.*Rollback to 1`)
	c.kubectl("wait", "--for=jsonpath={.spec.replicas}=1", "statefulset/"+release, "--timeout=60s")

	c.expect(helm("uninstall", release, "--wait", limit), `release "quay" uninstalled`)
	for _, kind := range []string{"statefulset", "service", "ingress", "role", "rolebinding", "serviceaccount", "boat", "configmap"} {
		if got := c.kubectl("get", kind, release, "--ignore-not-found", "-o", "name"); got != "" {
			t.Errorf("left behind: %s", got)
		}
	}
	c.expect(c.kubectl("get", "crd", "boats.harbour.knarr.dev"), "boats") // definitions stay, as helm promises
}

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/test/images"
)

// TestKubectl is what its users do all day, on one cluster.
func TestKubectl(t *testing.T) {
	c := start(t)
	for name, story := range map[string]func(*cluster){
		"apply --server-side tells owners apart":  appliesServerSide,
		"diff shows what apply would change":      diffs,
		"explain knows every kind":                explains,
		"wait waits":                              waits,
		"debug looks into a running pod":          debugsAPod,
		"debug copies a pod":                      debugsACopy,
		"debug looks at a node":                   debugsANode,
		"get speaks of kinds as people do":        getsTables,
		"auth says who and what":                  saysWhoMay,
		"create token makes one that works":       makesTokens,
		"events tell what happened":               tellsEvents,
		"cluster-info and api-resources describe": describesTheCluster,
		"rollout, scale, label, taint and drain":  operates,
	} {
		t.Run(name, func(t *testing.T) {
			own := *c
			own.t = t
			story(&own)
		})
	}
}

// given feeds kubectl a manifest.
func (c *cluster) given(manifest string, args ...string) (string, error) {
	c.t.Helper()
	cmd, err := c.kubectlCommand(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Stdin = strings.NewReader(manifest)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *cluster) expect(got string, want ...string) {
	c.t.Helper()
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(got) {
			c.t.Errorf("no %q in:\n%s", w, got)
		}
	}
}

func appliesServerSide(c *cluster) {
	settings := func(value string) string {
		return "{apiVersion: v1, kind: ConfigMap, metadata: {name: contested}, data: {key: " + value + "}}"
	}
	apply := func(manifest, manager string, more ...string) (string, error) {
		return c.given(manifest, append([]string{"apply", "--server-side", "--field-manager=" + manager, "-f", "-"}, more...)...)
	}
	if out, err := apply(settings("one"), "first"); err != nil || !strings.Contains(out, "configmap/contested serverside-applied") {
		c.t.Fatalf("%v: %s", err, out)
	}
	out, err := apply(settings("two"), "second")
	if err == nil {
		c.t.Error("the second owner took a field without asking")
	}
	c.expect(out, `Apply failed with 1 conflict: conflict with "first": \.data\.key`, "--force-conflicts")
	if out, err := apply(settings("two"), "second", "--force-conflicts"); err != nil {
		c.t.Errorf("by force: %v: %s", err, out)
	}
	if got := c.kubectl("get", "configmap", "contested", "-o", "jsonpath={.data.key}"); got != "two" {
		c.t.Errorf("by force it became %q", got)
	}
	if out, err := apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: contested}}", "second"); err != nil {
		c.t.Errorf("%v: %s", err, out)
	}
	if got := c.kubectl("get", "configmap", "contested", "-o", "jsonpath={.data}"); got != "" {
		c.t.Errorf("nobody wants the field any more, and it is still there: %q", got)
	}
	if out, err := c.given(settings("three"), "apply", "-f", "-"); err != nil {
		c.t.Errorf("client-side after server-side: %v: %s", err, out)
	}
	if out, err := c.given(settings("three"), "apply", "-f", "-"); err != nil || !strings.Contains(out, "unchanged") {
		c.t.Errorf("the same again: %v: %s", err, out)
	}
}

func diffs(c *cluster) {
	if _, err := exec.LookPath("diff"); err != nil {
		c.t.Skip("this machine has no diff, which kubectl diff runs")
	}
	manifest := "{apiVersion: v1, kind: ConfigMap, metadata: {name: compared}, data: {key: %s}}"
	if out, err := c.given(fmt.Sprintf(manifest, "old"), "apply", "-f", "-"); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	if out, err := c.given(fmt.Sprintf(manifest, "old"), "diff", "-f", "-"); err != nil || out != "" {
		c.t.Errorf("nothing to change, and diff says %v: %s", err, out)
	}
	for _, how := range [][]string{{"diff", "-f", "-"}, {"diff", "--server-side", "--force-conflicts", "-f", "-"}} {
		out, err := c.given(fmt.Sprintf(manifest, "new"), how...)
		var code *exec.ExitError
		if !errors.As(err, &code) || code.ExitCode() != 1 {
			c.t.Errorf("%v ended with %v; want exit code 1", how, err)
		}
		c.expect(out, `(?m)^-  key: old$`, `(?m)^\+  key: new$`)
	}
}

func explains(c *cluster) {
	c.expect(c.kubectl("explain", "pod.spec.containers.livenessProbe"), "KIND: +Pod", "VERSION: +v1", "FIELD: livenessProbe <Probe>", "DESCRIPTION", "initialDelaySeconds")
	c.expect(c.kubectl("explain", "deployment", "--recursive"), "GROUP: +apps", "template\t<PodTemplateSpec>", "maxSurge")
	c.expect(c.kubectl("explain", "hpa", "--api-version=autoscaling/v1"), "VERSION: +v1", "spec\t<HorizontalPodAutoscalerSpec>")
	if _, err := c.tryKubectl("explain", "pod.spec.nonsense"); err == nil || !strings.Contains(err.Error(), `field "nonsense" does not exist`) {
		c.t.Errorf("a field there is not: %v", err)
	}
	// Whatever is served is explained: a kind without a description would be one that no client can validate.
	for line := range strings.Lines(c.kubectl("api-resources", "--no-headers", "--verbs=list")) {
		columns := strings.Fields(line)
		kind, version := columns[0], columns[len(columns)-3]
		if _, err := c.tryKubectl("explain", kind, "--api-version="+version); err != nil {
			c.t.Errorf("explain %s of %s: %v", kind, version, err)
		}
	}
}

func waits(c *cluster) {
	created, err := c.kubectlCommand("wait", "--for=create", "pod/awaited", "--timeout=60s")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := created.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.create(pod("awaited", app("serve")))
	if err := created.Wait(); err != nil {
		c.t.Errorf("for its creation: %v", err)
	}
	c.expect(c.kubectl("wait", "--for=condition=Ready", "pod/awaited", "--timeout=60s"), "pod/awaited condition met")
	c.expect(c.kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod", "-l", "app=awaited", "--timeout=60s"), "pod/awaited condition met")
	if _, err := c.tryKubectl("wait", "--for=condition=Ready=false", "pod/awaited", "--timeout=1s"); err == nil || !strings.Contains(err.Error(), "timed out") {
		c.t.Errorf("for what does not come: %v", err)
	}
	gone, err := c.kubectlCommand("wait", "--for=delete", "pod/awaited", "--timeout=60s")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := gone.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.kubectl("delete", "pod", "awaited", "--wait=false")
	if err := gone.Wait(); err != nil {
		c.t.Errorf("for its end: %v", err)
	}
}

func debugsAPod(c *cluster) {
	c.create(pod("ailing", app("serve", "8080")))
	c.awaitPod("ailing", "to be ready", podReady)
	c.kubectl("debug", "ailing", "--image="+images.App, "--image-pull-policy=IfNotPresent", "--target=app", "--container=doctor", "--profile=general", "--", "/app", "read", "/proc/1/cmdline")
	c.awaitPod("ailing", "to have been looked at", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 1 && s[0].State.Terminated != nil
	})
	if got := c.kubectl("logs", "ailing", "-c", "doctor"); got != "/app\x00serve\x008080\x00" {
		c.t.Errorf("the first process of the target is %q", got)
	}
	c.expect(c.kubectl("describe", "pod", "ailing"), "Ephemeral Containers:", "doctor:")
}

func debugsACopy(c *cluster) {
	c.create(pod("original", app("exit", "1")))
	c.awaitPod("original", "to fail", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	c.kubectl("debug", "original", "--copy-to=copy", "--container=app", "--set-image=app="+images.AppV2, "--profile=general", "--attach=false", "--", "/app", "sleep")
	copied := c.awaitPod("copy", "to be ready", podReady)
	if got := copied.Spec.Containers[0].Image; got != images.AppV2 {
		c.t.Errorf("the copy runs %s", got)
	}
	c.expect(c.exec("copy", "env"), "APP_VERSION=v2")
}

func debugsANode(c *cluster) {
	said := c.kubectl("debug", "node/"+c.server.Name(), "--image="+images.App, "--profile=sysadmin", "--", "/app", "read", "/host/etc/hostname")
	c.expect(said, "Creating debugging pod node-debugger-"+c.server.Name())
	name := regexp.MustCompile(`node-debugger-\S+`).FindString(said)
	ended := c.awaitPod(name, "to end", podEnded)
	if !ended.Spec.HostPID || !ended.Spec.HostNetwork {
		c.t.Errorf("it is not in the node's namespaces: %+v", ended.Spec)
	}
	if got := strings.TrimSpace(c.kubectl("logs", name)); got != c.server.Name() {
		c.t.Errorf("the node's /etc/hostname is %q", got)
	}
	c.kubectl("delete", "pod", name, "--wait=false")
}

func getsTables(c *cluster) {
	c.deploy("shown", 1)
	c.awaitDeployment("shown", 1)
	c.expect(c.kubectl("get", "all", "-l", "app=shown"), "pod/shown-", "replicaset.apps/shown-")
	c.expect(c.kubectl("get", "deploy,svc"), `deployment.apps/shown\s+1/1\s+1\s+1\s+\d+s`, `service/shown\s+NodePort\s+10\.43\.\S+\s+<none>\s+80:\d+/TCP`)
	for _, name := range []string{"po", "pod", "pods"} {
		c.expect(c.kubectl("get", name, "-l", "app=shown", "-o", "name"), `^pod/shown-\S+\n$`)
	}
	c.expect(c.kubectl("get", "deploy", "shown", "-o", "wide"), `NAME\s+READY\s+UP-TO-DATE\s+AVAILABLE\s+AGE\s+CONTAINERS\s+IMAGES\s+SELECTOR`)
	c.expect(c.kubectl("get", "no", "-o", "wide"), c.server.Name()+`\s+Ready\s+\S+\s+\S+\s+v1\.37\S*\s+172\.30\.`, "containerd://")
	c.expect(c.kubectl("get", "ns", "-o", "custom-columns=N:.metadata.name,P:.status.phase", "--sort-by=.metadata.name"), `N\s+P\ndefault\s+Active\nkube-node-lease\s+Active`)
	c.expect(c.kubectl("get", "--raw", "/readyz?verbose"), `\[\+\]ping ok`, "readyz check passed")
	c.expect(c.kubectl("get", "pods", "-A", "--field-selector=spec.nodeName="+c.server.Name(), "--show-labels"), "app=shown")
	if _, err := c.tryKubectl("get", "nonsense"); err == nil || !strings.Contains(err.Error(), `the server doesn't have a resource type "nonsense"`) {
		c.t.Errorf("a kind there is not: %v", err)
	}
	if _, err := c.tryKubectl("get", "pod", "nobody"); err == nil || !strings.Contains(err.Error(), `Error from server (NotFound): pods "nobody" not found`) {
		c.t.Errorf("a pod there is not: %v", err)
	}
}

func saysWhoMay(c *cluster) {
	c.expect(c.kubectl("auth", "whoami"), `Username\s+kubernetes-admin`, `Groups\s+\[.*system:masters`)
	c.expect(c.kubectl("auth", "can-i", "delete", "nodes"), "^yes")
	out, err := c.tryKubectl("auth", "can-i", "list", "secrets", "--as=system:serviceaccount:default:default")
	if err == nil || !strings.HasPrefix(out, "no") {
		c.t.Errorf("the default account may list secrets: %q, %v", out, err)
	}
	c.expect(c.kubectl("auth", "can-i", "--list", "--as=system:serviceaccount:default:default", "--as-group=system:serviceaccounts", "--as-group=system:authenticated"),
		`selfsubjectaccessreviews\.authorization\.k8s\.io\s+\[\]\s+\[\]\s+\[create\]`)
	if out, err := c.given("{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: reader, namespace: default}, rules: [{apiGroups: [\"\"], resources: [pods], verbs: [get]}]}",
		"auth", "reconcile", "-f", "-"); err != nil || !strings.Contains(out, "role.rbac.authorization.k8s.io/reader reconciled") {
		c.t.Errorf("auth reconcile: %v: %s", err, out)
	}
}

func makesTokens(c *cluster) {
	token := strings.TrimSpace(c.kubectl("create", "token", "default", "--duration=10m"))
	if strings.Count(token, ".") != 2 {
		c.t.Fatalf("%q is no token", token)
	}
	// An empty configuration, or the administrator's certificate would speak instead of the token.
	nothing := filepath.Join(c.t.TempDir(), "kubeconfig")
	if err := os.WriteFile(nothing, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	out, err := c.tryKubectl("--kubeconfig="+nothing, "--server=https://"+c.server.IP().String()+":6443",
		"--certificate-authority="+filepath.Join(c.server.DataDir(), "pki", "ca.crt"), "--token="+token, "auth", "whoami")
	if err != nil {
		c.t.Fatal(err)
	}
	c.expect(out, `Username\s+system:serviceaccount:default:default`)
}

func tellsEvents(c *cluster) {
	c.create(pod("eventful", app("serve")))
	c.awaitPod("eventful", "to be ready", podReady)
	c.eventually("events tell of its start", func() error {
		out := c.kubectl("events", "--for=pod/eventful")
		for _, want := range []string{"Scheduled", "Created", "Started"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("no %s in:\n%s", want, out)
			}
		}
		return nil
	})
	c.expect(c.kubectl("get", "ev", "--field-selector=involvedObject.name=eventful,reason=Started"), `Normal\s+Started\s+pod/eventful`)
}

func describesTheCluster(c *cluster) {
	c.expect(c.kubectl("cluster-info"), "Kubernetes control plane.* is running at .*https://"+regexp.QuoteMeta(c.server.IP().String())+":6443")
	all := c.kubectl("api-resources")
	c.expect(all, `NAME\s+SHORTNAMES\s+APIVERSION\s+NAMESPACED\s+KIND`, `deployments\s+deploy\s+apps/v1\s+true\s+Deployment`, `nodes\s+no\s+v1\s+false\s+Node`)
	c.expect(c.kubectl("api-resources", "--namespaced=false", "--api-group=storage.k8s.io", "-o", "wide"), `storageclasses\s+sc\s+storage.k8s.io/v1\s+false\s+StorageClass\s+create,delete`)
	c.expect(c.kubectl("api-versions"), "(?m)^apps/v1$", "(?m)^v1$")
	c.expect(c.kubectl("version"), `Server Version: v1\.37\.`)
}

func operates(c *cluster) {
	c.deploy("steered", 1)
	c.awaitDeployment("steered", 1)
	c.kubectl("scale", "deployment/steered", "--replicas=2", "--current-replicas=1")
	c.kubectl("set", "image", "deployment/steered", "app="+images.AppV2)
	c.expect(c.kubectl("rollout", "status", "deployment/steered", "--timeout=60s"), "successfully rolled out")
	c.expect(c.kubectl("rollout", "history", "deployment/steered"), "REVISION", "(?m)^2 ")
	c.kubectl("rollout", "undo", "deployment/steered")
	c.kubectl("rollout", "status", "deployment/steered", "--timeout=60s")
	c.kubectl("rollout", "restart", "deployment/steered")
	c.expect(c.kubectl("rollout", "status", "deployment/steered", "--timeout=60s"), "successfully rolled out")
	c.kubectl("label", "deployment/steered", "course=north")
	c.kubectl("annotate", "deployment/steered", "course=north")
	c.expect(c.kubectl("patch", "deployment/steered", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"app","env":[{"name":"A","value":"b"}]}]}}}}`), "patched")
	c.expect(c.kubectl("autoscale", "deployment/steered", "--min=1", "--max=3", "--cpu=80%"), "autoscaled")
	c.kubectl("expose", "deployment/steered", "--name=steered-again", "--port=80", "--target-port=8080")
	c.kubectl("run", "single", "--image="+images.App, "--image-pull-policy=IfNotPresent", "--labels=app=single", "--", "sleep")
	c.awaitPod("single", "to be ready", podReady)

	node := c.server.Name()
	c.kubectl("taint", "node", node, "weather=storm:NoSchedule")
	c.kubectl("taint", "node", node, "weather-")
	c.expect(c.kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s", "--pod-selector=app=single"), "evicted", "drained")
	c.expect(c.kubectl("get", "node", node), "Ready,SchedulingDisabled")
	c.kubectl("uncordon", node)
	c.kubectl("delete", "deployment,service,hpa", "-l", "app=steered", "--ignore-not-found")
	c.kubectl("delete", "deployment/steered", "service/steered", "service/steered-again", "hpa/steered")
	if pods, err := c.client.CoreV1().Pods("default").List(c.t.Context(), metav1.ListOptions{LabelSelector: "app=single"}); err != nil || len(pods.Items) > 0 {
		c.t.Errorf("after the drain: %v, %v", pods.Items, err)
	}
}

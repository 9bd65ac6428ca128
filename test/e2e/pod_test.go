package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

func get(url string) (string, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

// TestPods shows what a pod is given and what becomes of it, on one cluster.
func TestPods(t *testing.T) {
	c := start(t)
	for name, story := range map[string]func(*cluster){
		"it reads its configuration":             readsItsConfiguration,
		"its containers share what a pod is":     containersShareAPod,
		"it is restarted as its policy says":     restartPolicies,
		"its probes decide":                      probesDecide,
		"it is given time to end":                timeToEnd,
		"kubectl looks into it":                  kubectlLooksIntoIt,
		"names are resolved":                     namesAreResolved,
		"its service account works":              serviceAccountWorks,
		"what cannot run says why":               cannotRun,
		"a namespace takes its pods with it":     namespaceTakesItsPods,
		"its resources are limits in the kernel": limitsInTheKernel,
		"its claim outlives it":                  claimOutlivesPods,
		"its users are not the machine's":        usersOfItsOwn,
		"it gets the device of a plugin":         pluginsDevice,
		"it gets the device of its claim":        claimsDevice,
		"knarr why explains it":                  whyExplains,
	} {
		t.Run(name, func(t *testing.T) {
			own := *c
			own.t = t
			story(&own)
		})
	}
}

// usersOfItsOwn: root in such a pod is nobody outside of it, and what it writes and reads is none the wiser.
func usersOfItsOwn(c *cluster) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "for-others"}, StringData: map[string]string{"password": "hunter3"}}
	if _, err := c.client.CoreV1().Secrets("default").Create(c.t.Context(), secret, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	container := app("serve")
	container.VolumeMounts = []corev1.VolumeMount{{Name: "secret", MountPath: "/secret"}, {Name: "scratch", MountPath: "/scratch"}}
	container.SecurityContext = &corev1.SecurityContext{ProcMount: new(corev1.UnmaskedProcMount)}
	p := pod("other-users", container)
	p.Spec.HostUsers = new(false)
	p.Spec.Volumes = []corev1.Volume{
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "for-others"}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	c.create(p)
	c.awaitPod(p.Name, "to be ready", podReady)
	if id := c.exec(p.Name, "id"); !strings.HasPrefix(id, "0 0 ") {
		c.t.Errorf("in the pod its user is %q, want root", id)
	}
	if ids := strings.Fields(c.exec(p.Name, "read", "/proc/self/uid_map")); len(ids) != 3 || ids[0] != "0" || ids[1] == "0" || ids[2] != "65536" {
		c.t.Errorf("the pod's users from 0 on are the machine's %v, want 65536 of its own", ids)
	}
	if got := c.exec(p.Name, "read", "/secret/password"); got != "hunter3" {
		c.t.Errorf("the secret holds %q", got)
	}
	c.exec(p.Name, "write", "/scratch/note", "kept")
	if got := c.exec(p.Name, "read", "/scratch/note", "/etc/hosts"); !strings.HasPrefix(got, "kept") || !strings.Contains(got, p.Name) {
		c.t.Errorf("emptyDir and hosts file hold %q", got)
	}
	if c.exec(p.Name, "read", "/proc/interrupts") == "" {
		c.t.Error("an unmasked /proc is masked")
	}
	c.kubectl("delete", "pod", p.Name)
	c.eventually("its user ids are given back", func() error {
		notes, err := filepath.Glob(filepath.Join(c.server.DataDir(), "agent", "pods", "*", "userns"))
		if err == nil && len(notes) > 0 {
			err = fmt.Errorf("%v are left", notes)
		}
		return err
	})
}

func readsItsConfiguration(c *cluster) {
	ctx := c.t.Context()
	core := c.client.CoreV1()
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "settings"}, Data: map[string]string{"colour": "red", "file.txt": "first\n"}}
	if _, err := core.ConfigMaps("default").Create(ctx, settings, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "secret"}, StringData: map[string]string{"password": "hunter2"}}
	if _, err := core.Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	container := app("serve")
	container.Env = []corev1.EnvVar{
		{Name: "COLOUR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}, Key: "colour"}}},
		{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "secret"}, Key: "password"}}},
		{Name: "ME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		{Name: "BOTH", Value: "$(COLOUR)-$(ME)"},
	}
	container.VolumeMounts = []corev1.VolumeMount{{Name: "all", MountPath: "/all"}, {Name: "secret", MountPath: "/secret"}, {Name: "scratch", MountPath: "/scratch"}}
	p := pod("configured", container)
	p.Spec.Volumes = []corev1.Volume{
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
		}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "secret"}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	c.create(p)
	c.awaitPod(p.Name, "to be ready", podReady)
	env := c.exec(p.Name, "env")
	for _, want := range []string{"COLOUR=red", "PASSWORD=hunter2", "ME=configured", "BOTH=red-configured", "KUBERNETES_SERVICE_HOST="} {
		if !strings.Contains(env, want) {
			c.t.Errorf("environment lacks %s:\n%s", want, env)
		}
	}
	for file, want := range map[string]string{"/all/file.txt": "first\n", "/secret/password": "hunter2", "/all/labels": `app="configured"`} {
		if got := c.exec(p.Name, "read", file); got != want {
			c.t.Errorf("%s holds %q; want %q", file, got, want)
		}
	}
	c.exec(p.Name, "write", "/scratch/note", "kept")
	if got := c.exec(p.Name, "read", "/scratch/note"); got != "kept" {
		c.t.Errorf("emptyDir holds %q; want kept", got)
	}
	c.kubectl("label", "pod", p.Name, "colour=red")
	c.eventually("the file of labels shows the new one", func() error {
		if got := c.exec(p.Name, "read", "/all/labels"); !strings.Contains(got, `colour="red"`) {
			return fmt.Errorf("it holds %q", got)
		}
		return nil
	})
	settings.Data["file.txt"] = "second\n"
	if _, err := core.ConfigMaps("default").Update(ctx, settings, metav1.UpdateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	// Volumes follow within about a minute, as the documentation of ConfigMaps promises.
	deadline := time.Now().Add(2 * patience)
	for got := ""; got != "second\n"; got = c.exec(p.Name, "read", "/all/file.txt") {
		if time.Now().After(deadline) {
			c.t.Fatalf("volume still holds %q", got)
		}
		<-time.After(time.Second)
	}
}

func containersShareAPod(c *cluster) {
	first, second := app("serve", "8080"), app("serve", "8081")
	second.Name = "second"
	for _, container := range []*corev1.Container{&first, &second} {
		container.VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	}
	prepare := app("write", "/shared/ready", "yes")
	prepare.Name = "prepare"
	prepare.VolumeMounts = first.VolumeMounts
	p := pod("pair", first, second)
	p.Spec.InitContainers = []corev1.Container{prepare}
	p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c.create(p)
	c.awaitPod(p.Name, "to be ready", podReady)
	if got := c.kubectl("exec", p.Name, "-c", "second", "--", "/app", "read", "/shared/ready"); got != "yes" {
		c.t.Errorf("second container reads %q; want what the init container wrote", got)
	}
	if got := c.kubectl("exec", p.Name, "-c", "app", "--", "/app", "get", "http://127.0.0.1:8081/"); !strings.Contains(got, "hello from pair") {
		c.t.Errorf("first container reaches the second by loopback: %q", got)
	}
}

func restartPolicies(c *cluster) {
	never := pod("never", app("exit", "3", "so long"))
	never.Spec.RestartPolicy = corev1.RestartPolicyNever
	c.create(never)
	ended := c.awaitPod("never", "to end", podEnded)
	state := ended.Status.ContainerStatuses[0].State.Terminated
	if ended.Status.Phase != corev1.PodFailed || state == nil || state.ExitCode != 3 || state.Message != "so long" || state.Reason != "Error" {
		c.t.Errorf("pod ended in %s with %+v; want Failed, exit code 3, its message", ended.Status.Phase, state)
	}
	onFailure := pod("on-failure", app("exit", "0"))
	onFailure.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	c.create(onFailure)
	if done := c.awaitPod("on-failure", "to end", podEnded); done.Status.Phase != corev1.PodSucceeded || done.Status.ContainerStatuses[0].RestartCount != 0 {
		c.t.Errorf("pod that succeeded is %s after %d restarts", done.Status.Phase, done.Status.ContainerStatuses[0].RestartCount)
	}
	c.create(pod("crashing", app("exit", "1")))
	c.awaitPod("crashing", "to back off", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount >= 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
}

func httpProbe(path string) corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8080)}}
}

func probesDecide(c *cluster) {
	live := app("serve")
	live.LivenessProbe = &corev1.Probe{ProbeHandler: httpProbe("/healthz"), PeriodSeconds: 1, FailureThreshold: 1}
	live.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1, FailureThreshold: 30}
	live.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "get", "http://127.0.0.1:8080/healthz"}}}, PeriodSeconds: 1}
	c.create(pod("live", live))
	ready := c.awaitPod("live", "to be ready", podReady)
	c.exec("live", "get", "http://127.0.0.1:8080/fail")
	again := c.awaitPod("live", "to be restarted by its liveness probe", func(p *corev1.Pod) bool {
		return p.Status.ContainerStatuses[0].RestartCount == 1 && podReady(p)
	})
	if before, after := ready.Status.ContainerStatuses[0].ContainerID, again.Status.ContainerStatuses[0].ContainerID; before == after {
		c.t.Errorf("container %s was not replaced", before)
	}
}

func timeToEnd(c *cluster) {
	polite := pod("polite", app("sleep"))
	grace := int64(30)
	polite.Spec.TerminationGracePeriodSeconds = &grace
	stubborn := pod("stubborn", app("stubborn"))
	grace2 := int64(2)
	stubborn.Spec.TerminationGracePeriodSeconds = &grace2
	for _, p := range []*corev1.Pod{polite, stubborn} {
		c.create(p)
		c.awaitPod(p.Name, "to be ready", podReady)
		if p.Name == "stubborn" { // a program that has only just begun dies of SIGTERM like any other
			c.eventually("it stops listening", func() error {
				out, err := c.tryKubectl("logs", "stubborn")
				if err == nil && !strings.Contains(out, "not going anywhere") {
					err = fmt.Errorf("it has said %q", out)
				}
				return err
			})
		}
		begin := time.Now()
		if err := c.client.CoreV1().Pods("default").Delete(c.t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			c.t.Fatal(err)
		}
		until(c.t, p.Name+" to be gone", c.named("pods", "default", p.Name), &corev1.Pod{}, func(e watch.EventType, _ *corev1.Pod) bool {
			return e == watch.Deleted || c.goneNow(p.Name)
		})
		took := time.Since(begin)
		switch {
		case p.Name == "polite" && took > 15*time.Second:
			c.t.Errorf("a pod that ends on SIGTERM took %s to go; its grace of 30 s was waited out", took)
		case p.Name == "stubborn" && took < 2*time.Second:
			c.t.Errorf("a pod that ignores SIGTERM was gone after %s; want its grace of 2 s first", took)
		}
	}
}

func (c *cluster) goneNow(pod string) bool {
	list, err := c.client.CoreV1().Pods("default").List(c.t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + pod})
	return err == nil && len(list.Items) == 0
}

func kubectlLooksIntoIt(c *cluster) {
	c.create(pod("looked-at", app("serve", "8080")))
	c.awaitPod("looked-at", "to be ready", podReady)
	if got := c.kubectl("logs", "looked-at"); got != "serving on 8080\n" {
		c.t.Errorf("logs: %q", got)
	}
	if got := c.kubectl("exec", "looked-at", "--", "/app", "echo", "aye", "aye"); got != "aye aye\n" {
		c.t.Errorf("exec: %q", got)
	}
	if _, err := c.tryKubectl("exec", "looked-at", "--", "/app", "exit", "7"); err == nil || !strings.Contains(err.Error(), "exit code 7") {
		c.t.Errorf("exec of a failing command: %v; want exit code 7", err)
	}
	cat, err := c.kubectlCommand("exec", "-i", "looked-at", "--", "/app", "cat")
	if err != nil {
		c.t.Fatal(err)
	}
	cat.Stdin = strings.NewReader("through and back")
	if out, err := cat.Output(); err != nil || string(out) != "through and back" {
		c.t.Errorf("exec -i cat: %q, %v", out, err)
	}
	table := c.kubectl("get", "pod", "looked-at", "-o", "wide")
	for _, want := range []string{"READY", "STATUS", "RESTARTS", "NODE", "1/1", "Running", c.server.Name()} {
		if !strings.Contains(table, want) {
			c.t.Errorf("get -o wide lacks %q:\n%s", want, table)
		}
	}
	if described := c.kubectl("describe", "pod", "looked-at"); !strings.Contains(described, "Scheduled") || !strings.Contains(described, "Started") {
		c.t.Errorf("describe shows no events:\n%s", described)
	}
	c.portForward("looked-at")
}

func (c *cluster) portForward(pod string) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	forward, err := c.kubectlCommand("port-forward", "pod/"+pod, ":8080")
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := forward.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := forward.Start(); err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = forward.Process.Kill(); _ = forward.Wait() }()
	go func() { <-ctx.Done(); _ = forward.Process.Kill() }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		c.t.Fatal("port-forward said nothing")
	}
	var port int
	if _, err := fmt.Sscanf(lines.Text(), "Forwarding from 127.0.0.1:%d -> 8080", &port); err != nil {
		c.t.Fatalf("port-forward said %q", lines.Text())
	}
	for range 3 { // more than one connection over one session
		got, err := get(fmt.Sprintf("http://127.0.0.1:%d/", port))
		if err != nil || !strings.Contains(got, "hello from "+pod) {
			c.t.Errorf("through port-forward: %q, %v", got, err)
		}
	}
}

func namesAreResolved(c *cluster) {
	c.create(pod("asker", app("sleep")))
	c.create(pod("named", app("serve")))
	c.awaitPod("asker", "to be ready", podReady)
	named := c.awaitPod("named", "to be ready", podReady)
	for name, clusterIP := range map[string]string{"named": "", "headless": corev1.ClusterIPNone} {
		_, err := c.client.CoreV1().Services("default").Create(c.t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{ClusterIP: clusterIP, Selector: map[string]string{"app": "named"}, Ports: []corev1.ServicePort{{Name: "http", Port: 8080}}},
		}, metav1.CreateOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	service, err := c.client.CoreV1().Services("default").Get(c.t.Context(), "named", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for name, want := range map[string]string{
		"named": service.Spec.ClusterIP, "named.default": service.Spec.ClusterIP, "named.default.svc.cluster.local": service.Spec.ClusterIP,
		"headless": named.Status.PodIP, "kubernetes.default": "10.43.0.1",
	} {
		c.eventually(name+" resolves", func() error {
			got, err := c.tryKubectl("exec", "asker", "--", "/app", "lookup", name)
			if err == nil && strings.TrimSpace(got) != want {
				err = fmt.Errorf("resolves to %q; want %s", got, want)
			}
			return err
		})
	}
	begin := time.Now()
	if out, err := c.tryKubectl("exec", "asker", "--", "/app", "lookup", "no.such.name.example"); err == nil {
		c.t.Errorf("a name nobody has resolves to %q", out)
	}
	if took := time.Since(begin); took > 4*time.Second {
		c.t.Errorf("a name nobody has took %s to fail; want an answer at once", took)
	}
}

func serviceAccountWorks(c *cluster) {
	c.create(pod("account", app("sleep")))
	c.awaitPod("account", "to be ready", podReady)
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount/"
	if got := c.exec("account", "read", dir+"namespace"); got != "default" {
		c.t.Errorf("namespace file holds %q", got)
	}
	if got := c.exec("account", "read", dir+"ca.crt"); !strings.Contains(got, "BEGIN CERTIFICATE") {
		c.t.Errorf("ca.crt holds %q", got)
	}
	token := c.exec("account", "read", dir+"token")
	cfg, err := c.restConfig()
	if err != nil {
		c.t.Fatal(err)
	}
	cfg = rest.AnonymousClientConfig(cfg)
	cfg.BearerToken = strings.TrimSpace(token)
	account, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	me, err := account.AuthenticationV1().SelfSubjectReviews().Create(c.t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatalf("ask with the pod's token: %v", err)
	}
	if got := me.Status.UserInfo.Username; got != "system:serviceaccount:default:default" {
		c.t.Errorf("the token's user is %q", got)
	}
	if _, err := account.CoreV1().Secrets("default").List(c.t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		c.t.Errorf("the default service account lists secrets: %v; want forbidden", err)
	}
}

func cannotRun(c *cluster) {
	missing := app("serve")
	missing.Image = "knarr.dev/test/missing:v1"
	c.create(pod("no-image", missing))
	c.awaitPod("no-image", "to say that its image is not to be had", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && (s[0].State.Waiting.Reason == "ErrImagePull" || s[0].State.Waiting.Reason == "ImagePullBackOff")
	})
	big := app("serve")
	big.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1000")}
	c.create(pod("too-big", big))
	refused := c.awaitPod("too-big", "to be refused", func(p *corev1.Pod) bool {
		return len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Reason == corev1.PodReasonUnschedulable
	})
	if got := refused.Status.Conditions[0].Message; !strings.Contains(got, "0/1 nodes are available: 1 Insufficient cpu") {
		c.t.Errorf("condition says %q", got)
	}
	unset := app("serve")
	unset.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "not-there"}}}}
	c.create(pod("unset", unset))
	c.awaitPod("unset", "to say what it lacks", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CreateContainerConfigError" && strings.Contains(s[0].State.Waiting.Message, "not-there")
	})
}

func namespaceTakesItsPods(c *cluster) {
	core := c.client.CoreV1()
	if _, err := core.Namespaces().Create(c.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "passing"}}, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	until(c.t, "the namespace's service account", c.named("serviceaccounts", "passing", "default"), &corev1.ServiceAccount{},
		func(watch.EventType, *corev1.ServiceAccount) bool { return true })
	if _, err := core.Pods("passing").Create(c.t.Context(), pod("guest", app("sleep")), metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.kubectl("-n", "passing", "wait", "--for=condition=Ready", "pod/guest", "--timeout=60s")
	c.kubectl("delete", "namespace", "passing", "--timeout=60s")
	if _, err := core.Pods("passing").Get(c.t.Context(), "guest", metav1.GetOptions{}); err == nil {
		c.t.Error("the pod outlived its namespace")
	}
}

func limitsInTheKernel(c *cluster) {
	limited := app("sleep")
	limited.Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("16Mi")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
	}
	c.create(pod("limited", limited))
	p := c.awaitPod("limited", "to be ready", podReady)
	if p.Status.QOSClass != corev1.PodQOSBurstable {
		c.t.Errorf("QoS class is %s; want Burstable", p.Status.QOSClass)
	}
	limit, err := memoryLimit(c.server.CgroupRoot(), string(p.UID))
	if err != nil {
		c.t.Fatal(err)
	}
	if limit != "67108864" {
		c.t.Errorf("the kernel limits the pod's memory to %s bytes; want 67108864", limit)
	}
}

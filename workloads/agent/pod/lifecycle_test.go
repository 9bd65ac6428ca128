package pod

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/workloads/agent/health"
)

// One containerd serves all cases: starting it is most of the time a test takes.
func TestLifecycle(t *testing.T) {
	m := newMachine(t)

	t.Run("a pod runs and goes within its grace", func(t *testing.T) {
		m.on(t)
		began := time.Now()
		m.create(named("plain", app("sleep")))
		pod := m.await("plain", "ready", isReady)
		t.Logf("ready after %v", time.Since(began))
		s := pod.Status.ContainerStatuses[0]
		if !strings.HasPrefix(s.ContainerID, "containerd://") || s.ImageID == "" || pod.Status.PodIP == "" || pod.Status.StartTime == nil {
			t.Errorf("status lacks something: %+v", pod.Status)
		}
		began = time.Now()
		m.deletePod("plain", 5)
		m.await("plain", "gone", isGone)
		t.Logf("gone after %v", time.Since(began))
		m.traceless(pod)
	})

	t.Run("a class names what runs a pod, and one that is not here runs none", func(t *testing.T) {
		m.on(t)
		for name, handler := range map[string]string{"usual": "runc", "apart": "kata"} {
			class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}
			if _, err := m.api.NodeV1().RuntimeClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			pod := named(name, app("sleep"))
			pod.Spec.RuntimeClassName = &name
			m.create(pod)
		}
		usual := m.await("usual", "ready", isReady)
		limit := time.After(30 * time.Second)
		for said := ""; !strings.Contains(said, `no runtime for "kata" is configured`); {
			select {
			case said = <-m.events.Events:
			case <-limit:
				t.Fatal("nobody was told that there is no such runtime here")
			}
		}
		for _, name := range []string{"usual", "apart"} {
			m.deletePod(name, 0)
			m.await(name, "gone", isGone)
		}
		m.traceless(usual)
	})

	t.Run("init containers run in order before the others, and sidecars keep running", func(t *testing.T) {
		m.on(t)
		pod := named("ordered", app("read", "/shared/first", "/shared/second"))
		shared := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.Volumes = []corev1.Volume{{Name: "shared"}}
		pod.Spec.Containers[0].VolumeMounts = shared
		pod.Spec.InitContainers = []corev1.Container{
			{Name: "first", Image: images.App, Args: []string{"write", "/shared/first", "1\n"}, VolumeMounts: shared},
			{Name: "sidecar", Image: images.App, Args: []string{"sleep"}, RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)},
			{Name: "second", Image: images.App, Args: []string{"write", "/shared/second", "2\n"}, VolumeMounts: shared},
		}
		m.create(pod)
		got := m.await("ordered", "succeeded", hasPhase(corev1.PodSucceeded))
		if code := got.Status.InitContainerStatuses[1].State.Terminated; code == nil {
			t.Errorf("the sidecar outlived its pod: %+v", got.Status.InitContainerStatuses[1])
		}
		if log := m.log(got, "app", 0); !strings.Contains(log, "1") || !strings.Contains(log, "2") {
			t.Errorf("log = %q, want what both init containers wrote", log)
		}
	})

	t.Run("a container that fails is restarted, backed off, and its last words kept", func(t *testing.T) {
		m.on(t)
		m.create(named("crash", app("exit", "3", "farewell")))
		pod := m.await("crash", "in crash loop", func(p *corev1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 &&
				p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
		})
		last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated
		if last == nil || last.ExitCode != 3 || !strings.Contains(last.Message, "farewell") {
			t.Errorf("last state = %+v, want exit 3 and its message", last)
		}
		if pod.Status.Phase != corev1.PodRunning {
			t.Errorf("phase = %s, want Running while it is restarted", pod.Status.Phase)
		}
		m.deletePod("crash", 0)
		m.await("crash", "gone", isGone)
	})

	t.Run("a pod whose containers may not be restarted ends as Failed", func(t *testing.T) {
		m.on(t)
		pod := named("fails", app("exit", "2"))
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		m.create(pod)
		got := m.await("fails", "failed", hasPhase(corev1.PodFailed))
		if code := got.Status.ContainerStatuses[0].State.Terminated.ExitCode; code != 2 {
			t.Errorf("exit code = %d, want 2", code)
		}
	})

	t.Run("a process that ignores SIGTERM is killed when its grace is over", func(t *testing.T) {
		m.on(t)
		m.create(named("stubborn", app("stubborn")))
		m.awaitLog(m.await("stubborn", "ready", isReady), "not going anywhere")
		began := time.Now()
		m.deletePod("stubborn", 2)
		m.await("stubborn", "gone", isGone)
		if took := time.Since(began); took < 1500*time.Millisecond || took > 10*time.Second {
			t.Errorf("it took %v, want about the grace of 2 s", took)
		}
	})

	// Hundreds of processes have to die, and the pod's quota would give each of them its turn in a minute or two.
	t.Run("a fork bomb with little CPU is soon restarted, held to its CPU again, and soon gone", func(t *testing.T) {
		m.on(t)
		pod := named("bomb", app("fork"))
		little := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
		pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: little, Limits: little}
		pod.Spec.TerminationGracePeriodSeconds = new(int64)
		m.create(pod)
		id := m.await("bomb", "ready", isReady).Status.ContainerStatuses[0].ContainerID
		m.awaitProcesses("poduid-bomb", 200)
		began := time.Now()
		m.prober.results <- health.Result{PodUID: "uid-bomb", Container: "app", ContainerID: strings.TrimPrefix(id, "containerd://"), Probe: health.Liveness}
		m.await("bomb", "restarted", func(p *corev1.Pod) bool {
			return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1
		})
		t.Logf("restarted after %v", time.Since(began))
		if got := m.cpuQuota("poduid-bomb"); got != "2000" {
			t.Errorf("of 100 ms the pod may run %s us, want 2000 as before", got)
		}
		m.awaitProcesses("poduid-bomb", 200)
		began = time.Now()
		m.deletePod("bomb", 0)
		m.await("bomb", "gone", isGone)
		t.Logf("gone after %v", time.Since(began))
	})

	t.Run("a grace shortened meanwhile holds", func(t *testing.T) {
		m.on(t)
		pod := named("hurried", app("stubborn"))
		m.create(pod)
		m.awaitLog(m.await("hurried", "ready", isReady), "not going anywhere")
		began := time.Now()
		m.deletePod("hurried", 600)
		m.deletePod("hurried", 0)
		m.await("hurried", "gone", isGone)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v, want next to nothing", took)
		}
	})

	t.Run("a missing ConfigMap holds the container until it is there", func(t *testing.T) {
		m.on(t)
		pod := named("configured", app("env"))
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}}}}
		m.create(pod)
		m.await("configured", "waiting for its ConfigMap", func(p *corev1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
				p.Status.ContainerStatuses[0].State.Waiting.Reason == reasonConfig
		})
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "later"}, Data: map[string]string{"FROM_MAP": "yes"}}
		if _, err := m.api.CoreV1().ConfigMaps("default").Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		got := m.await("configured", "succeeded", hasPhase(corev1.PodSucceeded))
		if log := m.log(got, "app", 0); !strings.Contains(log, "FROM_MAP=yes") {
			t.Errorf("environment = %q, want FROM_MAP=yes", log)
		}
	})

	t.Run("other resources reach a container while it runs", func(t *testing.T) {
		m.on(t)
		of := func(memory string) corev1.ResourceRequirements {
			list := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourceCPU: resource.MustParse("100m")}
			return corev1.ResourceRequirements{Requests: list, Limits: list}
		}
		pod := named("grows", app("sleep"))
		pod.Generation = 1
		pod.Spec.Containers[0].Resources = of("64Mi")
		m.create(pod)
		before := m.await("grows", "ready", isReady).Status.ContainerStatuses[0]
		for i, size := range []string{"128Mi", "32Mi"} {
			next := of(size)
			m.edit("grows", func(p *corev1.Pod) { p.Generation++; p.Spec.Containers[0].Resources = next })
			got := m.await("grows", "resized to "+size, func(p *corev1.Pod) bool {
				return p != nil && p.Status.ObservedGeneration == int64(i)+2 &&
					!slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizeInProgress })
			}).Status.ContainerStatuses[0]
			if got.ContainerID != before.ContainerID || !apiequality.Semantic.DeepEqual(*got.Resources, next) {
				t.Errorf("container %s with %v; want %s with %v", got.ContainerID, got.Resources, before.ContainerID, next)
			}
			want := next.Limits.Memory().Value()
			id := strings.TrimPrefix(got.ContainerID, "containerd://")
			for _, group := range []string{"pod" + string(pod.UID), "pod" + string(pod.UID) + "/" + id} {
				if limit := m.memoryLimit(group); limit != want {
					t.Errorf("the kernel holds %s to %d bytes, want %d", group, limit, want)
				}
			}
		}
		m.deletePod("grows", 0)
		m.await("grows", "gone", isGone)
	})

	t.Run("more resources wait for room on the node", func(t *testing.T) {
		m.on(t)
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}}}
		if err := m.api.Tracker().Add(node); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = m.api.CoreV1().Nodes().Delete(t.Context(), nodeName, metav1.DeleteOptions{}) }()
		of := func(memory string) corev1.ResourceRequirements {
			list := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memory), corev1.ResourceCPU: resource.MustParse("100m")}
			return corev1.ResourceRequirements{Requests: list, Limits: list}
		}
		for _, name := range []string{"first", "second"} {
			pod := named(name, app("sleep"))
			pod.Generation = 1
			pod.Spec.Containers[0].Resources = of("400Mi")
			m.create(pod)
			m.await(name, "ready", isReady)
		}
		resize := func(memory string) {
			m.edit("first", func(p *corev1.Pod) { p.Generation++; p.Spec.Containers[0].Resources = of(memory) })
		}
		has := func(why, memory string) func(*corev1.Pod) bool {
			return func(p *corev1.Pod) bool {
				i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizePending })
				pending := i < 0 && why == "" || i >= 0 && p.Status.Conditions[i].Reason == why
				return pending && apiequality.Semantic.DeepEqual(*p.Status.ContainerStatuses[0].Resources, of(memory))
			}
		}
		resize("2Gi")
		m.await("first", "told that this is too much for the node", has("Infeasible", "400Mi"))
		resize("800Mi")
		m.await("first", "told to wait", has("Deferred", "400Mi"))
		m.deletePod("second", 0)
		m.await("first", "resized when there is room", has("", "800Mi"))
		if limit := m.memoryLimit("poduid-first"); limit != 800<<20 {
			t.Errorf("the kernel holds the pod to %d bytes, want 800Mi", limit)
		}
		m.deletePod("first", 0)
		m.await("first", "gone", isGone)
	})

	t.Run("an image is a volume", func(t *testing.T) {
		m.on(t)
		pod := named("from-image", app("exit", "0"))
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.Volumes = []corev1.Volume{{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: images.App}}}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "image", MountPath: "/image"}}
		pod.Spec.Containers[0].Command = []string{"/image/app"}
		m.create(pod)
		m.await("from-image", "succeeded", hasPhase(corev1.PodSucceeded))
	})

	t.Run("an image that cannot be had is said to be so", func(t *testing.T) {
		m.on(t)
		pod := named("imageless", app("sleep"))
		pod.Spec.Containers[0].Image, pod.Spec.Containers[0].ImagePullPolicy = "knarr.dev/test/none:v0", corev1.PullNever
		m.create(pod)
		m.await("imageless", "refused", func(p *corev1.Pod) bool {
			return p != nil && len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
				p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull"
		})
		m.deletePod("imageless", 0)
		m.await("imageless", "gone", isGone)
	})

	t.Run("a pod past its deadline ends as Failed", func(t *testing.T) {
		m.on(t)
		pod := named("late", app("sleep"))
		pod.Spec.ActiveDeadlineSeconds = ptr.To[int64](1)
		m.create(pod)
		got := m.await("late", "failed", hasPhase(corev1.PodFailed))
		if got.Status.Reason != "DeadlineExceeded" {
			t.Errorf("reason = %q, want DeadlineExceeded", got.Status.Reason)
		}
	})

	t.Run("what a container sees of its pod", func(t *testing.T) {
		m.on(t)
		pod := named("seen", app("read", "/etc/hosts", "/data/file"))
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"seven"}}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "data"}}
		pod.Spec.InitContainers = []corev1.Container{{Name: "fill", Image: images.App, Args: []string{"write", "/all/sub/file", "part\n"},
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/all/sub", SubPath: "deep/sub"}}}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data", SubPathExpr: "deep/$(PART)"}}
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PART", Value: "sub"}}
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](0)}
		m.create(pod)
		got := m.await("seen", "succeeded", hasPhase(corev1.PodSucceeded))
		log := m.log(got, "app", 0)
		for _, want := range []string{"Kubernetes-managed hosts file", "192.0.2.7\tseven", "part"} {
			if !strings.Contains(log, want) {
				t.Errorf("log lacks %q:\n%s", want, log)
			}
		}
		m.deletePod("seen", 0)
		m.await("seen", "gone", isGone)
		m.traceless(got)
	})
}

func isReady(p *corev1.Pod) bool {
	if p == nil {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func hasPhase(phase corev1.PodPhase) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == phase }
}

// on makes t the test whose failure it is.
func (m *machine) on(t *testing.T) {
	outer := m.t
	m.t = t
	t.Cleanup(func() { m.t = outer })
}

func (m *machine) log(pod *corev1.Pod, container string, run int) string {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.paths.PodLogs(), "*_"+pod.Name+"_*", container, "*.log"))
	if err != nil || len(files) <= run {
		m.t.Fatalf("logs of %s: %v, %v", pod.Name, files, err)
	}
	data, err := os.ReadFile(files[run])
	if err != nil {
		m.t.Fatal(err)
	}
	return string(data)
}

// awaitLog waits until the container has said so.
func (m *machine) awaitLog(pod *corev1.Pod, text string) {
	m.t.Helper()
	for end := time.Now().Add(10 * time.Second); !strings.Contains(m.log(pod, "app", 0), text); m.tick() {
		if time.Now().After(end) {
			m.t.Fatalf("pod %s never said %q", pod.Name, text)
		}
	}
}

// traceless waits until nothing of a pod is left.
func (m *machine) traceless(pod *corev1.Pod) {
	m.t.Helper()
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); m.tick() {
		left = nil
		for _, pattern := range []string{
			filepath.Join(m.paths.Agent(), "pods", string(pod.UID)),
			filepath.Join(m.paths.Agent(), "desired", string(pod.UID)+".pod"),
			filepath.Join(m.paths.PodLogs(), "*_"+pod.Name+"_*"),
			"/sys/fs/cgroup/*" + m.cgroups + "/kubepods/*/pod" + string(pod.UID),
		} {
			found, _ := filepath.Glob(pattern)
			left = append(left, found...)
		}
		if len(left) == 0 && m.manager.lookup(pod.UID) == nil {
			return
		}
	}
	m.t.Errorf("left behind: %v", left)
}

package pod

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/health"
	"knarr.dev/knarr/workloads/agent/registries"
	"knarr.dev/knarr/workloads/agent/runtime"
	"knarr.dev/knarr/workloads/agent/translate"
)

// machine is a real containerd with a pod manager on it, in a temporary folder and a cgroup of its own. Only the API is
// a fake.
type machine struct {
	t       *testing.T
	dir     string
	paths   config.Paths
	cgroups string
	api     *fake.Clientset
	runtime *runtime.Runtime
	manager *Manager
	prober  *prober
	volumes *volumes
	stop    func()
	deaf    bool // the API does not answer
	from    *registries.Registries
	devices []Equipment
	writes  sync.Mutex
	events  *record.FakeRecorder
	change  func(*Config) // of the manager's configuration; nil: none
}

const nodeName = "here"

// helpers is where runc, the shim and pause are: KNARR_HELPERS, or PATH.
func helpers(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("containers need root")
	}
	if dir := os.Getenv("KNARR_HELPERS"); dir != "" {
		return dir
	}
	for _, program := range []string{"runc", "containerd-shim-runc-v2"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is neither on PATH nor in $KNARR_HELPERS; make bundle and point KNARR_HELPERS at what it unpacks", program)
		}
	}
	return ""
}

// archive is the test image, built once for the package.
var archive = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(childArchive); path != "" {
		return path, nil
	}
	var err error
	if imageDir, err = os.MkdirTemp("", "knarr-image-"); err != nil {
		return "", err
	}
	return images.WriteApp(context.Background(), imageDir)
})

var imageDir string // made by this process

func TestMain(m *testing.M) {
	code := m.Run()
	if imageDir != "" {
		_ = os.RemoveAll(imageDir)
	}
	os.Exit(code)
}

func newMachine(t *testing.T, prepare ...func(*machine)) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "kn") // short: unix sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	m := machineIn(t, dir, fmt.Sprintf("/knarr-test-%d", os.Getpid()))
	t.Cleanup(m.remove)
	for _, p := range prepare {
		p(m)
	}
	m.start(helpers(t))
	m.importApp()
	return m
}

func machineIn(t *testing.T, dir, cgroups string) *machine {
	t.Helper()
	m := &machine{
		t: t, dir: dir, api: fake.NewClientset(), cgroups: cgroups,
		paths: config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")},
	}
	if err := os.MkdirAll(m.paths.CNIConfig(), 0o700); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *machine) importApp() {
	m.t.Helper()
	path, err := archive()
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := m.runtime.ImportFile(m.t.Context(), path); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) start(helpers string) {
	m.t.Helper()
	log := slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	m.stop = func() { cancel(); running.Wait() }
	run := func(c interface {
		Run(context.Context, func()) error
	}) {
		ready := make(chan struct{})
		failed := make(chan error, 1)
		running.Go(func() { failed <- c.Run(ctx, func() { close(ready) }) })
		select {
		case <-ready:
		case err := <-failed:
			m.t.Fatal(err)
		}
	}
	var err error
	if m.runtime, err = runtime.New(runtime.Config{Paths: m.paths, HelperDir: helpers, Registries: m.from, Log: log}); err != nil {
		m.t.Fatal(err)
	}
	run(m.runtime)
	m.prober = &prober{results: make(chan health.Result)}
	m.volumes = &volumes{dir: m.paths.Agent()}
	m.events = record.NewFakeRecorder(1000)
	source := newSource(ctx, m.api, !m.deaf)
	conf := Config{
		Node: translate.Node{
			Name: nodeName, IPs: []string{"127.0.0.1"}, ClusterDNS: []string{"10.43.0.10"}, ClusterDomain: "cluster.local",
			LogRoot: m.paths.PodLogs(), MemoryBytes: 1 << 30,
		},
		Dir: m.paths.Agent(), Runtime: m.runtime, Cgroups: cgroup.New(m.cgroups), Volumes: m.volumes, Prober: m.prober,
		Equipment: m.devices, Objects: objects{m.api}, Client: pods{m}, Cache: source, Recorder: m.events, Clock: clock.RealClock{}, Log: log,
	}
	if m.change != nil {
		m.change(&conf)
	}
	m.manager = NewManager(conf)
	run(m.manager)
}

// remove ends every pod and removes everything of the machine.
func (m *machine) remove() {
	ctx := context.Background()
	if m.runtime != nil {
		m.stop()
		if list, err := m.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{}); err == nil {
			m.t.Logf("sandboxes left: %d", len(list.Items))
		}
	}
	m.killShims()
	if err := m.wipe(m.dir); err != nil {
		m.t.Errorf("remove machine: %v", err)
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*" + m.cgroups)
	for _, dir := range append(hierarchies, "/sys/fs/cgroup"+m.cgroups) {
		removeGroups(dir)
	}
}

// wipe removes a folder of the machine with what is mounted in it.
func (m *machine) wipe(dir string) (err error) {
	for range 100 { // what just died may still be cleaning up after itself
		unmountBelow(m.t, dir)
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// shims are the processes beside this one with the machine's folder in their command lines.
func (m *machine) shims() map[int]string {
	found := map[int]string{}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, err := os.ReadFile(p)
		if err != nil || !strings.Contains(string(line), m.dir) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/cmdline", &pid); err == nil && pid != os.Getpid() {
			found[pid] = strings.ReplaceAll(string(line), "\x00", " ")
		}
	}
	return found
}

// killShims ends what a failed test left running.
func (m *machine) killShims() {
	for pid, line := range m.shims() {
		m.t.Logf("left running: %s", line)
		if proc, err := os.FindProcess(pid); err == nil {
			_ = proc.Kill()
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*" + m.cgroups + "/kubepods")
	for _, g := range groups {
		_ = filepath.WalkDir(g, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				killListed(path)
			}
			return nil
		})
	}
}

func killListed(path string) {
	data, _ := os.ReadFile(path)
	for _, field := range strings.Fields(string(data)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err == nil {
			if proc, err := os.FindProcess(pid); err == nil {
				_ = proc.Kill()
			}
		}
	}
}

func removeGroups(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
}

func unmountBelow(t *testing.T, dir string) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var places []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			places = append(places, fields[4])
		}
	}
	for i := len(places) - 1; i >= 0; i-- {
		if err := unmountAll(places[i]); err != nil {
			t.Error(err)
		}
	}
}

// --- the API

type source struct {
	client.Reader
	pods cache.Informer
}

func newSource(ctx context.Context, api *fake.Clientset, answers bool) source {
	factory := informers.NewSharedInformerFactory(api, 0)
	informer := factory.Core().V1().Pods().Informer()
	if answers {
		factory.Start(ctx.Done())
	}
	return source{Reader: reader{api}, pods: informer}
}

func (s source) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return s.pods, nil
}

type reader struct{ api *fake.Clientset }

func (r reader) Get(ctx context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	node, err := r.api.CoreV1().Nodes().Get(ctx, key.Name, metav1.GetOptions{})
	if err == nil {
		node.DeepCopyInto(into.(*corev1.Node))
	}
	return err
}

func (r reader) List(ctx context.Context, list client.ObjectList, _ ...client.ListOption) error {
	pods, err := r.api.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err == nil {
		pods.DeepCopyInto(list.(*corev1.PodList))
	}
	return err
}

type objects struct{ api *fake.Clientset }

func (o objects) Services(context.Context, string) ([]corev1.Service, error) { return nil, nil }

func (o objects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return o.api.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (o objects) RuntimeClass(ctx context.Context, name string) (*nodev1.RuntimeClass, error) {
	return o.api.NodeV1().RuntimeClasses().Get(ctx, name, metav1.GetOptions{})
}

func (o objects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.api.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

// pods serializes writes: the fake's patch is a read and a write with a gap between them.
type pods struct{ m *machine }

func (p pods) Pods(namespace string) corev1client.PodInterface {
	return lockedPods{PodInterface: p.m.api.CoreV1().Pods(namespace), mu: &p.m.writes}
}

type lockedPods struct {
	corev1client.PodInterface
	mu *sync.Mutex
}

func (p lockedPods) Patch(ctx context.Context, name string, kind types.PatchType, data []byte, o metav1.PatchOptions, sub ...string) (*corev1.Pod, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.PodInterface.Patch(ctx, name, kind, data, o, sub...)
}

// --- volumes and probes

type volumes struct{ dir string }

func (v *volumes) Mount(_ context.Context, pod *corev1.Pod) (map[string]string, error) {
	paths := map[string]string{}
	for _, vol := range pod.Spec.Volumes {
		path := filepath.Join(v.dir, "pods", string(pod.UID), "volumes", vol.Name)
		if err := os.MkdirAll(path, 0o777); err != nil {
			return nil, err
		}
		paths[vol.Name] = path
	}
	return paths, nil
}

func (v *volumes) Update(context.Context, *corev1.Pod) error { return nil }

func (v *volumes) Unmount(_ context.Context, uid types.UID) error {
	return os.RemoveAll(filepath.Join(v.dir, "pods", string(uid), "volumes"))
}

func (v *volumes) Pods() ([]types.UID, error) { return nil, nil }

type prober struct{ results chan health.Result }

func (p *prober) Start(*corev1.Pod, string, string, string) {}
func (p *prober) Stop(types.UID, string)                    {}
func (p *prober) Results() <-chan health.Result             { return p.results }

// --- what tests say

func (m *machine) create(pod *corev1.Pod) *corev1.Pod {
	m.t.Helper()
	pod.Namespace, pod.UID = "default", types.UID("uid-"+pod.Name)
	pod.Spec.NodeName, pod.Spec.HostNetwork = nodeName, true
	if pod.Spec.RestartPolicy == "" {
		pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	}
	if pod.Spec.TerminationGracePeriodSeconds == nil {
		grace := int64(5)
		pod.Spec.TerminationGracePeriodSeconds = &grace
	}
	pod.Status.Phase = corev1.PodPending
	created, err := m.api.CoreV1().Pods("default").Create(m.t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	return created
}

// edit changes what a pod asks for, as the API server lets one do.
func (m *machine) edit(name string, change func(*corev1.Pod)) {
	m.t.Helper()
	m.writes.Lock()
	defer m.writes.Unlock()
	pod, err := m.api.CoreV1().Pods("default").Get(m.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	change(pod)
	if err := m.api.Tracker().Update(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, pod, "default"); err != nil {
		m.t.Fatal(err)
	}
}

// memoryLimit is what the kernel holds a guaranteed pod's group to.
func (m *machine) memoryLimit(group string) int64 {
	m.t.Helper()
	limit, err := strconv.ParseInt(m.told(group, "memory/memory.limit_in_bytes", "memory.max"), 10, 64)
	if err != nil {
		m.t.Fatal(err)
	}
	return limit
}

// cpuQuota is how many microseconds of a period it lets the group run.
func (m *machine) cpuQuota(group string) string {
	m.t.Helper()
	return strings.Fields(m.told(group, "cpu/cpu.cfs_quota_us", "cpu.max"))[0]
}

// told reads a file of a guaranteed pod's group, by its controller and name under v1 and its name under v2.
func (m *machine) told(group, v1, v2 string) string {
	m.t.Helper()
	controller, name := filepath.Split(v1)
	for _, file := range []string{filepath.Join(controller, m.cgroups, "kubepods", group, name), filepath.Join(m.cgroups, "kubepods", group, v2)} {
		if text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", file)); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	m.t.Fatalf("the group %s has neither %s nor %s", group, v1, v2)
	return ""
}

// awaitProcesses waits until so many are in a guaranteed pod's group.
func (m *machine) awaitProcesses(group string, many int) {
	m.t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for {
		if n, err := strconv.Atoi(m.told(group, "pids/pids.current", "pids.current")); err == nil && n >= many {
			return
		}
		if time.Now().After(end) {
			m.t.Fatalf("the group %s never had %d processes", group, many)
		}
		m.tick()
	}
}

// remove marks a pod as deleted, as the API server does before its node lets it go.
func (m *machine) deletePod(name string, grace int64) {
	m.t.Helper()
	m.writes.Lock()
	defer m.writes.Unlock()
	pod, err := m.api.CoreV1().Pods("default").Get(m.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	now := metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	if err := m.api.Tracker().Update(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, pod, "default"); err != nil {
		m.t.Fatal(err)
	}
}

// await polls the fake API, which has no better way, until the pod is as the test wants it.
func (m *machine) await(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 30*time.Second)
	defer cancel()
	watch, err := m.api.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	defer watch.Stop()
	for {
		pod, err := m.api.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			pod = nil
		}
		if ok(pod) {
			return pod
		}
		select {
		case <-watch.ResultChan():
		case <-ctx.Done():
			if pod != nil {
				m.t.Fatalf("pod %s is not %s: %+v", name, what, pod.Status)
			}
			m.t.Fatalf("pod %s is not %s and not there", name, what)
		}
	}
}

func app(args ...string) []corev1.Container {
	return []corev1.Container{{Name: "app", Image: images.App, Args: args, TerminationMessagePath: "/dev/termination-log"}}
}

func named(name string, containers []corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: containers}}
}

func isGone(p *corev1.Pod) bool { return p == nil }

// tick waits for something that has no event: the manager forgets a pod without telling anybody.
func (m *machine) tick() {
	select {
	case <-time.After(5 * time.Millisecond):
	case <-m.t.Context().Done():
	}
}

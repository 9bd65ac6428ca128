package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// hostile are pods that cannot work or mean harm, by what they try.
var hostile = map[string]func(p *corev1.Pod, r *rand.Rand){
	"an image nobody has":      spoil(func(c *corev1.Container, r *rand.Rand) { c.Image = fmt.Sprintf("knarr.invalid/none:%d", r.IntN(5)) }),
	"an image that is no name": spoil(func(c *corev1.Container, r *rand.Rand) { c.Image = "Not/A//Name@sha256:zz" }),
	"an image never pulled": spoil(func(c *corev1.Container, r *rand.Rand) {
		c.Image, c.ImagePullPolicy = "knarr.invalid/never:1", corev1.PullNever
	}),
	"a program that is not there": spoil(func(c *corev1.Container, r *rand.Rand) { c.Command = []string{"/none"} }),
	"a program that is a folder":  spoil(func(c *corev1.Container, r *rand.Rand) { c.Command = []string{"/etc"} }),
	"a working folder in a file":  spoil(func(c *corev1.Container, r *rand.Rand) { c.WorkingDir = "/app/below" }),
	"an end at once":              act("exit", "0"),
	"a failure at once":           act("exit", "1", "broken"),
	"last words without end":      act("babble"),
	"all memory":                  act("eat"),
	"all processes":               act("fork"),
	"all CPU":                     act("burn"),
	"a loud log":                  act("shout"),
	"a stopped process":           act("halt"),
	"no ear for SIGTERM":          act("stubborn"),
	"its own root full":           act("fill", "/filler"),
	"folders in folders":          act("litter", "/tmp"),
	"a full volume":               volume("fill", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: new(resource.MustParse("20Mi"))}}),
	"a full volume in memory": volume("fill", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
		Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse("8Mi"))}}),
	"litter in a volume": volume("litter", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}),
	"a ConfigMap that is not there": volume("litter", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}}),
	"a Secret that is not there": volume("litter", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "none"}}),
	"a folder that is not there": volume("litter", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: "/none/at/all", Type: new(corev1.HostPathDirectory)}}),
	"a socket that is a folder": volume("litter", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{
		Path: "/etc", Type: new(corev1.HostPathSocket)}}),
	"a file server that is not there": volume("litter", corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "192.0.2.1", Path: "/"}}),
	"an image volume nobody has": volume("litter", corev1.VolumeSource{Image: &corev1.ImageVolumeSource{
		Reference: "knarr.invalid/none:1", PullPolicy: corev1.PullIfNotPresent}}),
	"a mount below a file": func(p *corev1.Pod, r *rand.Rand) {
		volume("litter", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})(p, r)
		p.Spec.Containers[0].VolumeMounts[0].MountPath = "/app/below"
	},
	"a mount over everything": func(p *corev1.Pod, r *rand.Rand) {
		volume("litter", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})(p, r)
		p.Spec.Containers[0].VolumeMounts[0].MountPath = "/"
	},
	"a mount over /proc": func(p *corev1.Pod, r *rand.Rand) {
		volume("litter", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})(p, r)
		p.Spec.Containers[0].VolumeMounts[0].MountPath = "/proc"
	},
	"a seccomp profile that is not there": spoil(func(c *corev1.Container, r *rand.Rand) {
		c.SecurityContext = &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{
			Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: new("none.json")}}
	}),
	"a capability nobody has": spoil(func(c *corev1.Container, r *rand.Rand) {
		c.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NONE"}}}
	}),
	"a kernel setting that is not there": func(p *corev1.Pod, r *rand.Rand) {
		act("sleep")(p, r)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.none.at_all", Value: "1"}}}
	},
	"the node's own port": func(p *corev1.Pod, r *rand.Rand) {
		act("serve", "10250")(p, r)
		p.Spec.HostNetwork = true
	},
	"too little memory to begin": spoil(func(c *corev1.Container, r *rand.Rand) {
		c.Resources.Limits[corev1.ResourceMemory] = resource.MustParse("1Mi")
		c.Resources.Requests = nil
	}),
	"a huge environment": spoil(func(c *corev1.Container, r *rand.Rand) {
		for i := range 20 {
			c.Env = append(c.Env, corev1.EnvVar{Name: fmt.Sprint("E", i), Value: strings.Repeat("e", 1+r.IntN(30<<10))})
		}
	}),
	"many containers": func(p *corev1.Pod, r *rand.Rand) {
		act("sleep")(p, r)
		for i := range 10 {
			p.Spec.Containers = append(p.Spec.Containers, app(fmt.Sprint("c", i), "sleep"))
		}
	},
	"a hook that hangs": spoil(func(c *corev1.Container, r *rand.Rand) {
		c.Lifecycle = &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "sleep", "1000"}}},
			PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "stubborn"}}},
		}
	}),
	"probes that hang": spoil(func(c *corev1.Container, r *rand.Rand) {
		c.ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "stubborn"}}}}
		c.LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Host: "192.0.2.1", Port: intstr.FromInt32(1)}}}
	}),
	"a beginning that never ends": func(p *corev1.Pod, r *rand.Rand) {
		act("sleep")(p, r)
		p.Spec.InitContainers = []corev1.Container{app("first", "exit", "1")}
	},
}

// act is a pod that does one thing.
func act(args ...string) func(p *corev1.Pod, r *rand.Rand) {
	return func(p *corev1.Pod, r *rand.Rand) { p.Spec.Containers = []corev1.Container{app("c", args...)} }
}

// spoil is a pod that would work if it were not for one thing.
func spoil(change func(c *corev1.Container, r *rand.Rand)) func(p *corev1.Pod, r *rand.Rand) {
	return func(p *corev1.Pod, r *rand.Rand) {
		act("sleep")(p, r)
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{}
		change(&p.Spec.Containers[0], r)
	}
}

// volume is a pod that misuses one.
func volume(command string, source corev1.VolumeSource) func(p *corev1.Pod, r *rand.Rand) {
	return func(p *corev1.Pod, r *rand.Rand) {
		file := "/v"
		if command == "fill" {
			file = "/v/filler"
		}
		act(command, file)(p, r)
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	}
}

const memoryOfOne = 64 << 20

// hostilePod is bounded as a careful administrator bounds what he does not trust.
func hostilePod(name, kind string, r *rand.Rand) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"part": "hostile"}}}
	p.Spec.TerminationGracePeriodSeconds = new(r.Int64N(3))
	p.Spec.AutomountServiceAccountToken = new(r.IntN(2) == 0)
	p.Spec.RestartPolicy = []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure}[r.IntN(3)]
	hostile[kind](p, r)
	for i := range p.Spec.Containers {
		limits := p.Spec.Containers[i].Resources.Limits
		if limits == nil {
			limits = corev1.ResourceList{}
		}
		if _, set := limits[corev1.ResourceMemory]; !set {
			limits[corev1.ResourceMemory] = *resource.NewQuantity(memoryOfOne, resource.BinarySI)
		}
		limits[corev1.ResourceCPU], limits[corev1.ResourceEphemeralStorage] = resource.MustParse("500m"), resource.MustParse("100Mi")
		p.Spec.Containers[i].Resources = corev1.ResourceRequirements{Limits: limits, Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceMemory: resource.MustParse("1Mi"), corev1.ResourceEphemeralStorage: resource.MustParse("1Mi"),
		}}
	}
	return p
}

// wave is how many are there at once.
const wave = 20

// TestHostilePods lets pods hurt the node. Meanwhile a good one has to start, the agent has to answer, those beside them go
// on unharmed, and afterwards nothing of them is left.
func TestHostilePods(t *testing.T) {
	if *pods == 0 {
		t.Skip("takes minutes: say how many with -pods")
	}
	n := start(t)
	s := &siege{node: n, voyage: newVoyage(n, 0), came: map[string]int{}, refused: map[string]int{}, held: map[string]int{}}
	for i := range 2 {
		s.voyage.create(t.Context(), newPod(fmt.Sprintf("bystander-%d", i), i, s.voyage.r))
	}
	s.voyage.settle("before the first", nil)
	for range 5 {
		s.usual = append(s.usual, s.startGood())
	}
	kinds := slices.Sorted(maps.Keys(hostile))
	for from := 0; from < *pods; from += wave {
		var list []*corev1.Pod
		for i := from; i < min(from+wave, *pods); i++ {
			if i%len(kinds) == 0 {
				s.voyage.r.Shuffle(len(kinds), func(a, b int) { kinds[a], kinds[b] = kinds[b], kinds[a] })
			}
			kind := kinds[i%len(kinds)]
			p := hostilePod(fmt.Sprintf("hostile-%d", i), kind, s.voyage.r)
			p.Annotations = map[string]string{"tries": kind}
			list = append(list, p)
		}
		s.wave(list)
	}
	t.Logf("%d hostile pods, %d refused by the API server %v", *pods, sum(s.refused), s.refused)
	for _, kind := range slices.Sorted(maps.Keys(s.came)) {
		t.Logf("%4d x %s", s.came[kind], kind)
	}
	t.Logf("%d containers of theirs and %d of their neighbours were held to what their pods say", s.held["hostile"], s.held["fleet"])
	t.Logf("a good pod is ready after %s, among hostile ones after %s", spread(s.usual), spread(s.good))
	t.Logf("the agent answers within %s; hostile pods gone after %s", spread(s.answers), spread(s.gone))
	t.Logf("most a container's logs took: %d MiB", s.loudest>>20)
	for _, kind := range slices.Sorted(maps.Keys(s.voyage.counts)) {
		t.Errorf("%4d x %s", s.voyage.counts[kind], kind)
	}
}

// siege is one run.
type siege struct {
	*node
	voyage        *voyage
	came, refused map[string]int // by what they try
	held          map[string]int // containers whose limits were looked at, by the part their pods play
	loudest       int64

	usual, good, answers, gone []time.Duration
}

func sum(counts map[string]int) (all int) {
	for _, n := range counts {
		all += n
	}
	return all
}

func spread(took []time.Duration) string {
	if len(took) == 0 {
		return "never"
	}
	slices.Sort(took)
	return fmt.Sprintf("%s (median), %s (worst)", took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
}

// startGood says how long an ordinary pod takes to be ready.
func (s *siege) startGood() time.Duration {
	s.t.Helper()
	pods, began := s.client.CoreV1().Pods(metav1.NamespaceDefault), time.Now()
	s.voyage.create(s.t.Context(), newPod("good", 0, s.voyage.r))
	s.eventually("a good pod to be ready", func(ctx context.Context) error {
		p, err := pods.Get(ctx, "good", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !ready(p) {
			return fmt.Errorf("it is %s: %s", p.Status.Phase, waiting(p))
		}
		return nil
	})
	took := time.Since(began)
	s.delete("good")
	return took
}

// delete waits until the pods are gone.
func (s *siege) delete(names ...string) {
	s.t.Helper()
	pods := s.client.CoreV1().Pods(metav1.NamespaceDefault)
	for _, name := range names {
		if err := pods.Delete(s.t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			s.t.Fatal(err)
		}
	}
	var last error
	began := time.Now()
	s.eventually("pods to be gone", func(ctx context.Context) error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, p := range list.Items {
			if slices.Contains(names, p.Name) {
				last = fmt.Errorf("%s, which tries %s, is still there: %s", p.Name, p.Annotations["tries"], waiting(&p))
				return last
			}
		}
		return nil
	})
	if took := time.Since(began); took > slow {
		s.t.Logf("pods were gone after %s; before that %v", took.Round(time.Millisecond), last)
	}
}

// slow is what is worth a word, though no finding.
const slow = 15 * time.Second

func (s *siege) wave(list []*corev1.Pod) {
	s.t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	var names []string
	for _, p := range list {
		all.Go(func() {
			_, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).Create(s.t.Context(), p, metav1.CreateOptions{})
			mu.Lock()
			defer mu.Unlock()
			s.came[p.Annotations["tries"]]++
			switch {
			case err == nil:
				names = append(names, p.Name)
			case apierrors.IsInvalid(err) || apierrors.IsForbidden(err):
				s.refused[p.Annotations["tries"]]++
			default:
				s.t.Error(err)
			}
		})
	}
	all.Wait()
	s.good = append(s.good, s.startGood())
	s.ask()
	s.good = append(s.good, s.startGood())
	s.bounds(names)
	s.limits()
	s.freeze(names)
	began := time.Now()
	s.delete(names...)
	s.gone = append(s.gone, time.Since(began))
	touched := map[string]bool{}
	for _, name := range names {
		touched[name] = true
	}
	s.voyage.settle(fmt.Sprintf("after %s to %s", list[0].Name, list[len(list)-1].Name), touched)
}

// ask the agent what dashboards and people ask it.
func (s *siege) ask() {
	s.t.Helper()
	for _, path := range []string{"healthz", "pods", "stats/summary", "metrics/resource"} {
		began := time.Now()
		if err := s.client.CoreV1().RESTClient().Get().Resource("nodes").Name(s.machine.Name()).SubResource("proxy").Suffix(path).Do(s.t.Context()).Error(); err != nil {
			s.t.Errorf("the node's API: %s: %v", path, err)
		}
		s.answers = append(s.answers, time.Since(began))
	}
}

// logsOfOne is what a container's logs may take: five files of 10 MiB, and what is written until somebody looks.
const logsOfOne = 5*10<<20 + 200<<20

// bounds looks whether the hostile ones are held to theirs.
func (s *siege) bounds(names []string) {
	s.t.Helper()
	for _, name := range names {
		folders, err := filepath.Glob(filepath.Join(s.machine.DataDir(), "log/pods", "default_"+name+"_*", "*"))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, folder := range folders {
			size := sizeOf(folder)
			if s.loudest = max(s.loudest, size); size > logsOfOne {
				s.voyage.find(name, []finding{{"logs without bound", fmt.Sprintf("%s %d MiB", folder, size>>20)}})
			}
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		groups, err := filepath.Glob(filepath.Join(pattern, s.machine.CgroupRoot(), "kubepods/*/pod*/pids.max"))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, file := range groups {
			text, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if n, failed := strconv.Atoi(strings.TrimSpace(string(text))); err != nil || failed != nil || n <= 0 {
				s.voyage.find("bounds", []finding{{"processes without bound", fmt.Sprintf("%s: %s (%v)", file, text, err)}})
			}
		}
	}
}

// sizeOf is what the files of a folder take; those that go meanwhile take nothing.
func sizeOf(dir string) (size int64) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			size += info.Size()
		}
	}
	return size
}

// limits looks whether every container, hostile or not, is held to what its pod says.
func (s *siege) limits() {
	s.t.Helper()
	list, err := s.client.CoreV1().Pods(metav1.NamespaceDefault).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range list.Items {
		p := &list.Items[i]
		for k, status := range p.Status.ContainerStatuses {
			if status.State.Running == nil || k >= len(p.Spec.Containers) {
				continue
			}
			is, err := s.heldTo(string(p.UID), strings.TrimPrefix(status.ContainerID, "containerd://"))
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
				continue // it ended meanwhile
			}
			if err != nil {
				s.t.Fatal(err)
			}
			s.held[p.Labels["part"]]++
			limits := p.Spec.Containers[k].Resources.Limits
			if want := (bound{limits.Memory().Value(), limits.Cpu().MilliValue()}); is != want {
				s.voyage.find(p.Name, []finding{{"limits not kept", fmt.Sprintf("%s of %s, which tries %q: %+v, want %+v", status.Name, p.Name, p.Annotations["tries"], is, want)}})
			}
		}
	}
}

// bound is what a container may take: bytes, and thousandths of a core.
type bound struct{ memory, cpu int64 }

// heldTo is what the kernel holds a container to.
func (s *siege) heldTo(uid, id string) (bound, error) {
	files := [][2]string{{"memory", "memory.limit_in_bytes"}, {"cpu", "cpu.cfs_quota_us"}, {"cpu", "cpu.cfs_period_us"}}
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		files = [][2]string{{"", "memory.max"}, {"", "cpu.max"}}
	}
	var numbers []int64
	for _, file := range files {
		pattern := filepath.Join("/sys/fs/cgroup", file[0], s.machine.CgroupRoot(), "kubepods/*/pod"+uid, id, file[1])
		found, err := filepath.Glob(pattern)
		if err != nil {
			return bound{}, err
		}
		if len(found) == 0 {
			return bound{}, fmt.Errorf("%s: %w", pattern, os.ErrNotExist)
		}
		text, err := os.ReadFile(found[0])
		if err != nil {
			return bound{}, err
		}
		for field := range strings.FieldsSeq(string(text)) {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				n = -1 // "max"
			}
			numbers = append(numbers, n)
		}
	}
	if len(numbers) != 3 {
		return bound{}, fmt.Errorf("limits of container %s are %v", id, numbers)
	}
	return bound{memory: numbers[0], cpu: numbers[1] * 1000 / max(numbers[2], 1)}, nil
}

// freeze some of their containers, so that no signal reaches them.
func (s *siege) freeze(names []string) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/freezer", s.machine.CgroupRoot(), "kubepods/*/pod*/*/freezer.state"))
	if err != nil {
		s.t.Fatal(err)
	}
	value := "FROZEN"
	if len(files) == 0 {
		if files, err = filepath.Glob(filepath.Join("/sys/fs/cgroup", s.machine.CgroupRoot(), "kubepods/*/pod*/*/cgroup.freeze")); err != nil {
			s.t.Fatal(err)
		}
		value = "1"
	}
	for _, file := range files {
		if uid := uidIn.FindString(file); s.voyage.r.IntN(4) == 0 && s.among(names, uid) {
			_ = os.WriteFile(file, []byte(value), 0) // it may have ended
		}
	}
}

// among says whether a pod is one of these.
func (s *siege) among(names []string, uid string) bool {
	folders, err := filepath.Glob(filepath.Join(s.machine.DataDir(), "log/pods", "default_*_"+uid))
	if err != nil || len(folders) != 1 {
		return false
	}
	return slices.Contains(names, strings.Split(filepath.Base(folders[0]), "_")[1])
}

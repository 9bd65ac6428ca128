package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/test/lab/lab"
)

// settling is how long a machine may take after a start until it is what the API says: it takes a second, ten on a slow
// machine. What only the agent's look at everything once a minute heals is a finding.
const settling = 50 * time.Second

// TestKilled kills knarr while pods come, change and go, and starts it again. Each time, once settled, the machine has to
// be what the API says, and no container that was well may have been restarted.
func TestKilled(t *testing.T) {
	if *kills == 0 {
		t.Skip("takes minutes: say how often with -kills")
	}
	var mu sync.Mutex
	var took []time.Duration
	var cut int
	t.Cleanup(func() {
		t.Logf("%d kills; settled after %s; %d starts that were cut short count as a restart", len(took), spread(took), cut)
	})
	for i := range *machines {
		t.Run(fmt.Sprint("machine ", i), func(t *testing.T) {
			t.Parallel()
			v := sail(t, uint64(i), *kills / *machines)
			mu.Lock()
			defer mu.Unlock()
			took, cut = append(took, v.took...), cut+v.cut
		})
	}
}

// sail is the life of one machine.
func sail(t *testing.T, number uint64, kills int) *voyage {
	n := start(t)
	v := newVoyage(n, number)
	if _, err := n.client.CoreV1().Services(metav1.NamespaceDefault).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "fleet"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"part": "fleet"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for kind := range 4 {
		v.create(t.Context(), newPod(fmt.Sprintf("bystander-%d", kind), kind, v.r))
	}
	v.settle("before the first kill", nil)
	for i := range kills {
		v.round(i)
		if t.Failed() && t.Context().Err() != nil {
			break
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(v.counts)) {
		t.Errorf("%4d x %s", v.counts[kind], kind)
	}
	return v
}

// voyage is one run.
type voyage struct {
	*node
	r      *rand.Rand
	next   int              // number of the next pod
	calm   []corev1.Pod     // what the API said when the machine was last settled
	took   []time.Duration  // from each start until it was settled
	seen   map[finding]bool // told already: what leaked stays, and counts once
	counts map[string]int   // findings by kind
	// restarts a pod was asked for, by name, and those a start cut short has cost.
	restarts map[string]int32
	cut      int
}

// newVoyage of the machine with that number.
func newVoyage(n *node, number uint64) *voyage {
	return &voyage{node: n, r: rand.New(rand.NewPCG(*seed, number)), seen: map[finding]bool{}, counts: map[string]int{}, restarts: map[string]int32{}}
}

func (v *voyage) find(when string, all []finding) {
	more := false
	for _, f := range all {
		if v.seen[f] {
			continue
		}
		v.seen[f], more = true, true
		v.counts[f.Kind]++
		v.t.Logf("%s: %s: %s", when, f.Kind, f.What)
	}
	if text, err := os.ReadFile(v.machine.LogFile()); more && err == nil {
		began := bytes.LastIndex(text, []byte("msg=starting"))
		v.t.Logf("what knarr said since its last start:\n%s", text[max(began, 0):])
	}
}

// round asks for a few things, kills knarr in the middle of them, and judges what the next one makes of it.
func (v *voyage) round(i int) {
	touched := map[string]bool{}
	aim := v.aim()
	stage := v.stage(touched)
	when := fmt.Sprintf("kill %d, %s, %s", i, strings.Join(stage.names, " and "), aim)
	fell := make(chan struct{})
	go func() {
		defer close(fell)
		aim.await(v.machine)
		if err := v.knarr.Kill9(); err != nil {
			v.t.Error(err)
		}
	}()
	ctx, cancel := context.WithCancel(v.t.Context())
	stage.run(ctx)
	<-fell
	cancel()
	if v.r.IntN(5) == 0 { // once more, while it is finding its pods again
		when += ", and again at its start"
		if err := v.knarr.Start(); err != nil {
			v.t.Fatal(err)
		}
		<-time.After(time.Duration(v.r.IntN(1500)) * time.Millisecond)
		if err := v.knarr.Kill9(); err != nil {
			v.t.Fatal(err)
		}
	}
	began := time.Now()
	if err := v.knarr.Start(); err != nil {
		v.t.Fatal(err)
	}
	if err := v.connect(); err != nil {
		v.t.Fatalf("%s: %v", when, err)
	}
	v.settle(when, touched)
	v.took = append(v.took, time.Since(began))
}

// compare the machine with the API. Looking at all of a machine costs a tenth of a second of a core, which those who put it
// in order need themselves: while pods are on their way it says no more than that, unless all is wanted.
func (v *voyage) compare(ctx context.Context, all bool) ([]corev1.Pod, []finding, error) {
	list, err := v.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, nil, err
	}
	told := func(f finding) bool { return v.seen[f] }
	if found := slices.DeleteFunc(unsettled(list.Items), told); len(found) > 0 && !all {
		return list.Items, found, nil
	}
	w, err := look(ctx, v.machine)
	if err != nil {
		return nil, nil, err
	}
	return list.Items, slices.DeleteFunc(judge(list.Items, w), told), nil
}

// settle waits until machine and API agree, then looks after those nobody touched.
func (v *voyage) settle(when string, touched map[string]bool) {
	var pods []corev1.Pod
	var found []finding
	err := waitEvery(v.t.Context(), 50*time.Millisecond, settling, func(ctx context.Context) (err error) {
		pods, found, err = v.compare(ctx, false)
		if err == nil && len(found) > 0 {
			err = fmt.Errorf("%d findings, the first: %v", len(found), found[0])
		}
		return err
	})
	if err != nil && len(found) > 0 {
		var failed error
		if pods, found, failed = v.compare(v.t.Context(), true); failed != nil {
			v.t.Fatalf("%s: %v, and then: %v", when, err, failed)
		}
	} else if err != nil {
		v.t.Fatalf("%s: %v", when, err)
	}
	found = append(found, unharmed(v.calm, pods, touched)...)
	for i := range pods {
		p := &pods[i]
		if more := mostRestarts(p) - v.restarts[p.Name]; more == 1 && touched[p.Name] {
			v.cut++ // its start was under way: it was not yet well
			v.restarts[p.Name]++
		}
		found = append(found, restarted(p, v.restarts[p.Name])...)
	}
	v.find(when, found)
	v.calm = pods
}

// unharmed: the containers of pods nobody touched are the same as before.
func unharmed(before, after []corev1.Pod, touched map[string]bool) []finding {
	var found []finding
	now := map[types.UID]*corev1.Pod{}
	for i := range after {
		now[after[i].UID] = &after[i]
	}
	for i := range before {
		p := &before[i]
		if touched[p.Name] || p.DeletionTimestamp != nil || ends[p.Labels["kind"]] != (end{}) {
			continue
		}
		if now[p.UID] == nil {
			found = append(found, finding{"pod gone that nobody deleted", p.Name})
			continue
		}
		for k, was := range p.Status.ContainerStatuses {
			if was.State.Running == nil || k >= len(now[p.UID].Status.ContainerStatuses) {
				continue
			}
			is := now[p.UID].Status.ContainerStatuses[k]
			if is.ContainerID != was.ContainerID || is.State.Running == nil || !is.State.Running.StartedAt.Equal(&was.State.Running.StartedAt) {
				found = append(found, finding{"healthy container restarted", fmt.Sprintf("%s of kind %s: %s was %s %v, is %s %v",
					p.Name, p.Labels["kind"], was.Name, was.ContainerID, was.State.Running, is.ContainerID, is.State)})
			}
		}
	}
	return found
}

// mostRestarts of a pod's containers.
func mostRestarts(p *corev1.Pod) (most int32) {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		most = max(most, s.RestartCount)
	}
	return most
}

// ends are the kinds that end by themselves, and how. They may be seen running before.
var ends = map[string]end{"8": {corev1.PodSucceeded, 0}, "9": {corev1.PodFailed, 3}}

type end struct {
	phase corev1.PodPhase
	code  int32
}

// restarted: no more often than was asked for. None of these containers ends before its time.
func restarted(p *corev1.Pod, asked int32) []finding {
	var found []finding
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if s.RestartCount > asked {
			found = append(found, finding{"container counted as restarted", fmt.Sprintf("%s/%s %d times, asked for %d", p.Name, s.Name, s.RestartCount, asked)})
		}
	}
	if want := ends[p.Labels["kind"]]; ended(p) {
		is, how := end{phase: p.Status.Phase}, ""
		for _, s := range p.Status.ContainerStatuses {
			if t := s.State.Terminated; t != nil {
				is.code, how = t.ExitCode, t.String()
			}
		}
		if is != want {
			found = append(found, finding{"pod ended otherwise", fmt.Sprintf("%s %+v, want %+v: %s", p.Name, is, want, how)})
		}
	}
	return found
}

// --- what is asked of it

// stage is a few requests, one after the other.
type stage struct {
	names []string
	acts  []func(context.Context)
}

func (s *stage) run(ctx context.Context) {
	for _, act := range s.acts {
		act(ctx)
	}
}

// fleet are the pods that may be touched.
func (v *voyage) fleet() []corev1.Pod {
	var list []corev1.Pod
	for _, p := range v.calm {
		if strings.HasPrefix(p.Name, "ship-") && p.DeletionTimestamp == nil {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return list
}

const fleetSize = 8

// stage decides what is done: some pods go, some change, some come.
func (v *voyage) stage(touched map[string]bool) *stage {
	s := &stage{}
	fleet := v.fleet()
	v.r.Shuffle(len(fleet), func(i, k int) { fleet[i], fleet[k] = fleet[k], fleet[i] })
	for range 1 + v.r.IntN(3) {
		switch what := v.r.IntN(10); {
		case len(fleet) > 0 && (what < 4 || len(fleet) > fleetSize):
			p := fleet[0]
			fleet = fleet[1:]
			touched[p.Name] = true
			s.names = append(s.names, "delete "+kindOf(&p))
			s.acts = append(s.acts, func(ctx context.Context) {
				_ = v.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{}) // or it was killed before
			})
		case len(fleet) > 0 && what < 6:
			p := fleet[0]
			fleet = fleet[1:]
			touched[p.Name] = true
			name, act := v.change(&p)
			s.names = append(s.names, name+" "+kindOf(&p))
			s.acts = append(s.acts, act)
		default:
			p := newPod(fmt.Sprintf("ship-%d", v.next), v.r.IntN(len(ordinary)), v.r)
			v.next++
			touched[p.Name] = true
			s.names = append(s.names, "create "+kindOf(p))
			s.acts = append(s.acts, func(ctx context.Context) { v.create(ctx, p) })
		}
	}
	return s
}

func kindOf(p *corev1.Pod) string { return p.Name + " of kind " + p.Labels["kind"] }

func (v *voyage) create(ctx context.Context, p *corev1.Pod) {
	_, _ = v.client.CoreV1().Pods(metav1.NamespaceDefault).Create(ctx, p, metav1.CreateOptions{}) // or it was killed before
}

// change is one of those a running pod may see: another image, other labels, other resources.
func (v *voyage) change(p *corev1.Pod) (string, func(context.Context)) {
	c := p.Spec.Containers[0]
	var name, sub string
	var patch any
	switch v.r.IntN(3) {
	case 0:
		name = "new image for"
		v.restarts[p.Name]++
		image := images.AppV2
		if c.Image == images.AppV2 {
			image = images.App
		}
		patch = map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": c.Name, "image": image}}}}
	case 1:
		name = "new label for"
		patch = map[string]any{"metadata": map[string]any{"labels": map[string]string{"seen": fmt.Sprint(v.r.IntN(1000))}}}
	default:
		name, sub = "other resources for", "resize"
		patch = map[string]any{"spec": map[string]any{"containers": []any{map[string]any{
			"name": c.Name, "resources": map[string]any{"requests": map[string]string{"cpu": fmt.Sprintf("%dm", 10+v.r.IntN(10))}},
		}}}}
	}
	data, err := json.Marshal(patch)
	if err != nil {
		v.t.Fatal(err)
	}
	var subresources []string
	if sub != "" {
		subresources = []string{sub}
	}
	return name, func(ctx context.Context) {
		_, _ = v.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, subresources...)
	}
}

// --- when it is killed

// aim is a moment: when something appears or goes on the machine, or some time after it was asked for.
type aim struct {
	name    string
	pattern func(*lab.Machine) string // nil: only time counts
	change  int                       // which one
	delay   time.Duration
}

func (a aim) String() string {
	if a.pattern == nil {
		return fmt.Sprintf("%s after it was asked", a.delay)
	}
	return fmt.Sprintf("%s after change %d of %s", a.delay, a.change, a.name)
}

// longestAim is for what does not change this time.
const longestAim = 2 * time.Second

// marks are what a pod leaves on its way up and takes along on its way down.
var marks = func() []aim {
	at := func(name string, pattern func(config.Paths) string) aim {
		return aim{name: name, pattern: func(m *lab.Machine) string { return pattern(config.Paths{Data: m.DataDir(), Run: m.RunDir()}) }}
	}
	const tasks = "*/k8s.io/*"
	return []aim{
		at("remembered pods", func(p config.Paths) string { return filepath.Join(p.Agent(), "desired/*.pod") }),
		at("pod folders", func(p config.Paths) string { return filepath.Join(p.Agent(), "pods/*") }),
		at("volumes", func(p config.Paths) string { return filepath.Join(p.Volumes(), "*/volumes/*/*") }),
		at("log folders", func(p config.Paths) string { return filepath.Join(p.PodLogs(), "*") }),
		at("logs", func(p config.Paths) string { return filepath.Join(p.PodLogs(), "*/*/*.log") }),
		at("network namespaces", func(p config.Paths) string { return filepath.Join(p.ContainerdState(), criDir, "netns/*") }),
		at("address leases", func(p config.Paths) string { return filepath.Join(p.Network(), "leases/*") }),
		at("bundles", func(p config.Paths) string { return filepath.Join(p.ContainerdState(), tasks) }),
		at("shims' addresses", func(p config.Paths) string { return filepath.Join(p.ContainerdState(), tasks, "bootstrap.json") }),
		at("pause processes", func(p config.Paths) string { return filepath.Join(p.ContainerdState(), tasks, "pause.pid") }),
		at("container records", func(p config.Paths) string { return filepath.Join(p.Containerd(), criDir, "containers/*/status") }),
		at("runc's folders", func(p config.Paths) string { return filepath.Join(p.Run, "runc/k8s.io/*") }),
		at("runc's states", func(p config.Paths) string { return filepath.Join(p.Run, "runc/k8s.io/*/state.json") }),
		{name: "cgroups", pattern: func(m *lab.Machine) string {
			if _, err := os.Stat("/sys/fs/cgroup/pids"); err == nil {
				return filepath.Join("/sys/fs/cgroup/pids", m.CgroupRoot(), "kubepods/*/pod*")
			}
			return filepath.Join("/sys/fs/cgroup", m.CgroupRoot(), "kubepods/*/pod*")
		}},
	}
}()

// aim chooses a moment.
func (v *voyage) aim() aim {
	if v.r.IntN(3) == 0 {
		return aim{delay: time.Duration(v.r.IntN(2000)) * time.Millisecond}
	}
	a := marks[v.r.IntN(len(marks))]
	a.change, a.delay = 1+v.r.IntN(2), time.Duration(v.r.IntN(15_000))*time.Microsecond
	return a
}

// await returns at the moment. Looking all the time is what hits it.
func (a aim) await(m *lab.Machine) {
	if a.pattern == nil {
		<-time.After(a.delay)
		return
	}
	pattern := a.pattern(m)
	state := func() string {
		found, _ := filepath.Glob(pattern) // the pattern is ours
		return strings.Join(found, "\n")
	}
	last, again := state(), time.NewTicker(200*time.Microsecond)
	defer again.Stop()
	for end, changes := time.Now().Add(longestAim), 0; changes < a.change && time.Now().Before(end); {
		<-again.C
		if now := state(); now != last {
			last = now
			changes++
		}
	}
	<-time.After(a.delay)
}

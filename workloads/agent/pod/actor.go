package pod

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/health"
	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/status"
	"knarr.dev/knarr/workloads/agent/translate"
)

// actor owns one pod. Passes never overlap; steps run beside them and report back under mu.
type actor struct {
	m   *Manager
	uid types.UID

	mu        sync.Mutex
	pod       *corev1.Pod // as the API last showed it; never modified
	gone      bool        // the API has it no more
	mirrored  *mirroring  // of static pods; nil for those of the API
	evicted   *Ending
	ungranted *ungranted // what the API's spec asks for beyond pod; nil: nothing
	rejected  bool       // it never was one of the pods of this node

	passing, again bool
	timer          *time.Timer
	over           bool // the pod is done with and forgotten

	busy      map[string]*running
	notBefore map[string]time.Time
	tries     map[string]int
	waiting   map[string]status.Waiting // why starts failed
	backoff   map[string]Backoff

	runtime   observed.Pod
	mounted   bool
	relabeled bool // since its volumes were written
	resized   bool // since the kernel was told what it may use
	volumes   map[string]string
	stopped   map[string]bool
	cleaned   bool
	sweep     bool // with the next pass
	started   map[string]bool
	ready     map[string]bool
	unhealthy map[string]health.Probe
	probed    map[string]bool // container IDs the prober knows

	bounds      map[string]translate.Bounds // by container ID: what a resize set
	moved       map[string]string           // by container ID: the CPUs it was told to run on since
	resizeError string

	status   corev1.PodStatus // as last computed
	reported bool             // the API has the last one
	want     *wanted          // to be written
	writing  bool
	news     chan struct{}     // a newer status is wanted
	written  *corev1.Pod       // the API's answer to the last write
	told     map[string]uint32 // container name to the attempt whose back-off an event told of
}

// running is a step under way.
type running struct {
	cancel context.CancelFunc
	until  time.Time // of a kill: when the grace ends
}

func newActor(m *Manager, uid types.UID) *actor {
	return &actor{
		m: m, uid: uid,
		busy: map[string]*running{}, notBefore: map[string]time.Time{}, tries: map[string]int{},
		waiting: map[string]status.Waiting{}, backoff: map[string]Backoff{}, stopped: map[string]bool{},
		started: map[string]bool{}, ready: map[string]bool{}, unhealthy: map[string]health.Probe{}, probed: map[string]bool{}, told: map[string]uint32{},
		bounds: map[string]translate.Bounds{}, moved: map[string]string{}, news: make(chan struct{}, 1),
	}
}

// poke asks for a pass. One that is under way is followed by another.
func (a *actor) poke() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over || a.m.ctx.Err() != nil {
		return
	}
	if a.passing {
		a.again = true
		return
	}
	a.passing = a.m.spawn(a.passes)
}

func (a *actor) passes() {
	for {
		if err := a.pass(a.m.ctx); err != nil && a.m.ctx.Err() == nil {
			level := slog.LevelWarn
			if errdefs.IsUnavailable(err) { // a runtime of the operator's is away, which the node's status says once for all pods
				level = slog.LevelDebug
			}
			a.m.log.Log(a.m.ctx, level, "look at pod", "pod", a.name(), "error", err)
			a.mu.Lock()
			a.wakeAt(a.m.now().Add(time.Second))
			a.mu.Unlock()
		}
		a.mu.Lock()
		if !a.again || a.over || a.m.ctx.Err() != nil {
			a.passing = false
			a.mu.Unlock()
			return
		}
		a.again = false
		a.mu.Unlock()
	}
}

func (a *actor) name() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pod.Namespace + "/" + a.pod.Name
}

// wakeAt sets the one timer; a.mu is held.
func (a *actor) wakeAt(t time.Time) {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if !t.IsZero() {
		a.timer = time.AfterFunc(max(0, t.Sub(a.m.now())), a.poke)
	}
}

// pass observes, decides, starts what is decided, and reports.
func (a *actor) pass(ctx context.Context) error {
	a.mu.Lock()
	before := a.runtime
	a.mu.Unlock()
	rt, err := observed.Read(ctx, a.m.conf.Runtime, a.uid, before)
	if err != nil {
		return fmt.Errorf("observe: %w", err)
	}
	a.mu.Lock()
	a.runtime = rt
	a.knowBounds()
	now, today := a.m.now(), a.m.conf.Clock.Now()
	end := ending(a.pod, a.gone, a.evicted, today)
	if end != nil {
		a.stopStarting()
	}
	probes := a.followContainers()
	p := plan(a.view(end, now, today))
	a.sweep = false
	for _, s := range p.Steps {
		a.launch(s)
	}
	for key := range a.busy { // a shorter grace than the one a kill began with
		a.hurry(key, end, now)
	}
	a.wakeAt(p.Look)
	st := status.Of(a.statusInput(end, p, today))
	a.status = st
	if a.mirrored != nil { // nobody else tells a static pod's status
		a.pod = withStatus(a.pod, &st)
	}
	pod, gone := a.pod, a.gone
	a.mu.Unlock()

	for _, tell := range probes {
		tell()
	}
	if !gone {
		a.m.writer.set(a, pod, st, p.Over)
	}
	return nil
}

// view copies what plan may read, because steps change the originals while it does.
func (a *actor) view(end *Ending, now, today time.Time) View {
	busy := make(map[string]bool, len(a.busy))
	for key := range a.busy {
		busy[key] = true
	}
	return View{
		Pod: a.pod, Runtime: a.runtime, Ending: end,
		Mounted: a.mounted, Relabeled: a.relabeled, Resized: a.resized, Stopped: maps.Clone(a.stopped), Cleaned: a.cleaned, Reported: a.reported, Sweep: a.sweep,
		Busy: busy, NotBefore: maps.Clone(a.notBefore), Backoff: maps.Clone(a.backoff),
		Started: maps.Clone(a.started), Unhealthy: maps.Clone(a.unhealthy), CPUs: a.cpus(), Now: now, Today: today,
	}
}

func (a *actor) statusInput(end *Ending, p Plan, today time.Time) status.Input {
	in := status.Input{
		Pod: a.pod, Runtime: a.runtime, Waiting: maps.Clone(a.waiting), Started: a.started, Ready: a.ready,
		Kind: a.m.conf.Runtime.Kind(), Resizing: p.Resizing, ResizeError: a.resizeError, Pending: a.ungranted.pending(),
		HostIPs: a.m.conf.Node.IPs, Stopped: p.Over, Stopping: end != nil, Now: metav1.NewTime(today.Truncate(time.Second)),
	}
	for name, w := range p.Waiting {
		in.Waiting[name] = w
		if attempt := a.runtime.Latest(name).Attempt; a.told[name] != attempt+1 {
			a.told[name] = attempt + 1
			a.m.event(a.pod, corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s in pod %s_%s(%s)", name, a.pod.Name, a.pod.Namespace, a.pod.UID)
		}
	}
	if end != nil {
		in.Reason, in.Message, in.Disrupted = end.Reason, end.Message, end.Disrupted
	}
	return in
}

// stopStarting ends what would only make more of a pod that must go. A frozen process would hold it up: it may be a hook's, or
// that of a container half made.
func (a *actor) stopStarting() {
	for key, r := range a.busy {
		if key == string(Mount) || key == string(CreateSandbox) || len(key) > len(startKey("")) && key[:len(startKey(""))] == startKey("") {
			r.cancel()
			a.m.thaw(a.pod)
		}
	}
}

// hurry restarts a kill whose grace was shortened meanwhile.
func (a *actor) hurry(key string, end *Ending, now time.Time) {
	r := a.busy[key]
	if end == nil || r == nil || r.until.IsZero() {
		return
	}
	if until := now.Add(time.Duration(end.Grace) * time.Second); r.until.Sub(until) > time.Second {
		r.until = until
		r.cancel() // the next pass kills again, with the grace that is left
	}
}

// followContainers takes in what started and what ended; a.mu is held. It returns what the prober is to be told without
// it: the prober may be waiting for us to take a result.
func (a *actor) followContainers() (probes []func()) {
	live := map[string]bool{}
	for name, runs := range a.runtime.Containers {
		c := &runs[0]
		if c.State != observed.Running {
			continue
		}
		live[c.ID] = true
		if a.probed[c.ID] || a.busy[startKey(name)] != nil {
			continue // a container counts as started when its postStart hook is through
		}
		a.probed[c.ID] = true
		poke(a.m.grown)
		spec := translate.Find(a.pod, name)
		if spec == nil {
			continue
		}
		a.remember(c, spec)
		if hasProbes(spec) {
			pod, id, ip := a.pod, c.ID, a.podIP()
			probes = append(probes, func() { a.m.conf.Prober.Start(pod, name, id, ip) })
		}
	}
	for id := range a.probed {
		if !live[id] {
			delete(a.probed, id)
			delete(a.started, id)
			delete(a.ready, id)
			delete(a.unhealthy, id)
			if name := a.containerName(id); name != "" {
				probes = append(probes, func() { a.m.conf.Prober.Stop(a.uid, name) })
			}
		}
	}
	return probes
}

// remember what is known of a container that was just seen running: without a probe it is well; one that ran before
// this process did is what the API says it was, until its probes say otherwise.
func (a *actor) remember(c *observed.Container, spec *corev1.Container) {
	a.started[c.ID] = spec.StartupProbe == nil
	a.ready[c.ID] = spec.ReadinessProbe == nil
	for _, list := range [][]corev1.ContainerStatus{a.pod.Status.InitContainerStatuses, a.pod.Status.ContainerStatuses} {
		for i := range list {
			if strings.HasSuffix(list[i].ContainerID, "://"+c.ID) {
				a.started[c.ID] = a.started[c.ID] || list[i].Started != nil && *list[i].Started
				a.ready[c.ID] = a.ready[c.ID] || list[i].Ready
			}
		}
	}
}

func (a *actor) containerName(id string) string {
	for name, runs := range a.runtime.Containers {
		for i := range runs {
			if runs[i].ID == id && (i == 0 || runs[0].State != observed.Running) {
				return name
			}
		}
	}
	return ""
}

func hasProbes(c *corev1.Container) bool {
	return c.StartupProbe != nil || c.LivenessProbe != nil || c.ReadinessProbe != nil
}

func (a *actor) podIP() string {
	if a.pod.Spec.HostNetwork {
		if len(a.m.conf.Node.IPs) > 0 {
			return a.m.conf.Node.IPs[0]
		}
		return ""
	}
	if s := a.runtime.Sandbox(); s != nil && len(s.IPs) > 0 {
		return s.IPs[0]
	}
	return ""
}

// probe takes in one result.
func (a *actor) probe(r health.Result) {
	a.mu.Lock()
	switch {
	case !a.probed[r.ContainerID]:
		// of a container that ended meanwhile
	case r.Probe == health.Readiness:
		a.ready[r.ContainerID] = r.Healthy
	case r.Healthy && r.Probe == health.Startup:
		a.started[r.ContainerID] = true
	case !r.Healthy:
		a.unhealthy[r.ContainerID] = r.Probe
	}
	a.mu.Unlock()
	a.poke()
}

// launch runs a step beside the actor; a.mu is held.
func (a *actor) launch(s Step) {
	ctx, cancel := context.WithCancel(a.m.ctx)
	r := &running{cancel: cancel}
	if s.Do == KillContainer {
		r.until = a.m.now().Add(time.Duration(s.Grace) * time.Second)
	}
	pod := a.pod
	if a.m.spawn(func() {
		defer cancel()
		began := a.m.now()
		err := a.m.step(ctx, a, pod, s)
		a.m.log.Debug("pod step", "pod", pod.Namespace+"/"+pod.Name, "step", s.Key(), "took", a.m.now().Sub(began), "error", err)
		a.settle(ctx, s, err)
		a.poke()
	}) {
		a.busy[s.Key()] = r
	} else {
		cancel()
	}
}

const maxRetryDelay = 2 * time.Minute

// settle notes how a step went.
func (a *actor) settle(ctx context.Context, s Step, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := s.Key()
	delete(a.busy, key)
	if ctx.Err() != nil && err != nil {
		return // told to stop; the next pass sees what is left
	}
	now := a.m.now()
	if err == nil {
		delete(a.notBefore, key)
		delete(a.tries, key)
		if s.Do == StartContainer {
			delete(a.waiting, s.Container)
		}
		return
	}
	tries := a.tries[key]
	a.tries[key]++
	delay := min(retryDelay(s.Do)<<min(tries, 16), maxRetryDelay)
	if failed, ok := asStartError(err); ok && s.Do == StartContainer {
		if failed.Retry > 0 {
			delay = min(failed.Retry<<min(tries, 16), maxDelay)
		}
		a.waiting[s.Container] = status.Waiting{Reason: failed.Reason, Message: failed.Message}
		if failed.Later != "" {
			time.AfterFunc(errorShown, func() { a.turnWaiting(s.Container, failed) })
		}
	} else {
		a.m.log.Warn("pod step failed and will be tried again", "pod", a.pod.Namespace+"/"+a.pod.Name, "step", key, "in", delay, "error", err)
	}
	a.notBefore[key] = now.Add(delay)
}

// errorShown is how long a failed pull is reported as that before it is reported as waiting for the next try.
const errorShown = 2 * time.Second

func (a *actor) turnWaiting(container string, failed startError) {
	a.mu.Lock()
	if a.waiting[container].Reason == failed.Reason {
		a.waiting[container] = status.Waiting{Reason: failed.Later, Message: failed.LaterMessage}
	}
	a.mu.Unlock()
	a.poke()
}

func retryDelay(do Action) time.Duration {
	switch do {
	case StartContainer:
		return time.Second
	case Clean, KillContainer, StopSandbox, RemoveSandbox, RemoveContainer, Finish:
		return 100 * time.Millisecond
	}
	return 500 * time.Millisecond
}

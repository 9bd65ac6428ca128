// Package probe asks running containers how they are.
//
// In:       the probes of a container that started, until somebody says it stopped.
// Out:      one health.Result each time a threshold is crossed, one event for each attempt that failed, counts for collectors of metrics.
// Promise:  between two attempts a probe is a timer, not a goroutine; nothing of a container is asked after Stop.
// Not here: restarting, readiness of the pod as a whole (workloads/agent/pod).
//
// A container's way:
//
//	Start -> startup probe, until it succeeds (the others wait) or gives up (the container is restarted)
//	      -> liveness and readiness side by side; liveness ends with its first verdict "dead"
//	Stop  -> all end
package probe

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/health"
)

// firstHurry is how soon a container that is not ready yet is asked again. The API allows readiness probes outside
// their period while the container is not ready; it is what lets a service that needs 300 ms start in 300 ms.
const firstHurry = 100 * time.Millisecond

// Runtime runs a command in a container.
type Runtime interface {
	ExecSync(context.Context, *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error)
}

// Events is where users read what happened; client-go's record.EventRecorder is one.
type Events interface {
	Event(about runtime.Object, eventType, reason, message string)
}

// Config of a prober.
type Config struct {
	Runtime Runtime
	Events  Events // about attempts that failed; nil means nobody listens
	Log     *slog.Logger
}

// Prober runs the probes of all containers on this machine.
type Prober struct {
	config  Config
	results chan health.Result
	ask     func(ctx context.Context, t target) answer

	mu         sync.Mutex
	containers map[key]*container
	counted    *counted
}

type key struct {
	pod  types.UID
	name string
}

// container is one run of a container and the probes that are asking it.
type container struct {
	pod     *corev1.Pod
	spec    *corev1.Container
	id      string
	ip      string
	started time.Time
	ctx     context.Context
	stop    context.CancelFunc
}

// New makes a prober. It needs no Run: it is idle until a container starts.
func New(config Config) *Prober {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	config.Log = config.Log.With("component", "probe")
	asker := newAsker(config.Runtime)
	return &Prober{config: config, results: make(chan health.Result, 64), ask: asker.ask, containers: map[key]*container{}, counted: newCounted()}
}

// Results delivers every verdict. It has one reader.
func (p *Prober) Results() <-chan health.Result { return p.results }

// Start begins the probes of a running container; for a container that is probed already it does nothing. A container
// that the pod's status calls started or ready, because it ran before this process did, keeps that until a probe says
// otherwise: our own restart is no reason to take it out of service.
func (p *Prober) Start(pod *corev1.Pod, name, containerID, podIP string) {
	spec := findContainer(pod, name)
	if spec == nil || (spec.StartupProbe == nil && spec.LivenessProbe == nil && spec.ReadinessProbe == nil) {
		return
	}
	ctx, stop := context.WithCancel(context.Background()) // ends with Stop
	c := &container{pod: pod, spec: spec, id: containerID, ip: podIP, started: time.Now(), ctx: ctx, stop: stop}
	p.mu.Lock()
	defer p.mu.Unlock()
	k := key{pod.UID, name}
	if running := p.containers[k]; running != nil {
		if running.id == containerID {
			stop()
			return
		}
		running.stop()
	}
	p.containers[k] = c
	p.counted.pods[pod.UID] = types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}

	known := knownStatus(pod, name, containerID)
	if known.State.Running != nil && !known.State.Running.StartedAt.IsZero() {
		c.started = known.State.Running.StartedAt.Time
	}
	if spec.StartupProbe != nil && (known.Started == nil || !*known.Started) {
		p.begin(c, health.Startup, spec.StartupProbe, tally{})
		return
	}
	if spec.StartupProbe != nil {
		p.tell(c, health.Startup, true, "")
	}
	p.beginServing(c, known.Ready)
}

// beginServing starts what waits for the startup probe.
func (p *Prober) beginServing(c *container, ready bool) {
	if probe := c.spec.LivenessProbe; probe != nil {
		p.begin(c, health.Liveness, probe, tally{verdict: healthy})
	}
	if probe := c.spec.ReadinessProbe; probe != nil {
		initial := tally{verdict: unhealthy}
		if ready {
			initial.verdict = healthy
			p.tell(c, health.Readiness, true, "")
		}
		p.begin(c, health.Readiness, probe, initial)
	}
}

// Stop ends the probes of one container, or with "" those of the whole pod.
func (p *Prober) Stop(pod types.UID, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, c := range p.containers {
		if k.pod == pod && (name == "" || k.name == name) {
			c.stop()
			delete(p.containers, k)
		}
	}
	if name == "" {
		p.counted.forget(pod)
	}
}

// worker is one probe of one container.
type worker struct {
	prober *Prober
	c      *container
	kind   health.Probe
	spec   *corev1.Probe
	target target
	tally  tally
	hurry  time.Duration // until the next attempt out of turn, 0 for none
	due    time.Time     // of the next attempt in turn
	timer  *time.Timer
}

func (p *Prober) begin(c *container, kind health.Probe, spec *corev1.Probe, initial tally) {
	w := &worker{prober: p, c: c, kind: kind, spec: spec, target: targetOf(c, spec), tally: initial}
	if kind == health.Readiness && initial.verdict == unhealthy && successes(spec) == 1 {
		w.hurry = firstHurry
	}
	w.due = c.started.Add(time.Duration(spec.InitialDelaySeconds) * time.Second)
	// The timer's goroutine is the only one that touches the worker from here on, and one at a time.
	armed := make(chan struct{})
	w.timer = time.AfterFunc(max(time.Until(w.due), 0), func() { <-armed; w.attempt() })
	close(armed)
	context.AfterFunc(c.ctx, func() { w.timer.Stop() })
}

// attempt asks once, counts the answer and plans the next attempt.
func (w *worker) attempt() {
	ctx := w.c.ctx
	if ctx.Err() != nil {
		return
	}
	inTurn := !time.Now().Before(w.due)
	if inTurn {
		w.due = time.Now().Add(period(w.spec))
	}
	began := time.Now()
	answer := w.prober.ask(ctx, w.target)
	if ctx.Err() != nil {
		return // the container was stopped meanwhile; what it said to that is of no interest
	}
	if inTurn || answer.outcome == success { // out of turn only good news count
		w.prober.count(w, answer.outcome, time.Since(began))
		w.report(answer)
		before := w.tally.verdict
		w.tally = w.tally.count(answer.outcome, successes(w.spec), failures(w.spec))
		if w.tally.verdict != before {
			w.prober.tell(w.c, w.kind, w.tally.verdict == healthy, answer.message)
			if w.finished() {
				return
			}
		}
	}
	w.timer.Reset(max(w.pause(), 0)) // fires once more at most after Stop, and then sees it
}

// finished: the verdict was the last one, and what waited for it begins.
func (w *worker) finished() bool {
	switch {
	case w.kind == health.Startup:
		if w.tally.verdict == healthy {
			w.prober.beginServing(w.c, false)
		}
		return true
	case w.kind == health.Liveness:
		return true // dead: it will be restarted and then has another ID
	}
	w.hurry = 0
	return false
}

// pause until the next attempt: its turn, or sooner while the container is not ready for the first time.
func (w *worker) pause() time.Duration {
	turn := time.Until(w.due)
	if w.hurry == 0 || w.hurry >= turn {
		return turn
	}
	pause := w.hurry
	w.hurry *= 2
	return pause
}

// title is a kind of probe as users and metrics know it: Liveness, Readiness, Startup.
func title(kind health.Probe) string { return strings.ToUpper(string(kind[:1])) + string(kind[1:]) }

// report words one attempt as the event users know.
func (w *worker) report(a answer) {
	what := title(w.kind)
	switch a.outcome {
	case failure:
		w.event("Unhealthy", what+" probe failed: "+a.message)
	case unknown:
		w.event("Unhealthy", what+" probe errored and resulted in unknown state: "+a.message)
	case success:
		if a.warning != "" {
			w.event("ProbeWarning", what+" probe warning: "+a.warning)
		}
	}
}

// event warns about the container, as kubectl describe shows it.
func (w *worker) event(reason, message string) {
	if w.prober.config.Events == nil {
		return
	}
	list := "containers"
	if slices.ContainsFunc(w.c.pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == w.c.spec.Name }) {
		list = "initContainers"
	}
	about := &corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: w.c.pod.Namespace, Name: w.c.pod.Name, UID: w.c.pod.UID,
		ResourceVersion: w.c.pod.ResourceVersion, FieldPath: "spec." + list + "{" + w.c.spec.Name + "}",
	}
	w.prober.config.Events.Event(about, corev1.EventTypeWarning, reason, message)
}

// tell delivers a verdict unless the container stops first. The reader may be busy, and must never wait for us in
// return, so a full channel is waited for beside everything else.
func (p *Prober) tell(c *container, kind health.Probe, isHealthy bool, message string) {
	result := health.Result{PodUID: c.pod.UID, Container: c.spec.Name, ContainerID: c.id, Probe: kind, Healthy: isHealthy, Message: message}
	select {
	case p.results <- result:
	default:
		go func() {
			select {
			case p.results <- result:
			case <-c.ctx.Done():
			}
		}()
	}
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// knownStatus is what the pod's status says about this very run of the container.
func knownStatus(pod *corev1.Pod, name, id string) corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].Name == name && strings.HasSuffix(list[i].ContainerID, "://"+id) {
				return list[i]
			}
		}
	}
	return corev1.ContainerStatus{}
}

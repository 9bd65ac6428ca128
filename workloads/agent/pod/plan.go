package pod

import (
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/health"
	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/status"
	"knarr.dev/knarr/workloads/agent/translate"
)

// View is everything a decision about one pod depends on.
type View struct {
	Pod     *corev1.Pod
	Runtime observed.Pod
	Ending  *Ending // nil while the pod is wanted

	Mounted   bool            // its volumes are ready
	Relabeled bool            // its volumes may show labels and annotations it had before
	Resized   bool            // its resources changed since the kernel was told
	Stopped   map[string]bool // by sandbox ID: its network is gone
	Cleaned   bool            // volumes, cgroup and files are gone
	Reported  bool            // the API has the pod's last status
	Sweep     bool            // the disk is full: containers that only serve looking back go
	// CPUs running containers are to run on, by name; nothing for one that may run on all.
	CPUs map[string]string

	Busy      map[string]bool         // by step key: it is running
	NotBefore map[string]time.Time    // by step key: it failed and may be tried again then
	Backoff   map[string]Backoff      // by container name
	Started   map[string]bool         // by container ID: it and its postStart hook began, its startup probe passed
	Unhealthy map[string]health.Probe // by container ID: the probe that condemns it

	Now   time.Time // by which waiting is measured: no clock is behind it
	Today time.Time // the time of day, for what the API has as a time
}

// Ending is why and how a pod is brought to its end.
type Ending struct {
	Grace   int64  // seconds its containers get
	Gone    bool   // the API has no such pod any more
	Deleted bool   // the API waits for us to let it go
	Reason  string // for a pod that stays in the API as Failed
	Message string
	// Disrupted: the pod did nothing wrong, and its status says so for those who count its failures.
	Disrupted bool
}

// Action is what a step does.
type Action string

const (
	Mount           Action = "mount"   // the pod's volumes
	Refresh         Action = "refresh" // the volumes that show labels and annotations
	Resize          Action = "resize"  // the bounds of running containers and of the pod
	Move            Action = "move"    // running containers to other CPUs
	CreateSandbox   Action = "sandbox"
	StartContainer  Action = "start"
	KillContainer   Action = "kill"
	RemoveContainer Action = "remove"
	StopSandbox     Action = "stop"
	RemoveSandbox   Action = "rmsandbox"
	Clean           Action = "clean"  // unmount, remove cgroup and files
	Finish          Action = "finish" // let the API object go and forget the pod
)

// Step is one thing to do now. Steps of one plan may run side by side.
type Step struct {
	Do        Action
	Container string
	ID        string
	Attempt   uint32
	Round     int    // of a start
	Grace     int64  // of a kill
	Last      bool   // of a kill: the whole pod is to end
	Message   string // why, for the event of a kill
}

// Key names the step among those running: there is one of each key at a time.
func (s Step) Key() string {
	switch s.Do {
	case StartContainer:
		return startKey(s.Container)
	case KillContainer, RemoveContainer, StopSandbox, RemoveSandbox:
		return string(s.Do) + "/" + s.ID
	}
	return string(s.Do)
}

func startKey(container string) string { return string(StartContainer) + "/" + container }

// Plan is what to do now and when to look again.
type Plan struct {
	Steps    []Step
	Look     time.Time                 // zero: not before something happens
	Waiting  map[string]status.Waiting // containers that wait for a restart, by name
	Resizing bool                      // not all of the pod is held to what it asks for now
	Over     bool                      // nothing of the pod runs and nothing will be started
}

// plan decides; it changes nothing.
func plan(v View) Plan {
	p := planner{View: v, Plan: Plan{Waiting: map[string]status.Waiting{}}}
	p.round, p.cause = status.Round(v.Pod, v.Runtime)
	switch {
	case v.Ending != nil:
		p.windDown(*v.Ending)
	case p.finished():
		p.windDown(Ending{Grace: translate.Grace(v.Pod)})
	default:
		p.run()
		if end := deadline(v.Pod); !end.IsZero() {
			p.lookAt(v.Now.Add(end.Sub(v.Today)))
		}
	}
	p.move()
	return p.Plan
}

// ending says why a pod must end, nil when it may go on. evicted comes from the node,
// today is the time of day.
func ending(pod *corev1.Pod, gone bool, evicted *Ending, today time.Time) *Ending {
	switch {
	case gone:
		return &Ending{Grace: translate.Grace(pod), Gone: true}
	case pod.DeletionTimestamp != nil:
		return &Ending{Grace: translate.Grace(pod), Deleted: true}
	case evicted != nil:
		return evicted
	}
	if end := deadline(pod); !end.IsZero() && !today.Before(end) {
		return &Ending{
			Grace: translate.Grace(pod), Reason: "DeadlineExceeded",
			Message: "Pod was active on the node longer than the specified deadline",
		}
	}
	return nil
}

func deadline(pod *corev1.Pod) time.Time {
	if pod.Spec.ActiveDeadlineSeconds == nil || pod.Status.StartTime == nil {
		return time.Time{}
	}
	return pod.Status.StartTime.Add(time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second)
}

type planner struct {
	View
	Plan
	round int                 // of the pod
	cause *observed.Container // whose end began it, if that is known
}

func (p *planner) lookAt(t time.Time) {
	if !t.IsZero() && t.After(p.Now) && (p.Look.IsZero() || t.Before(p.Look)) {
		p.Look = t
	}
}

// do adds a step unless it is planned or runs already, or has to wait after a failure.
func (p *planner) do(s Step) {
	key := s.Key()
	if p.Busy[key] || slices.ContainsFunc(p.Steps, func(other Step) bool { return other.Key() == key }) {
		return
	}
	if t := p.NotBefore[key]; p.Now.Before(t) {
		p.lookAt(t)
		return
	}
	p.Steps = append(p.Steps, s)
}

// --- a pod that is wanted

func (p *planner) run() {
	if !p.Mounted {
		p.do(Step{Do: Mount})
	} else if p.Relabeled {
		p.do(Step{Do: Refresh})
	}
	sandbox := p.Runtime.Sandbox()
	if sandbox == nil || !sandbox.Ready {
		p.renewSandbox(sandbox)
		return
	}
	if !p.Mounted || p.Busy[string(CreateSandbox)] {
		return
	}
	if p.endRound() || p.holdRound() {
		return
	}
	if p.initContainers(sandbox) {
		p.mainContainers(sandbox)
		p.ephemeralContainers(sandbox)
	}
	p.resize()
	p.collect()
}

// renewSandbox makes the pod's first sandbox, or a new one where the old one died. What still runs in the old one
// has lost its network and namespaces, and ends first.
func (p *planner) renewSandbox(old *observed.Sandbox) {
	if alive := p.Runtime.Alive(); len(alive) > 0 {
		for _, c := range alive {
			p.do(Step{Do: KillContainer, ID: c.ID, Container: c.Name, Grace: translate.Grace(p.Pod), Message: "Pod sandbox changed, it will be killed and re-created."})
		}
		return
	}
	attempt := uint32(0)
	if old != nil {
		attempt = old.Attempt + 1
	}
	p.do(Step{Do: CreateSandbox, Attempt: attempt})
}

// earlier: a container's newest run is of an earlier round, so it is as if there were none but for its number.
func (p *planner) earlier(latest *observed.Container) bool {
	return latest != nil && latest.Round < p.round
}

// endRound ends what runs of an earlier round, all at once and without grace (KEP-5532), and returns whether anything does.
func (p *planner) endRound() bool {
	found := false
	for _, c := range p.Runtime.Alive() {
		if c.Round < p.round {
			found = true
			p.do(Step{Do: KillContainer, ID: c.ID, Container: c.Name, Message: fmt.Sprintf("Stopping container %s, all containers of the pod are restarted", c.Name)})
		}
	}
	// One that is just being started may be of the round before, and is seen when it runs.
	return found || p.round > 0 && p.starting() && !p.startedRound()
}

// holdRound returns whether a new round has to wait, because the container that began it keeps doing so.
func (p *planner) holdRound() bool {
	if p.cause == nil || p.latest(p.cause.Name).ID != p.cause.ID || p.startedRound() {
		return false
	}
	return p.backsOff(p.cause.Name, p.cause)
}

// startedRound: has anything run in this round?
func (p *planner) startedRound() bool {
	for _, runs := range p.Runtime.Containers {
		if runs[0].Round == p.round {
			return true
		}
	}
	return false
}

// initContainers returns whether the main containers may start: plain init containers ended well, sidecars have started.
func (p *planner) initContainers(sandbox *observed.Sandbox) bool {
	began := p.mainBegan(sandbox)
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		latest := p.latest(c.Name)
		here := latest != nil && latest.Sandbox == sandbox.ID && !p.earlier(latest)
		if status.Restartable(c) {
			if !here || latest.State != observed.Running {
				p.start(c, latest)
			} else {
				p.checkRunning(c, latest)
			}
			if !began && (!here || !p.Started[latest.ID] || latest.State != observed.Running) {
				return false
			}
			continue
		}
		if began || here && latest.State == observed.Exited && latest.ExitCode == 0 {
			continue
		}
		if !here || latest.State != observed.Running {
			p.start(c, latest)
		}
		return false
	}
	return true
}

func (p *planner) mainBegan(sandbox *observed.Sandbox) bool {
	for i := range p.Pod.Spec.Containers {
		if c := p.latest(p.Pod.Spec.Containers[i].Name); c != nil && c.Sandbox == sandbox.ID && !p.earlier(c) {
			return true
		}
	}
	return false
}

func (p *planner) mainContainers(sandbox *observed.Sandbox) {
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		latest := p.latest(c.Name)
		switch {
		case latest != nil && latest.State == observed.Running && latest.Sandbox == sandbox.ID:
			p.checkRunning(c, latest)
		case latest == nil || p.earlier(latest):
			// First starts go in the spec's order: an earlier container's postStart hook holds the later ones.
			if p.startingBefore(i) {
				return
			}
			p.start(c, latest)
		case p.again(c, latest):
			p.start(c, latest)
		}
	}
}

func (p *planner) startingBefore(i int) bool {
	return slices.ContainsFunc(p.Pod.Spec.Containers[:i], func(c corev1.Container) bool { return p.Busy[startKey(c.Name)] }) ||
		slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Do == StartContainer })
}

// again says whether a container that is not running is to be started once more.
func (p *planner) again(c *corev1.Container, latest *observed.Container) bool {
	if latest.State != observed.Exited {
		return true // made, but its maker died before starting it
	}
	switch status.Policy(p.Pod, c, latest.ExitCode) {
	case corev1.RestartPolicyAlways:
		return true
	case corev1.RestartPolicyOnFailure:
		return latest.ExitCode != 0
	}
	return false
}

func (p *planner) ephemeralContainers(sandbox *observed.Sandbox) {
	for i := range p.Pod.Spec.EphemeralContainers {
		c := corev1.Container(p.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if p.latest(c.Name) == nil {
			p.start(&c, nil)
		}
	}
}

func (p *planner) start(c *corev1.Container, latest *observed.Container) {
	s := Step{Do: StartContainer, Container: c.Name, Round: p.round}
	if latest == nil {
		p.do(s)
		return
	}
	if latest.State == observed.Lost {
		return // collect stops it first: it must not run twice
	}
	s.Attempt = latest.Attempt + 1
	if latest.State == observed.Created {
		s.ID, s.Attempt = latest.ID, latest.Attempt // made anew under the same number
	}
	if !p.Busy[s.Key()] && p.backsOff(c.Name, latest) {
		return
	}
	p.do(s)
}

// backsOff returns whether a container has to wait before it is started again, and says so.
func (p *planner) backsOff(name string, latest *observed.Container) bool {
	b := p.Backoff[name]
	until := b.until(latest.Ended)
	if !p.Now.Before(until) {
		return false
	}
	p.Waiting[name] = status.Waiting{
		Reason:  "CrashLoopBackOff",
		Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)", b.Delay, name, p.Pod.Name, p.Pod.Namespace, p.Pod.UID),
	}
	p.lookAt(until)
	return true
}

// latest is a container's newest run. Where the runtime lost its record, what the API remembers stands in for it: an
// ended container must not run again because of a new disk.
func (p *planner) latest(name string) *observed.Container {
	if c := p.Runtime.Latest(name); c != nil {
		return c
	}
	for _, list := range [][]corev1.ContainerStatus{p.Pod.Status.InitContainerStatuses, p.Pod.Status.ContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.Name != name || s.ContainerID == "" {
				continue
			}
			c := &observed.Container{Name: name, State: observed.Exited, Attempt: uint32(s.RestartCount), ExitCode: 137}
			if t := s.State.Terminated; t != nil {
				c.ExitCode, c.Finished = t.ExitCode, t.FinishedAt.Time
			}
			return c
		}
	}
	return nil
}

// checkRunning kills a container that must be replaced; its restart follows when it has ended.
func (p *planner) checkRunning(c *corev1.Container, latest *observed.Container) {
	if latest.Hash != "" && latest.Hash != translate.Hash(c) {
		p.do(Step{Do: KillContainer, ID: latest.ID, Container: c.Name, Grace: translate.Grace(p.Pod),
			Message: fmt.Sprintf("Container %s definition changed, will be restarted", c.Name)})
		return
	}
	if probe, ok := p.Unhealthy[latest.ID]; ok {
		grace := translate.Grace(p.Pod)
		asked := map[health.Probe]*corev1.Probe{health.Liveness: c.LivenessProbe, health.Startup: c.StartupProbe}[probe]
		if asked != nil && asked.TerminationGracePeriodSeconds != nil {
			grace = *asked.TerminationGracePeriodSeconds
		}
		p.do(Step{Do: KillContainer, ID: latest.ID, Container: c.Name, Grace: grace,
			Message: fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, probe)})
	}
}

// resize tells the kernel what running containers ask for now. Some want to be restarted for it.
func (p *planner) resize() {
	p.Resizing = p.Resized
	for name := range p.Runtime.Containers {
		c, latest := translate.Find(p.Pod, name), p.Runtime.Latest(name)
		if c == nil || latest.State != observed.Running || latest.Bounds == (translate.Bounds{}) || latest.Bounds == latest.Wanted(c) {
			continue
		}
		p.Resizing = true
		if restartsFor(c, latest.Bounds, latest.Wanted(c)) {
			p.do(Step{Do: KillContainer, ID: latest.ID, Container: c.Name, Grace: translate.Grace(p.Pod),
				Message: fmt.Sprintf("Container %s resize requires restart", c.Name)})
		}
	}
	if p.Resizing {
		p.do(Step{Do: Resize})
	}
}

// move brings running containers to the CPUs they are to run on. Those of a pod that ends are no exception: others may have
// their CPUs to themselves by now.
func (p *planner) move() {
	for _, c := range p.Runtime.Running() {
		if cpus := p.CPUs[c.Name]; cpus != "" && cpus != c.CPUs {
			p.do(Step{Do: Move})
		}
	}
}

// restartsFor says whether the container's author wants it restarted for this change.
func restartsFor(c *corev1.Container, from, to translate.Bounds) bool {
	return slices.ContainsFunc(c.ResizePolicy, func(r corev1.ContainerResizePolicy) bool {
		changed := from.Memory != to.Memory
		if r.ResourceName == corev1.ResourceCPU {
			changed = from.Shares != to.Shares || from.Quota != to.Quota
		}
		return r.RestartPolicy == corev1.RestartContainer && changed
	})
}

// collect stops what nobody knows to run, and removes what only takes space: all but the newest ended run of each
// container, older ones that never started, and sandboxes that were replaced and hold no container any more. On a full
// disk only the runs stay that say what to do next.
func (p *planner) collect() {
	if p.cause != nil && slices.ContainsFunc(slices.Concat(p.Pod.Spec.InitContainers, p.Pod.Spec.Containers), func(c corev1.Container) bool { return p.earlier(p.Runtime.Latest(c.Name)) }) {
		return // that run says which round it is until all are in it
	}
	used := map[string]bool{}
	for name, runs := range p.Runtime.Containers {
		dead, keep := 0, 1
		if p.Sweep && (p.Over && p.Reported || runs[0].State == observed.Running) {
			keep = 0
		}
		for i := range runs {
			used[runs[i].Sandbox] = true
			if p.Busy[startKey(name)] {
				continue
			}
			remove := Step{Do: RemoveContainer, ID: runs[i].ID, Container: name, Attempt: runs[i].Attempt}
			switch runs[i].State {
			case observed.Exited:
				if dead++; dead > keep {
					p.do(remove)
				}
			case observed.Created: // the newest is made anew by its start
				if i > 0 {
					p.do(remove)
				}
			case observed.Lost:
				p.do(Step{Do: KillContainer, ID: runs[i].ID, Container: name, Grace: translate.Grace(p.Pod),
					Message: fmt.Sprintf("Container %s is in an unknown state, it will be stopped", name)})
			}
		}
	}
	for i := range p.Runtime.Sandboxes {
		if s := &p.Runtime.Sandboxes[i]; i > 0 && !used[s.ID] && !p.Busy[string(CreateSandbox)] {
			p.do(Step{Do: RemoveSandbox, ID: s.ID})
		}
	}
}

// --- a pod that has ended by itself

// finished: every container has ended and none will be started again, or an init container failed for good.
func (p *planner) finished() bool {
	if ph := p.Pod.Status.Phase; ph == corev1.PodSucceeded || ph == corev1.PodFailed {
		return true
	}
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		latest := p.latest(c.Name)
		if !status.Restartable(c) && latest != nil && !p.earlier(latest) && latest.State == observed.Exited && latest.ExitCode != 0 && !p.again(c, latest) {
			return true
		}
	}
	for i := range p.Pod.Spec.Containers {
		c := &p.Pod.Spec.Containers[i]
		latest := p.latest(c.Name)
		if latest == nil || p.earlier(latest) || latest.State != observed.Exited || p.again(c, latest) || p.Busy[startKey(c.Name)] {
			return false
		}
	}
	return len(p.Pod.Spec.Containers) > 0
}

// --- a pod that is brought to its end

func (p *planner) windDown(e Ending) {
	if p.starting() {
		return // these were told to stop; what they leave is seen when they have
	}
	if !p.killAll(e) {
		return
	}
	for i := range p.Runtime.Sandboxes {
		if id := p.Runtime.Sandboxes[i].ID; !p.Stopped[id] {
			p.do(Step{Do: StopSandbox, ID: id})
		}
	}
	if slices.ContainsFunc(p.Runtime.Sandboxes, func(s observed.Sandbox) bool { return !p.Stopped[s.ID] }) {
		return
	}
	p.Over = true
	if !p.Cleaned {
		p.do(Step{Do: Clean})
		return
	}
	if e.Gone || e.Deleted && p.Reported {
		p.do(Step{Do: Finish})
		return
	}
	p.collect()
}

func (p *planner) starting() bool {
	for key := range p.Busy {
		if key == string(Mount) || key == string(CreateSandbox) || len(key) > 6 && key[:6] == startKey("") {
			return true
		}
	}
	return false
}

// killAll returns whether nothing runs any more. Sidecars end after the containers they serve, in reverse order.
func (p *planner) killAll(e Ending) bool {
	order := map[string]int{}
	for i := range p.Pod.Spec.InitContainers {
		if status.Restartable(&p.Pod.Spec.InitContainers[i]) {
			order[p.Pod.Spec.InitContainers[i].Name] = i + 1
		}
	}
	var last *observed.Container
	mains := 0
	alive := p.Runtime.Alive()
	for i := range alive {
		c := &alive[i]
		rank := order[c.Name]
		if rank == 0 {
			mains++
			p.kill(c, e)
		} else if last == nil || rank > order[last.Name] {
			last = c
		}
	}
	if mains == 0 && last != nil {
		p.kill(last, e)
	}
	return len(alive) == 0
}

func (p *planner) kill(c *observed.Container, e Ending) {
	p.do(Step{Do: KillContainer, ID: c.ID, Container: c.Name, Grace: e.Grace, Last: true, Message: fmt.Sprintf("Stopping container %s", c.Name)})
}

// Backoff delays the restarts of a container that keeps ending.
type Backoff struct {
	Delay time.Duration // before the next restart
	Last  time.Time     // when the latest restart was made
}

const (
	firstDelay = 10 * time.Second
	maxDelay   = 5 * time.Minute
	calmAfter  = 10 * time.Minute // of running, and the count begins anew
)

// until is when a container that was seen to have ended may be started again.
func (b Backoff) until(ended time.Time) time.Time {
	if b.Delay == 0 || ended.Sub(b.Last) > calmAfter {
		return time.Time{}
	}
	return ended.Add(b.Delay)
}

// next is the delay after one more restart, most at most.
func (b Backoff) next(ended, now time.Time, most time.Duration) Backoff {
	if b.Delay == 0 || ended.Sub(b.Last) > calmAfter {
		return Backoff{Delay: min(firstDelay, most), Last: now}
	}
	return Backoff{Delay: min(2*b.Delay, most), Last: now}
}

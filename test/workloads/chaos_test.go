package workloads_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/podcontrol"
)

var (
	seed       = flag.Uint64("seed", 0, "of the random operations; a failure says which it was. 0 runs a few short ones")
	operations = flag.Int("operations", 200, "how many random operations, with a seed")
)

// The seeds of the short runs, and their length: together they hurt every kind and do everything that can be done.
var (
	shortSeeds = []uint64{1, 2}
	shortRun   = 14
)

const most = 4 // the largest size chaos asks for

// subject is a workload in its user's hands.
type subject struct {
	name   string
	object func() client.Object // as it is made
	size   int                  // replicas, or parallelism
	image  string
	rolls  bool // a new image replaces its pods
	told   bool // it has a size that can be told
	paused bool
	queue  *atomic.Int64 // its autoscaler is told the size by the length of this, ten for a pod; nil: nothing scales it
}

// chaos does to one workload of every kind what users and machines do, in an order the seed decides.
type chaos struct {
	t        *testing.T
	ns       string
	random   *rand.Rand
	nodes    []string
	subjects []*subject
	history  *recorder
	looks    int32    // of the autoscaler
	log      []string // since the last calm
}

// TestOwnersSettleAfterChaos: whatever happened, every workload ends as it was last told to be, and at no moment was there a
// pod too many, or one too few for its owner to end it.
func TestOwnersSettleAfterChaos(t *testing.T) {
	if *seed != 0 {
		chaosOf(t, *seed, *operations)
		return
	}
	for _, s := range shortSeeds {
		t.Run(fmt.Sprint("seed ", s), func(t *testing.T) { chaosOf(t, s, shortRun) })
	}
}

func chaosOf(t *testing.T, seed uint64, operations int) {
	t.Logf("go test ./test/workloads -run TestOwnersSettleAfterChaos -v -seed %d -operations %d", seed, operations)
	c := &chaos{t: t, ns: newNamespace(t, fmt.Sprint("chaos-", seed)), random: rand.New(rand.NewPCG(seed, 0))}
	for i := range 3 {
		name := fmt.Sprintf("chaos-%d-%d", seed, i)
		addNode(t, name)
		c.nodes = append(c.nodes, name)
	}
	t.Cleanup(func() {
		control.wrong.Store(0)
		control.passed.Store(0)
		control.line.Mend(0)
	})
	c.history = record(t, c.ns)
	c.begin()
	c.settle()
	for done := 0; done < operations; {
		for range min(1+c.random.IntN(3), operations-done) {
			c.disturb()
			done++
		}
		c.settle()
	}
	c.history.stop()
	history := c.history.history()
	for _, a := range judge(history) {
		t.Errorf("what no controller may do: %v, after\n\t%s", a, strings.Join(excerpt(history, a), "\n\t"))
	}
}

func (c *chaos) begin() {
	here := map[string]string{"story": c.ns}
	template := func(name string) corev1.PodTemplateSpec { return newDeployment(c.ns, name, "app:1", 0).Spec.Template }
	set := func(name string, change func(*appsv1.StatefulSet)) func() client.Object {
		return func() client.Object { s := newStatefulSet(c.ns, name, 3); change(s); return s }
	}
	daemon := func(name string, strategy appsv1.DaemonSetUpdateStrategy) func() client.Object {
		return func() client.Object {
			ds := newDaemonSet(c.ns, name)
			ds.Spec.Template.Spec.NodeSelector, ds.Spec.UpdateStrategy = here, strategy
			return ds
		}
	}
	job := func(name string, mode batchv1.CompletionMode) func() client.Object {
		return func() client.Object {
			job := newJob(c.ns, name, "app:1", 8)
			job.Spec.Parallelism, job.Spec.CompletionMode, job.Spec.BackoffLimit = ptr.To[int32](3), &mode, ptr.To[int32](1000)
			return job
		}
	}
	cron := func(name string, policy batchv1.ConcurrencyPolicy) func() client.Object {
		return func() client.Object {
			spec := newJob(c.ns, name, "app:1", 1).Spec
			spec.BackoffLimit = ptr.To[int32](1000)
			return &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: name}, Spec: batchv1.CronJobSpec{
				Schedule: "* * * * *", ConcurrencyPolicy: policy, JobTemplate: batchv1.JobTemplateSpec{Spec: spec},
			}}
		}
	}
	c.subjects = []*subject{
		{name: "controller", told: true, object: func() client.Object {
			return &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "controller"},
				Spec: corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](3), Template: ptr.To(template("controller"))}}
		}},
		{name: "set", told: true, object: func() client.Object {
			return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "set"}, Spec: appsv1.ReplicaSetSpec{
				Replicas: ptr.To[int32](3), Template: template("set"), Selector: &metav1.LabelSelector{MatchLabels: template("set").Labels}}}
		}},
		{name: "rolled", told: true, rolls: true, object: func() client.Object { return newDeployment(c.ns, "rolled", "app:1", 3) }},
		{name: "recreated", told: true, rolls: true, object: func() client.Object {
			d := newDeployment(c.ns, "recreated", "app:1", 3)
			d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType
			return d
		}},
		{name: "scaled", told: true, rolls: true, queue: adapter(c.t, c.ns), object: func() client.Object {
			d := newDeployment(c.ns, "scaled", "app:1", 3)
			d.Annotations = map[string]string{askedBy: "3"}
			return d
		}},
		{name: "ordered", told: true, rolls: true, object: set("ordered", func(*appsv1.StatefulSet) {})},
		{name: "parallel", told: true, rolls: true, object: set("parallel", func(s *appsv1.StatefulSet) {
			s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: ptr.To(intstr.FromInt32(2))}
		})},
		{name: "daemon", rolls: true, object: daemon("daemon", appsv1.DaemonSetUpdateStrategy{})},
		{name: "surging", rolls: true, object: daemon("surging", appsv1.DaemonSetUpdateStrategy{RollingUpdate: &appsv1.RollingUpdateDaemonSet{
			MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0)),
		}})},
		{name: "manual", object: daemon("manual", appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType})},
		{name: "batch", told: true, object: job("batch", batchv1.NonIndexedCompletion)},
		{name: "indexed", told: true, object: job("indexed", batchv1.IndexedCompletion)},
		{name: "allow", object: cron("allow", batchv1.AllowConcurrent)},
		{name: "forbid", object: cron("forbid", batchv1.ForbidConcurrent)},
		{name: "replace", object: cron("replace", batchv1.ReplaceConcurrent)},
	}
	for _, s := range c.subjects {
		s.size, s.image = 3, "app:1"
		create(c.t, s.object())
		if s.queue != nil {
			s.queue.Store(30)
			create(c.t, byQueue(c.ns, s.name, most))
		}
	}
	create(c.t, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "controller"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: template("controller").Labels},
	}})
}

// disturb does one thing.
func (c *chaos) disturb() {
	s := c.subjects[c.random.IntN(len(c.subjects))]
	switch n := c.random.IntN(100); {
	case n < 25:
		c.resize(s)
	case n < 42:
		c.update(s)
	case n < 70:
		c.hurt(s)
	case n < 76:
		c.pause(s)
	case n < 82:
		c.move()
	case n < 85:
		c.setClock()
	case n < 90:
		c.note("the watches of pods are down")
		control.line.Blind()
	case n < 95:
		c.note("the API is cut off")
		control.line.Cut()
	default:
		c.kill()
	}
}

func (c *chaos) note(format string, args ...any) {
	c.log = append(c.log, fmt.Sprintf(format, args...))
	c.t.Logf(format, args...)
}

// kill is a kill -9 of the controllers, and their restart.
func (c *chaos) kill() {
	c.note("the controllers are killed")
	control.wrong.Store(0) // a process that starts believes its clock
	control.line.Kill()
	_ = control.stop() // what a killed process says nobody hears
	if err := control.start(); err != nil {
		c.t.Fatal(err)
	}
}

// setClock sets the machine's clock a year ahead or back.
func (c *chaos) setClock() {
	by := 365 * 24 * time.Hour
	if c.random.IntN(2) == 0 {
		by = -by
	}
	c.note("the clock is set off by %v", by)
	control.wrong.Store(int64(by))
}

func (c *chaos) resize(s *subject) {
	if !s.told {
		c.wait(s)
		return
	}
	s.size = c.random.IntN(most + 1)
	c.note("%s is to have %d pods", s.name, s.size)
	if s.queue != nil {
		c.patch(s, `{"metadata":{"annotations":{%q:"%d"}}}`, askedBy, s.size)
		c.measure(s)
		return
	}
	field := "replicas"
	if _, job := s.object().(*batchv1.Job); job {
		field = "parallelism"
	}
	c.patch(s, `{"spec":{%q:%d}}`, field, s.size)
}

// measure fills a queue, and has the autoscaler look at it now: any change of its spec does.
func (c *chaos) measure(s *subject) {
	length := 10 * s.size
	if s.paused {
		length = -1
	}
	s.queue.Store(int64(length))
	c.looks++
	patch(c.t, byQueue(c.ns, s.name, 0), fmt.Sprintf(`{"spec":{"maxReplicas":%d}}`, most+c.looks%2))
}

// wait lets minutes pass, which cron jobs are made of; DaemonSets go by nodes.
func (c *chaos) wait(s *subject) {
	if _, cron := s.object().(*batchv1.CronJob); !cron {
		c.move()
		return
	}
	minutes := 1 + c.random.IntN(3)
	c.note("%d minutes pass", minutes)
	c.pass(time.Duration(minutes) * time.Minute)
}

// pass lets time pass for the controllers, whose timers run on real time.
func (c *chaos) pass(d time.Duration) {
	control.passed.Add(int64(d))
	for _, s := range c.subjects {
		switch s.object().(type) {
		case *batchv1.Job, *batchv1.CronJob:
			c.patch(s, `{"metadata":{"annotations":{"now":%q}}}`, time.Duration(control.passed.Load()).String())
		}
		if s.queue != nil {
			c.measure(s)
		}
	}
}

func (c *chaos) update(s *subject) {
	switch s.object().(type) {
	case *batchv1.Job, *batchv1.CronJob:
		c.finish(s)
		return
	}
	s.image = fmt.Sprintf("app:%d", 1+c.random.IntN(3))
	c.note("%s is to run %s", s.name, s.image)
	c.patch(s, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, s.image)
}

// pods are those of a subject that run, in an order that does not change.
func (c *chaos) pods(s *subject) []corev1.Pod {
	pods := slices.DeleteFunc(podsOf(c.t, c.ns, s.name), func(p corev1.Pod) bool { return !podcontrol.Active(&p) })
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Spec.NodeName, b.Spec.NodeName), cmp.Compare(a.Name, b.Name))
	})
	return pods
}

// finish lets pods of a job end well.
func (c *chaos) finish(s *subject) {
	pods := c.pods(s)
	if len(pods) == 0 {
		return
	}
	for _, pod := range pods[:1+c.random.IntN(len(pods))] {
		c.note("%s ends well", pod.Name)
		c.mark(&pod, "finished", func() error { return c.phase(&pod, corev1.PodSucceeded) })
	}
}

// hurt deletes a pod, politely or not, fails it, evicts it or takes it from its owner.
func (c *chaos) hurt(s *subject) {
	pods := c.pods(s)
	if len(pods) == 0 {
		return
	}
	pod := &pods[c.random.IntN(len(pods))]
	_, job := s.object().(*batchv1.Job)
	_, cron := s.object().(*batchv1.CronJob)
	switch n := c.random.IntN(5); {
	case n == 0:
		c.note("%s is deleted", pod.Name)
		c.mark(pod, "deleted", func() error { return api.Delete(c.t.Context(), pod) })
	case n == 1:
		c.note("%s is gone at once", pod.Name)
		c.mark(pod, "gone", func() error { return api.Delete(c.t.Context(), pod, client.GracePeriodSeconds(0)) })
	case n == 2 && s.name == "controller":
		c.note("%s is evicted", pod.Name)
		err := api.SubResource("eviction").Create(c.t.Context(), pod, &policyv1.Eviction{})
		if !apierrors.IsTooManyRequests(err) && client.IgnoreNotFound(err) != nil {
			c.t.Fatal(err)
		}
	case n <= 3 || job || cron:
		c.note("%s fails", pod.Name)
		c.mark(pod, "failed", func() error { return c.phase(pod, corev1.PodFailed) })
	default:
		c.note("%s is taken away", pod.Name)
		c.mark(pod, "taken", func() error {
			before := pod.DeepCopy()
			pod.Labels["app"] = "stray"
			return api.Patch(c.t.Context(), pod, client.MergeFrom(before))
		})
	}
}

// mark says in a pod that it is not its owner who ends it, and does so.
func (c *chaos) mark(pod *corev1.Pod, how string, act func() error) {
	before := pod.DeepCopy()
	pod.Annotations = maps.Clone(pod.Annotations)
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[hurtBy] = how
	err := api.Patch(c.t.Context(), pod, client.MergeFrom(before))
	if err == nil {
		err = act()
	}
	if client.IgnoreNotFound(err) != nil {
		c.t.Fatal(err)
	}
}

func (c *chaos) phase(pod *corev1.Pod, phase corev1.PodPhase) error {
	before := pod.DeepCopy()
	pod.Status.Phase = phase
	return api.Status().Patch(c.t.Context(), pod, client.MergeFrom(before))
}

// pause pauses a Deployment, suspends a job or hides a queue from its autoscaler until the next calm, or ends that.
func (c *chaos) pause(s *subject) {
	field := ""
	switch s.object().(type) {
	case *appsv1.Deployment:
		field = "paused"
	case *batchv1.Job, *batchv1.CronJob:
		field = "suspend"
	default:
		return
	}
	s.paused = !s.paused
	c.note("%s: paused %v", s.name, s.paused)
	if s.queue != nil {
		c.measure(s)
		return
	}
	c.patch(s, `{"spec":{%q:%v}}`, field, s.paused)
}

// move takes a node from the DaemonSets, or gives it back. One always stays.
func (c *chaos) move() {
	label := c.ns
	if c.random.IntN(2) == 0 {
		label = "elsewhere"
	}
	node := c.nodes[1+c.random.IntN(len(c.nodes)-1)]
	c.note("%s is of story %q", node, label)
	c.label(node, label)
}

func (c *chaos) label(node, story string) {
	patch(c.t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, fmt.Sprintf(`{"metadata":{"labels":{"story":%q}}}`, story))
}

func (c *chaos) patch(s *subject, body string, args ...any) {
	c.t.Helper()
	patch(c.t, s.object(), fmt.Sprintf(body, args...))
}

// settle makes the world whole again and waits until every workload is as it was last told to be.
func (c *chaos) settle() {
	control.wrong.Store(0)
	control.line.Mend(c.now())
	if err := api.DeleteAllOf(c.t.Context(), &corev1.Pod{}, client.InNamespace(c.ns), client.MatchingLabels{"app": "stray"}); err != nil { // their names are free again
		c.t.Fatal(err)
	}
	for _, node := range c.nodes {
		c.label(node, c.ns)
	}
	for _, s := range c.subjects {
		if s.paused {
			c.pause(s)
		}
		if s.queue != nil {
			c.measure(s)
		}
	}
	c.beat()
	deadline := time.After(3 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for looks := 1; ; looks++ {
		unsettled := c.unsettled()
		if len(unsettled) == 0 {
			break
		}
		if looks%50 == 0 {
			c.pass(10 * time.Minute) // whatever is held back after a failure
			c.beat()
		}
		select {
		case <-deadline:
			c.t.Fatalf("after\n\t%s\nnot settled in time:\n\t%s", strings.Join(c.log, "\n\t"), strings.Join(unsettled, "\n\t"))
		case <-tick.C:
		}
	}
	c.history.calm(c.ns)
	c.log = nil
}

// beat is a sign of life of the nodes.
func (c *chaos) beat() {
	body := fmt.Appendf(nil, `{"status":{"conditions":[{"type":"Ready","lastHeartbeatTime":%q}]}}`, time.Now().UTC().Format(time.RFC3339))
	for _, name := range c.nodes {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := api.Status().Patch(c.t.Context(), node, client.RawPatch(types.StrategicMergePatchType, body)); err != nil {
			c.t.Fatal(err)
		}
	}
}

// now is the version the datastore is at.
func (c *chaos) now() uint64 {
	var list corev1.PodList
	if err := api.List(c.t.Context(), &list, client.InNamespace(c.ns)); err != nil {
		c.t.Fatal(err)
	}
	return versionOf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{ResourceVersion: list.ResourceVersion}})
}

// unsettled says whose pods are not those it was told to have.
func (c *chaos) unsettled() (complaints []string) {
	for _, s := range c.subjects {
		var complaint string
		switch s.object().(type) {
		case *batchv1.Job:
			complaint = c.unfinished(s)
		case *batchv1.CronJob:
			complaint = c.behind(s)
		default:
			complaint = c.unkept(s)
		}
		if complaint != "" {
			complaints = append(complaints, s.name+": "+complaint)
		}
	}
	return complaints
}

// unkept is what a workload lacks that keeps its pods.
func (c *chaos) unkept(s *subject) string {
	want, keepsFailed := s.size, false
	switch s.object().(type) {
	case *appsv1.DaemonSet:
		want = len(c.nodes)
	case *appsv1.Deployment, *appsv1.ReplicaSet, *corev1.ReplicationController:
		keepsFailed = true // to be looked at
	}
	good, left := 0, 0
	for _, pod := range podsOf(c.t, c.ns, s.name) {
		switch {
		case keepsFailed && pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil:
		case serving(&pod) && (!s.rolls || pod.Spec.Containers[0].Image == s.image):
			good++
		default:
			left++
		}
	}
	if good != want || left > 0 {
		return fmt.Sprintf("%d good pods and %d others, want %d of %s", good, left, want, s.image)
	}
	if s.queue != nil {
		return c.unscaled(s)
	}
	return ""
}

// unscaled is what an autoscaler lacks: it may still go by an older length of its queue.
func (c *chaos) unscaled(s *subject) string {
	var scaler autoscalingv2.HorizontalPodAutoscaler
	if err := api.Get(c.t.Context(), client.ObjectKey{Namespace: c.ns, Name: s.name}, &scaler); err != nil {
		c.t.Fatal(err)
	}
	if ptr.Deref(scaler.Status.ObservedGeneration, 0) != scaler.Generation || int(scaler.Status.DesiredReplicas) != s.size {
		return fmt.Sprintf("autoscaler of generation %d, status %+v", scaler.Generation, scaler.Status)
	}
	return ""
}

// unfinished is what a job lacks; one that has finished is replaced by the next of its name.
func (c *chaos) unfinished(s *subject) string {
	var job batchv1.Job
	if err := api.Get(c.t.Context(), client.ObjectKey{Namespace: c.ns, Name: s.name}, &job); err != nil {
		c.t.Fatal(err)
	}
	if finished(&job) {
		if job.Status.Succeeded != *job.Spec.Completions {
			c.t.Errorf("%s: complete with status %+v", s.name, job.Status)
		}
		if err := api.Delete(c.t.Context(), &job, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
			c.t.Fatal(err)
		}
		s.size = 3
		create(c.t, s.object())
		return "begins anew"
	}
	want := min(s.size, int(*job.Spec.Completions-job.Status.Succeeded))
	running := 0
	for _, pod := range podsOf(c.t, c.ns, s.name) {
		switch {
		case !metav1.IsControlledBy(&pod, &job) || pod.DeletionTimestamp != nil:
			return "pods of an earlier one, or that end"
		case !podcontrol.Terminal(&pod):
			running++
		case slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer):
			return pod.Name + " is not counted"
		}
	}
	if running != want || int(job.Status.Active) != want || int(ptr.Deref(job.Status.Ready, 0)) != want {
		return fmt.Sprintf("%d pods run, want %d; status %+v", running, want, job.Status)
	}
	return ""
}

// behind is what a cron job lacks.
func (c *chaos) behind(s *subject) string {
	var cron batchv1.CronJob
	var jobs batchv1.JobList
	if err := api.Get(c.t.Context(), client.ObjectKey{Namespace: c.ns, Name: s.name}, &cron); err != nil {
		c.t.Fatal(err)
	}
	if err := api.List(c.t.Context(), &jobs, client.InNamespace(c.ns)); err != nil {
		c.t.Fatal(err)
	}
	active := 0
	for _, job := range jobs.Items {
		if !metav1.IsControlledBy(&job, &cron) || finished(&job) {
			continue
		}
		active++
		if job.DeletionTimestamp != nil || job.Status.Active != 1 || ptr.Deref(job.Status.Ready, 0) != 1 {
			return fmt.Sprintf("%s: status %+v", job.Name, job.Status)
		}
	}
	if active != len(cron.Status.Active) {
		return fmt.Sprintf("%d jobs run, its status has %d", active, len(cron.Status.Active))
	}
	return ""
}

package workloads_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/podcontrol"
)

// hurtBy is the annotation of a pod that somebody else than its owner ends.
const hurtBy = "chaos"

// askedBy is the annotation of a Deployment that says which size its autoscaler is told.
const askedBy = "asked"

// hurt says whether somebody else than its owner ends a pod.
func hurt(pod *corev1.Pod) bool { return pod.Annotations[hurtBy] != "" || evicted(pod) }

// evicted says whether the eviction API ends a pod.
func evicted(pod *corev1.Pod) bool {
	c := podcontrol.Condition(pod, corev1.DisruptionTarget)
	return c != nil && c.Status == corev1.ConditionTrue && c.Reason == "EvictionByEvictionAPI"
}

// span is what an owner was told since the last calm: a controller may act on any of it.
type span struct{ least, most int }

// chronicle is the cluster as a history tells it.
type chronicle struct {
	pods    map[types.UID]*corev1.Pod
	owners  map[types.UID]client.Object
	nodes   map[string]*corev1.Node
	sizes   map[types.UID]span
	asked   map[types.UID]span // which sizes an autoscaler was told for it since the last calm
	hurt    map[types.UID]int  // pods each owner lost to somebody else since the last calm
	changed map[types.UID]bool
	moved   map[string]bool // nodes that changed since the last calm

	succeeded map[types.UID]map[string]int // of a job, by index
	due       map[types.UID]map[string]bool

	found []accusation
}

// accusation is what an owner did that it may not.
type accusation struct {
	version uint64
	what    string
}

func (a accusation) String() string { return fmt.Sprintf("at %d: %s", a.version, a.what) }

// judge says where in a history an owner did what the rules of its kind forbid. What others do (hurt a pod, change a node,
// tell a new size) is no owner's fault, and until everything is calm again an owner may not know of it.
func judge(history []moment) []accusation {
	c := &chronicle{
		pods: map[types.UID]*corev1.Pod{}, owners: map[types.UID]client.Object{}, nodes: map[string]*corev1.Node{},
		sizes: map[types.UID]span{}, asked: map[types.UID]span{}, succeeded: map[types.UID]map[string]int{}, due: map[types.UID]map[string]bool{},
	}
	c.calm()
	for _, m := range history {
		switch o := m.object.(type) {
		case nil:
			c.calm()
		case *corev1.Pod:
			c.pod(o, m)
		case *corev1.Node:
			c.node(o, m.gone)
		default:
			c.owner(o, m)
		}
	}
	return c.found
}

func (c *chronicle) accuse(m moment, format string, args ...any) {
	c.found = append(c.found, accusation{m.version, fmt.Sprintf(format, args...)})
}

func (c *chronicle) calm() {
	c.hurt, c.changed, c.moved = map[types.UID]int{}, map[types.UID]bool{}, map[string]bool{}
	for uid, o := range c.owners {
		size := sizeOf(o)
		c.sizes[uid] = span{size, size}
		delete(c.asked, uid)
		c.ask(o)
	}
}

func (c *chronicle) node(node *corev1.Node, gone bool) {
	if before := c.nodes[node.Name]; before == nil || gone || !maps.Equal(before.Labels, node.Labels) {
		c.moved[node.Name] = true
	}
	c.nodes[node.Name] = node
	if gone {
		delete(c.nodes, node.Name)
	}
}

func (c *chronicle) owner(o client.Object, m moment) {
	uid := o.GetUID()
	before := c.owners[uid]
	if m.gone {
		delete(c.owners, uid)
		return
	}
	if job, ok := o.(*batchv1.Job); ok && before == nil {
		c.begin(job, m)
	}
	c.owners[uid] = o
	c.ask(o)
	size, known := sizeOf(o), c.sizes[uid]
	if asked, scaled := c.asked[uid]; scaled && before != nil && size != sizeOf(before) && (size < asked.least || size > asked.most) {
		c.accuse(m, "%s is scaled to %d, for %d to %d asked for", o.GetName(), size, asked.least, asked.most)
	}
	if before == nil {
		known = span{size, size}
	}
	c.sizes[uid] = span{min(known.least, size), max(known.most, size)}
	if before != nil && imageOf(before) != imageOf(o) {
		c.changed[uid] = true
	}
}

// ask notes which size an autoscaler is told for a Deployment, whose ReplicaSets have the same annotation.
func (c *chronicle) ask(o client.Object) {
	asked, err := strconv.Atoi(o.GetAnnotations()[askedBy])
	if _, deployment := o.(*appsv1.Deployment); !deployment || err != nil {
		return // it has none
	}
	known, found := c.asked[o.GetUID()]
	if !found {
		known = span{asked, asked}
	}
	c.asked[o.GetUID()] = span{min(known.least, asked), max(known.most, asked)}
}

// begin is a job's birth: a cron job makes one for each time it is due, and as its policy says.
func (c *chronicle) begin(job *batchv1.Job, m moment) {
	ref := metav1.GetControllerOfNoCopy(job)
	if ref == nil {
		return
	}
	cron, ok := c.owners[ref.UID].(*batchv1.CronJob)
	if !ok {
		return
	}
	due := job.Annotations[batchv1.CronJobScheduledTimestampAnnotation]
	if c.due[ref.UID] == nil {
		c.due[ref.UID] = map[string]bool{}
	}
	if c.due[ref.UID][due] {
		c.accuse(m, "cron job %s: a second job for %s", cron.Name, due)
	}
	c.due[ref.UID][due] = true
	for _, o := range c.owners {
		other, ok := o.(*batchv1.Job)
		if !ok || !metav1.IsControlledBy(other, cron) || finished(other) {
			continue
		}
		switch cron.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			c.accuse(m, "cron job %s: job %s begins while %s runs", cron.Name, job.Name, other.Name)
		case batchv1.ReplaceConcurrent:
			if other.DeletionTimestamp == nil {
				c.accuse(m, "cron job %s: job %s begins before %s is told to go", cron.Name, job.Name, other.Name)
			}
		}
	}
}

func finished(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue
	})
}

func (c *chronicle) pod(pod *corev1.Pod, m moment) {
	before := c.pods[pod.UID]
	c.pods[pod.UID] = pod
	if m.gone {
		delete(c.pods, pod.UID)
	}
	if before == nil {
		c.birth(pod, m)
		return
	}
	if podcontrol.Terminal(before) && !podcontrol.Terminal(pod) {
		c.accuse(m, "%s: a pod that has ended runs again, which its agent must not let it", pod.Name)
	}
	if hurt(pod) && !hurt(before) {
		c.hurt[c.root(before)]++
		if evicted(pod) {
			c.evict(before, m)
		}
	}
	if before.DeletionTimestamp == nil && before.Status.Phase != corev1.PodSucceeded && pod.Status.Phase == corev1.PodSucceeded {
		c.success(pod, m)
	}
	if !podcontrol.Active(before) || metav1.GetControllerOfNoCopy(before) == nil || hurt(pod) {
		return
	}
	if m.gone || pod.DeletionTimestamp != nil {
		c.death(before, m)
	}
}

// root is who answers for a pod: its controller, and of a replica set its Deployment.
func (c *chronicle) root(pod *corev1.Pod) types.UID {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return ""
	}
	if set, ok := c.owners[ref.UID].(*appsv1.ReplicaSet); ok {
		if above := metav1.GetControllerOfNoCopy(set); above != nil {
			return above.UID
		}
	}
	return ref.UID
}

// of are the pods an owner answers for, those that have ended or are about to among them.
func (c *chronicle) of(owner types.UID) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, pod := range c.pods {
		if c.root(pod) == owner {
			pods = append(pods, pod)
		}
	}
	return pods
}

func count(pods []*corev1.Pod, is func(*corev1.Pod) bool) (n int) {
	for _, pod := range pods {
		if is(pod) {
			n++
		}
	}
	return n
}

// serving is a pod that counts as available: ready, and meant to stay.
func serving(pod *corev1.Pod) bool { return podcontrol.Active(pod) && podcontrol.Ready(pod) }

// birth is a pod's creation, which nobody but its owner does.
func (c *chronicle) birth(pod *corev1.Pod, m moment) {
	if pod.DeletionTimestamp != nil {
		return
	}
	root := c.root(pod)
	pods, size := c.of(root), c.sizes[root]
	standing := count(pods, podcontrol.Active)
	switch o := c.owners[root].(type) {
	case *corev1.ReplicationController, *appsv1.ReplicaSet:
		if standing > size.most {
			c.accuse(m, "%s: %d pods of at most %d", o.GetName(), standing, size.most)
		}
	case *appsv1.Deployment:
		surge := 0
		if rolling := o.Spec.Strategy.RollingUpdate; rolling != nil {
			surge = share(rolling.MaxSurge, size.most, true)
		} else if other := slices.IndexFunc(pods, func(p *corev1.Pod) bool { return !podcontrol.Terminal(p) && revisionOf(p) != revisionOf(pod) }); other >= 0 {
			c.accuse(m, "%s: %s begins while %s of another revision runs", o.Name, pod.Name, pods[other].Name)
		}
		if standing > size.most+surge {
			c.accuse(m, "%s: %d pods of at most %d+%d", o.Name, standing, size.most, surge)
		}
	case *appsv1.StatefulSet:
		c.member(o, pod, pods, size, m)
	case *appsv1.DaemonSet:
		beside := slices.DeleteFunc(pods, func(p *corev1.Pod) bool { return p.UID == pod.UID || !podcontrol.Active(p) || nodeOf(p) != nodeOf(pod) })
		surging := surgeOf(o) > 0
		if len(beside) > 1 || len(beside) == 1 && (!surging || revisionOf(beside[0]) == revisionOf(pod)) {
			c.accuse(m, "%s: a pod on %s beside %d others", o.Name, nodeOf(pod), len(beside))
		}
	case *batchv1.Job:
		c.worker(o, pod, pods, size, m)
	}
}

// member is a StatefulSet's new pod.
func (c *chronicle) member(set *appsv1.StatefulSet, pod *corev1.Pod, pods []*corev1.Pod, size span, m moment) {
	ordinal := ordinalOf(pod)
	if ordinal >= size.most {
		c.accuse(m, "%s: %s of at most %d", set.Name, pod.Name, size.most)
	}
	well := map[int]bool{}
	for _, other := range pods {
		if other.UID != pod.UID && other.Name == pod.Name {
			c.accuse(m, "%s: a second %s", set.Name, pod.Name)
		}
		if serving(other) {
			well[ordinalOf(other)] = true
		}
	}
	sick := 0
	for i := range ordinal {
		if !well[i] {
			sick++
		}
	}
	if set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement && sick > c.hurt[set.UID] {
		c.accuse(m, "%s: %s begins while %d before it are not ready", set.Name, pod.Name, sick)
	}
}

// worker is a Job's new pod.
func (c *chronicle) worker(job *batchv1.Job, pod *corev1.Pod, pods []*corev1.Pod, size span, m moment) {
	standing, done := count(pods, podcontrol.Active), 0
	for _, n := range c.succeeded[job.UID] {
		done += n
	}
	if standing > size.most {
		c.accuse(m, "%s: %d pods of at most %d", job.Name, standing, size.most)
	}
	if wanted := int(ptr.Deref(job.Spec.Completions, 0)); wanted > 0 && done+standing > wanted {
		c.accuse(m, "%s: %d pods and %d successes for %d completions", job.Name, standing, done, wanted)
	}
	index := indexOf(pod)
	if index == "" {
		return
	}
	if c.succeeded[job.UID][index] > 0 {
		c.accuse(m, "%s: a pod for index %s, which has succeeded", job.Name, index)
	}
	if count(pods, func(p *corev1.Pod) bool { return podcontrol.Active(p) && indexOf(p) == index }) > 1 {
		c.accuse(m, "%s: two pods for index %s", job.Name, index)
	}
}

func (c *chronicle) success(pod *corev1.Pod, m moment) {
	root := c.root(pod)
	job, ok := c.owners[root].(*batchv1.Job)
	if !ok {
		return
	}
	if c.succeeded[root] == nil {
		c.succeeded[root] = map[string]int{}
	}
	index := indexOf(pod)
	c.succeeded[root][index]++
	if n := c.succeeded[root][index]; index != "" && n > 1 {
		c.accuse(m, "%s: index %s succeeds %d times", job.Name, index, n)
	}
}

// death is an owner ending a pod that stood. One that serves is only ended when enough others do.
func (c *chronicle) death(pod *corev1.Pod, m moment) {
	root := c.root(pod)
	pods, size := c.of(root), c.sizes[root]
	enough := func(least int) {
		if left := count(pods, serving) + c.hurt[root]; serving(pod) && left < least {
			c.accuse(m, "%s: %s ends and leaves %d serving of at least %d", c.owners[root].GetName(), pod.Name, left, least)
		}
	}
	switch o := c.owners[root].(type) {
	case *corev1.ReplicationController, *appsv1.ReplicaSet:
		enough(size.least)
	case *appsv1.Deployment:
		if rolling := o.Spec.Strategy.RollingUpdate; rolling != nil {
			enough(size.least - share(rolling.MaxUnavailable, size.least, false))
		}
	case *appsv1.StatefulSet:
		unavailable := 1
		if rolling := o.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.MaxUnavailable != nil {
			unavailable = share(rolling.MaxUnavailable, size.least, true)
		}
		enough(size.least - unavailable)
		above := func(p *corev1.Pod) bool { return ordinalOf(p) > ordinalOf(pod) }
		if o.Spec.PodManagementPolicy != appsv1.ParallelPodManagement && !c.changed[root] && count(pods, above) > c.hurt[root] {
			c.accuse(m, "%s: %s ends before those above it", o.Name, pod.Name)
		}
	case *appsv1.DaemonSet:
		c.leave(o, pod, pods, m)
	}
}

// leave is a daemon ended on a node that nothing happened to: an update goes from node to node as its strategy allows.
func (c *chronicle) leave(ds *appsv1.DaemonSet, pod *corev1.Pod, pods []*corev1.Pod, m moment) {
	if c.moved[nodeOf(pod)] || !serving(pod) {
		return
	}
	budget := c.hurt[ds.UID]
	switch rolling := ds.Spec.UpdateStrategy.RollingUpdate; {
	case ds.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType:
		c.accuse(m, "%s: %s ends, which only its user may", ds.Name, pod.Name)
		return
	case rolling != nil && rolling.MaxUnavailable != nil:
		budget += rolling.MaxUnavailable.IntValue()
	case surgeOf(ds) == 0:
		budget++
	}
	bare := 0
	for name, node := range c.nodes {
		if c.moved[name] || !wants(ds, node) {
			continue
		}
		if count(pods, func(p *corev1.Pod) bool { return serving(p) && nodeOf(p) == name }) == 0 {
			bare++
		}
	}
	if bare > budget {
		c.accuse(m, "%s: %s ends and leaves %d nodes without, of at most %d", ds.Name, pod.Name, bare, budget)
	}
}

// evict is an eviction the API granted for a budget of one pod. While sizes change, how many there should be is a matter of
// when one looks.
func (c *chronicle) evict(pod *corev1.Pod, m moment) {
	root := c.root(pod)
	size := c.sizes[root]
	if size.least != size.most || c.owners[root] == nil {
		return
	}
	others := count(c.of(root), func(p *corev1.Pod) bool { return serving(p) && p.UID != pod.UID })
	if left := others + c.hurt[root] - 1; left < size.least-1 {
		c.accuse(m, "%s: %s is evicted and leaves %d serving of at least %d", c.owners[root].GetName(), pod.Name, left, size.least-1)
	}
}

// sizeOf is how many pods an owner was told to have at a time.
func sizeOf(o client.Object) int {
	switch o := o.(type) {
	case *corev1.ReplicationController:
		return int(ptr.Deref(o.Spec.Replicas, 1))
	case *appsv1.ReplicaSet:
		return int(ptr.Deref(o.Spec.Replicas, 1))
	case *appsv1.Deployment:
		return int(ptr.Deref(o.Spec.Replicas, 1))
	case *appsv1.StatefulSet:
		return int(ptr.Deref(o.Spec.Replicas, 1))
	case *batchv1.Job:
		if ptr.Deref(o.Spec.Suspend, false) {
			return 0
		}
		return int(ptr.Deref(o.Spec.Parallelism, 1))
	}
	return 0
}

func imageOf(o client.Object) string {
	switch o := o.(type) {
	case *appsv1.Deployment:
		return o.Spec.Template.Spec.Containers[0].Image
	case *appsv1.StatefulSet:
		return o.Spec.Template.Spec.Containers[0].Image
	case *appsv1.DaemonSet:
		return o.Spec.Template.Spec.Containers[0].Image
	}
	return ""
}

func share(of *intstr.IntOrString, total int, up bool) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(of, total, up)
	if err != nil {
		panic(err) // the API server refuses what is neither a number nor a percentage
	}
	return n
}

func surgeOf(ds *appsv1.DaemonSet) int {
	if rolling := ds.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.MaxSurge != nil {
		return rolling.MaxSurge.IntValue()
	}
	return 0
}

func wants(ds *appsv1.DaemonSet, node *corev1.Node) bool {
	for key, value := range ds.Spec.Template.Spec.NodeSelector {
		if node.Labels[key] != value {
			return false
		}
	}
	return true
}

func revisionOf(pod *corev1.Pod) string {
	return cmp.Or(pod.Labels[appsv1.DefaultDeploymentUniqueLabelKey], pod.Labels[appsv1.ControllerRevisionHashLabelKey])
}

func indexOf(pod *corev1.Pod) string { return pod.Annotations[batchv1.JobCompletionIndexAnnotation] }

func ordinalOf(pod *corev1.Pod) int {
	n, err := strconv.Atoi(pod.Name[strings.LastIndex(pod.Name, "-")+1:])
	if err != nil {
		return -1
	}
	return n
}

// nodeOf is where a daemon is, or is meant to go.
func nodeOf(pod *corev1.Pod) string {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
	}
	return pod.Spec.NodeName
}

package workloads_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// owned makes a running, ready pod of an owner.
func owned(owner client.Object, kind, name string, changes ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{}, Annotations: map[string]string{}, OwnerReferences: []metav1.OwnerReference{
			{Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: ptr.To(true)},
		}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
	for _, change := range changes {
		change(pod)
	}
	return pod
}

func revision(of string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[appsv1.ControllerRevisionHashLabelKey] = of }
}
func index(i string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[batchv1.JobCompletionIndexAnnotation] = i }
}
func onNode(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }
func marked(how string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations[hurtBy] = how }
}
func thrownOut(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI"})
}
func ending(p *corev1.Pod)    { p.DeletionTimestamp = &metav1.Time{} }
func sick(p *corev1.Pod)      { p.Status.Conditions = nil }
func succeeded(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
func failed(p *corev1.Pod)    { p.Status.Phase = corev1.PodFailed }

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, UID: types.UID(name)}
}

var anything = corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "app:1"}}}}

func setOfSize(n int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: named("set"), Spec: appsv1.ReplicaSetSpec{Replicas: &n}}
}
func deploymentOfSize(n int32) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: named("web"), Spec: appsv1.DeploymentSpec{Replicas: &n, Template: anything, Strategy: appsv1.DeploymentStrategy{
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(1))},
	}}}
}
func membersOf(n int32, policy appsv1.PodManagementPolicyType) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{ObjectMeta: named("db"), Spec: appsv1.StatefulSetSpec{Replicas: &n, Template: anything, PodManagementPolicy: policy}}
}
func daemons(strategy appsv1.DaemonSetUpdateStrategy) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: named("agent"), Spec: appsv1.DaemonSetSpec{Template: anything, UpdateStrategy: strategy}}
}
func workers(parallelism, completions int32) *batchv1.Job {
	return &batchv1.Job{ObjectMeta: named("pi"), Spec: batchv1.JobSpec{Parallelism: &parallelism, Completions: &completions}}
}
func timed(policy batchv1.ConcurrencyPolicy) *batchv1.CronJob {
	return &batchv1.CronJob{ObjectMeta: named("report"), Spec: batchv1.CronJobSpec{ConcurrencyPolicy: policy}}
}
func due(cron *batchv1.CronJob, at string, changes ...func(*batchv1.Job)) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: named("report-" + at)}
	job.Annotations = map[string]string{batchv1.CronJobScheduledTimestampAnnotation: at}
	job.OwnerReferences = []metav1.OwnerReference{{Kind: "CronJob", UID: cron.UID, Controller: ptr.To(true)}}
	for _, change := range changes {
		change(job)
	}
	return job
}
func done(job *batchv1.Job) {
	job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
}
func told(job *batchv1.Job) { job.DeletionTimestamp = &metav1.Time{} }

// TestJudge: the judge of the chaos must be able to find something.
func TestJudge(t *testing.T) {
	var calm client.Object
	set := func(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
		return owned(setOfSize(0), "ReplicaSet", name, changes...)
	}
	web := func(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
		return owned(deploymentOfSize(0), "Deployment", name, changes...)
	}
	db := func(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
		return owned(membersOf(0, ""), "StatefulSet", name, changes...)
	}
	agent := func(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
		return owned(daemons(appsv1.DaemonSetUpdateStrategy{}), "DaemonSet", name, changes...)
	}
	pi := func(name string, changes ...func(*corev1.Pod)) *corev1.Pod {
		return owned(workers(0, 0), "Job", name, changes...)
	}
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: named(name)} }
	recreated := deploymentOfSize(2)
	recreated.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	surging := daemons(appsv1.DaemonSetUpdateStrategy{RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0))}})
	rolled := daemons(appsv1.DaemonSetUpdateStrategy{RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr.To(intstr.FromInt32(1))}})
	byHand := daemons(appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType})
	scaled := func(size int32, asked string) *appsv1.Deployment {
		d := deploymentOfSize(size)
		d.Annotations = map[string]string{askedBy: asked}
		return d
	}
	scaledSet := func(size int32) *appsv1.ReplicaSet {
		set := setOfSize(size)
		set.Annotations = map[string]string{askedBy: "1"}
		return set
	}
	forbid, replace, allow := timed(batchv1.ForbidConcurrent), timed(batchv1.ReplaceConcurrent), timed(batchv1.AllowConcurrent)

	tests := map[string]struct {
		story []client.Object
		want  string // in the only complaint; "" for none
	}{
		"a set fills up":                                      {story: []client.Object{setOfSize(2), set("a"), set("b")}},
		"a pod more than asked for":                           {story: []client.Object{setOfSize(1), set("a"), set("b")}, want: "2 pods of at most 1"},
		"a pod that is still asked for by an older word":      {story: []client.Object{setOfSize(2), set("a"), setOfSize(1), set("b")}},
		"an older word does not outlast a calm":               {story: []client.Object{setOfSize(2), set("a"), setOfSize(1), calm, set("b")}, want: "2 pods of at most 1"},
		"a replacement of one that ends":                      {story: []client.Object{setOfSize(1), set("a"), set("a", marked("deleted")), set("a", marked("deleted"), ending), set("b")}},
		"an end without a reason":                             {story: []client.Object{setOfSize(1), set("a"), set("a", ending)}, want: "leaves 0 serving of at least 1"},
		"an end of one that does not serve":                   {story: []client.Object{setOfSize(1), set("a", sick), set("a", sick, ending)}},
		"an end somebody else brought about":                  {story: []client.Object{setOfSize(1), set("a"), set("a", marked("deleted")), set("a", marked("deleted"), ending)}},
		"a rollout within its surge":                          {story: []client.Object{deploymentOfSize(2), web("a"), web("b"), web("c")}},
		"a rollout beyond its surge":                          {story: []client.Object{deploymentOfSize(2), web("a"), web("b"), web("c"), web("d")}, want: "4 pods of at most 2+1"},
		"a rollout that takes one away":                       {story: []client.Object{deploymentOfSize(2), web("a"), web("b"), web("b", ending)}},
		"a rollout that takes too many away":                  {story: []client.Object{deploymentOfSize(2), web("a"), web("b"), web("b", ending), web("a", ending)}, want: "leaves 0 serving of at least 1"},
		"a recreation before all is gone":                     {story: []client.Object{recreated, web("a", revision("1")), web("a", revision("1"), ending), web("b", revision("2"))}, want: "of another revision runs"},
		"members in order":                                    {story: []client.Object{membersOf(2, ""), db("db-0"), db("db-1")}},
		"a member out of order":                               {story: []client.Object{membersOf(2, ""), db("db-0", sick), db("db-1")}, want: "while 1 before it are not ready"},
		"a member beside one that was hurt just now":          {story: []client.Object{membersOf(2, ""), db("db-0"), db("db-0", marked("failed")), db("db-0", marked("failed"), sick), db("db-1")}},
		"members side by side":                                {story: []client.Object{membersOf(2, appsv1.ParallelPodManagement), db("db-1", sick), db("db-0", sick)}},
		"a member beyond the last":                            {story: []client.Object{membersOf(1, ""), db("db-0"), db("db-1")}, want: "db-1 of at most 1"},
		"a member twice":                                      {story: []client.Object{membersOf(1, ""), db("db-0"), db("db-0", func(p *corev1.Pod) { p.UID = "other" })}, want: "a second db-0"},
		"a member that leaves before those above it":          {story: []client.Object{membersOf(3, ""), db("db-0"), db("db-1"), db("db-2"), calm, membersOf(1, ""), db("db-1", ending)}, want: "before those above it"},
		"an update that ends two members":                     {story: []client.Object{membersOf(2, appsv1.ParallelPodManagement), db("db-0"), db("db-1"), db("db-1", ending), db("db-0", ending)}, want: "leaves 0 serving of at least 1"},
		"a daemon a node":                                     {story: []client.Object{rolled, node("a"), node("b"), agent("x", onNode("a")), agent("y", onNode("b"))}},
		"two daemons on one node":                             {story: []client.Object{rolled, node("a"), agent("x", onNode("a")), agent("y", onNode("a"))}, want: "a pod on a beside 1 others"},
		"two daemons of two revisions while surging":          {story: []client.Object{surging, node("a"), agent("x", onNode("a"), revision("1")), agent("y", onNode("a"), revision("2"))}},
		"two daemons of one revision while surging":           {story: []client.Object{surging, node("a"), agent("x", onNode("a"), revision("1")), agent("y", onNode("a"), revision("1"))}, want: "a pod on a beside 1 others"},
		"a surge that ends the old one first":                 {story: []client.Object{surging, node("a"), agent("x", onNode("a")), calm, agent("x", onNode("a"), ending)}, want: "leaves 1 nodes without, of at most 0"},
		"an update of one node":                               {story: []client.Object{rolled, node("a"), node("b"), agent("x", onNode("a")), agent("y", onNode("b")), calm, agent("x", onNode("a"), ending)}},
		"an update of two nodes at a time":                    {story: []client.Object{rolled, node("a"), node("b"), agent("x", onNode("a")), agent("y", onNode("b")), calm, agent("x", onNode("a"), ending), agent("y", onNode("b"), ending)}, want: "leaves 2 nodes without, of at most 1"},
		"an update that is its user's":                        {story: []client.Object{byHand, node("a"), agent("x", onNode("a")), calm, agent("x", onNode("a"), ending)}, want: "which only its user may"},
		"a daemon that leaves a node nobody means any more":   {story: []client.Object{byHand, node("a"), agent("x", onNode("a")), agent("x", onNode("a"), ending)}},
		"a job within its parallelism":                        {story: []client.Object{workers(2, 9), pi("a"), pi("b"), pi("b", succeeded), pi("c")}},
		"a job beyond its parallelism":                        {story: []client.Object{workers(2, 9), pi("a"), pi("b"), pi("c")}, want: "3 pods of at most 2"},
		"a job beyond its completions":                        {story: []client.Object{workers(2, 1), pi("a"), pi("a", succeeded), pi("b")}, want: "1 pods and 1 successes for 1 completions"},
		"a pod that is well again after its end":              {story: []client.Object{workers(2, 9), pi("a"), pi("a", failed), pi("a")}, want: "a pod that has ended runs again"},
		"a suspended job that goes on":                        {story: []client.Object{suspended(workers(2, 9)), pi("a")}, want: "1 pods of at most 0"},
		"an index twice at a time":                            {story: []client.Object{workers(2, 9), pi("a", index("0")), pi("b", index("0"))}, want: "two pods for index 0"},
		"an index that has succeeded":                         {story: []client.Object{workers(2, 9), pi("a", index("0")), pi("a", index("0"), succeeded), pi("b", index("0"))}, want: "index 0, which has succeeded"},
		"an index that succeeds twice":                        {story: []client.Object{workers(2, 9), pi("a", index("0")), pi("b", index("1")), pi("a", index("0"), succeeded), pi("b", index("0"), succeeded)}, want: "index 0 succeeds 2 times"},
		"a forbidden second job":                              {story: []client.Object{forbid, due(forbid, "1"), due(forbid, "2")}, want: "report-2 begins while report-1 runs"},
		"a second job after the first":                        {story: []client.Object{forbid, due(forbid, "1"), due(forbid, "1", done), due(forbid, "2")}},
		"a job that replaces one that stays":                  {story: []client.Object{replace, due(replace, "1"), due(replace, "2")}, want: "before report-1 is told to go"},
		"a job that replaces one that goes":                   {story: []client.Object{replace, due(replace, "1"), due(replace, "1", told), due(replace, "2")}},
		"a job beside another":                                {story: []client.Object{allow, due(allow, "1"), due(allow, "2")}},
		"a job twice for one time":                            {story: []client.Object{allow, due(allow, "1"), due(allow, "1", done, func(j *batchv1.Job) { j.UID = "again" })}, want: "a second job for 1"},
		"a size an autoscaler was told":                       {story: []client.Object{scaled(1, "1"), scaled(1, "3"), scaled(3, "3")}},
		"a size an autoscaler was told before":                {story: []client.Object{scaled(1, "1"), scaled(1, "3"), scaled(1, "0"), scaled(3, "0")}},
		"a size an autoscaler was not told":                   {story: []client.Object{scaled(1, "1"), scaled(1, "3"), scaled(4, "3")}, want: "scaled to 4, for 1 to 3 asked for"},
		"a size of a set of what an autoscaler was told":      {story: []client.Object{scaledSet(1), scaledSet(0)}},
		"a size an autoscaler was told long ago":              {story: []client.Object{scaled(3, "3"), scaled(3, "1"), scaled(1, "1"), calm, scaled(3, "1")}, want: "scaled to 3, for 1 to 1 asked for"},
		"an eviction a budget of one allows":                  {story: []client.Object{setOfSize(2), set("a"), set("b"), calm, set("a", thrownOut), set("a", thrownOut, ending)}},
		"an eviction that leaves fewer than the budget wants": {story: []client.Object{setOfSize(2), set("a"), set("b", sick), calm, set("a", thrownOut)}, want: "a is evicted and leaves 0 serving of at least 1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var history []moment
			for i, o := range tc.story {
				history = append(history, moment{version: uint64(i), object: o})
			}
			found := judge(history)
			if len(found) > 1 || (tc.want == "") != (len(found) == 0) || len(found) == 1 && !strings.Contains(found[0].what, tc.want) {
				t.Errorf("judge() = %v, want %q", found, tc.want)
			}
		})
	}
}

func suspended(job *batchv1.Job) *batchv1.Job {
	job.Spec.Suspend = ptr.To(true)
	return job
}

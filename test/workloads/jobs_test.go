package workloads_test

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func newJob(ns, name, image string, completions int32) *batchv1.Job {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: jobSpec(image, completions)}
	job.Spec.Template.Labels = map[string]string{"app": name}
	return job
}

func jobSpec(image string, completions int32) batchv1.JobSpec {
	return batchv1.JobSpec{
		Completions: &completions, Parallelism: ptr.To[int32](2), BackoffLimit: ptr.To[int32](0),
		Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: image}},
		}},
	}
}

func has(kind batchv1.JobConditionType) func(*batchv1.Job) bool {
	return func(job *batchv1.Job) bool {
		for _, c := range job.Status.Conditions {
			if c.Type == kind && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
}

func TestAJobIsCompleteWhenItsPodsHaveSucceeded(t *testing.T) {
	addNode(t, "batch")
	ns := newNamespace(t, "batch")
	indexed := newJob(ns, "indexed", "succeeds", 5)
	indexed.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	create(t, newJob(ns, "pi", "succeeds", 5), indexed)
	for _, name := range []string{"pi", "indexed"} {
		job := eventually(t, &batchv1.Job{}, ns, name, "complete", has(batchv1.JobComplete))
		if s := job.Status; s.Succeeded != 5 || s.Failed != 0 || s.Active != 0 || s.CompletionTime == nil || (name == "indexed") != (s.CompletedIndexes == "0-4") {
			t.Errorf("%s: status %+v", name, s)
		}
	}
	wantEvents(t, ns, "SuccessfulCreate", "Completed")
	if err := api.Delete(t.Context(), newJob(ns, "pi", "", 0), client.PropagationPolicy(metav1.DeletePropagationForeground)); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &batchv1.Job{}, ns, "pi")
	eventuallyEmpty(t, ns, "pi")
}

func TestAJobFailsAndGoesWhenItsTimeIsUp(t *testing.T) {
	addNode(t, "failing")
	ns := newNamespace(t, "failing")
	failing := newJob(ns, "broken", "fails", 1)
	create(t, failing)
	job := eventually(t, &batchv1.Job{}, ns, "broken", "failed", has(batchv1.JobFailed))
	if job.Status.Failed != 1 || !has(batchv1.JobFailureTarget)(job) {
		t.Errorf("status %+v", job.Status)
	}
	wantEvents(t, ns, "BackoffLimitExceeded")
	short := newJob(ns, "short", "succeeds", 1)
	short.Spec.TTLSecondsAfterFinished = ptr.To[int32](0)
	create(t, short)
	eventuallyGone(t, short, ns, "short")
}

func TestASuspendedJobHasNoPods(t *testing.T) {
	addNode(t, "patient")
	ns := newNamespace(t, "patient")
	create(t, newJob(ns, "pi", "runs", 2))
	job := eventually(t, &batchv1.Job{}, ns, "pi", "ready", func(j *batchv1.Job) bool { return ptr.Deref(j.Status.Ready, 0) == 2 })
	patch := client.MergeFrom(job.DeepCopy())
	job.Spec.Suspend = ptr.To(true)
	if err := api.Patch(t.Context(), job, patch); err != nil {
		t.Fatal(err)
	}
	eventually(t, &batchv1.Job{}, ns, "pi", "suspended", func(j *batchv1.Job) bool { return has(batchv1.JobSuspended)(j) && j.Status.Active == 0 })
	eventuallyEmpty(t, ns, "pi")
	wantEvents(t, ns, "Suspended")
}

func TestOrphansOfAJobCanBeDeleted(t *testing.T) {
	addNode(t, "left")
	ns := newNamespace(t, "left")
	create(t, newJob(ns, "pi", "runs", 1))
	job := eventually(t, &batchv1.Job{}, ns, "pi", "active", func(j *batchv1.Job) bool { return j.Status.Active == 1 })
	if err := api.Delete(t.Context(), job, client.PropagationPolicy(metav1.DeletePropagationOrphan)); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &batchv1.Job{}, ns, "pi")
	var pods corev1.PodList
	if err := api.List(t.Context(), &pods, client.InNamespace(ns)); err != nil || len(pods.Items) != 1 {
		t.Fatalf("%d pods, %v; want the orphan", len(pods.Items), err)
	}
	orphan := pods.Items[0].Name
	eventually(t, &corev1.Pod{}, ns, orphan, "free", func(p *corev1.Pod) bool { return len(p.Finalizers) == 0 })
}

func TestACronJobMakesJobs(t *testing.T) {
	addNode(t, "clock")
	ns := newNamespace(t, "clock")
	create(t, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "report"},
		Spec: batchv1.CronJobSpec{
			Schedule: "@every 1s", ConcurrencyPolicy: batchv1.ForbidConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: jobSpec("succeeds", 1)},
		},
	})
	c := eventually(t, &batchv1.CronJob{}, ns, "report", "successful once", func(c *batchv1.CronJob) bool { return c.Status.LastSuccessfulTime != nil })
	if c.Status.LastScheduleTime == nil {
		t.Errorf("status %+v", c.Status)
	}
	wantEvents(t, ns, "SawCompletedJob")
}

func TestABudgetIsSpentAndRefilled(t *testing.T) {
	addNode(t, "budget")
	ns := newNamespace(t, "budget")
	create(t, newDeployment(ns, "web", "app:1", 3), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	})
	full := func(b *policyv1.PodDisruptionBudget) bool {
		return b.Status.DisruptionsAllowed == 1 && b.Status.ExpectedPods == 3 && b.Status.CurrentHealthy == 3
	}
	eventually(t, &policyv1.PodDisruptionBudget{}, ns, "web", "full", full)
	var pods corev1.PodList
	if err := api.List(t.Context(), &pods, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range pods.Items {
		err := api.SubResource("eviction").Create(t.Context(), &pods.Items[i], &policyv1.Eviction{})
		if err != nil && !apierrors.IsTooManyRequests(err) {
			t.Fatal(err)
		}
		if err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Log("every eviction found the budget full again") // the replacement may be quicker than we are
	}
	eventually(t, &policyv1.PodDisruptionBudget{}, ns, "web", "full again", full)
}

package e2e

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// TestWorkThatEnds is the life of jobs, and of what bounds the pods of a namespace: budgets and quotas.
func TestWorkThatEnds(t *testing.T) {
	c := start(t)
	t.Run("an indexed Job", func(t *testing.T) { c.in(t).indexedJob() })
	t.Run("a Job that fails", func(t *testing.T) { c.in(t).failingJob() })
	t.Run("a CronJob", func(t *testing.T) { c.in(t).cronJob() })
	t.Run("a budget", func(t *testing.T) { c.in(t).disruptionBudget() })
	t.Run("a quota", func(t *testing.T) { c.in(t).quota() })
}

// work is a job of one container that is not started again in place.
func work(name string, args ...string) *batchv1.Job {
	spec := pod(name, app(args...)).Spec
	spec.RestartPolicy = corev1.RestartPolicyNever
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: batchv1.JobSpec{
			BackoffLimit: ptr.To[int32](0),
			Template:     corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}}, Spec: spec},
		},
	}
}

func (c *cluster) indexedJob() {
	job := work("indexed", "env")
	job.Spec.Completions, job.Spec.Parallelism, job.Spec.CompletionMode = ptr.To[int32](3), ptr.To[int32](2), ptr.To(batchv1.IndexedCompletion)
	c.made(c.client.BatchV1().Jobs("default").Create(c.t.Context(), job, metav1.CreateOptions{}))
	c.kubectl("wait", "--for=condition=Complete", "--timeout=60s", "job/indexed")
	if got := c.kubectl("get", "job", "indexed", "-o", "jsonpath={.status.succeeded} {.status.completedIndexes}"); got != "3 0-2" {
		c.t.Errorf("succeeded and completed indexes %q", got)
	}
	for _, p := range c.pods("indexed") {
		index := p.Annotations[batchv1.JobCompletionIndexAnnotation]
		if out := c.kubectl("logs", p.Name); !strings.Contains(out, "JOB_COMPLETION_INDEX="+index+"\n") || !strings.Contains(out, "HOSTNAME=indexed-"+index+"\n") {
			c.t.Errorf("pod %s of index %s says\n%s", p.Name, index, out)
		}
		if len(p.Finalizers) > 0 {
			c.t.Errorf("pod %s keeps finalizers %v", p.Name, p.Finalizers)
		}
	}
	c.kubectl("delete", "job", "indexed", "--timeout=60s")
}

func (c *cluster) failingJob() {
	job := work("failing", "exit", "42")
	job.Spec.BackoffLimit = ptr.To[int32](5)
	job.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action:      batchv1.PodFailurePolicyActionFailJob,
		OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
	}}}
	job.Spec.TTLSecondsAfterFinished = ptr.To[int32](2)
	c.made(c.client.BatchV1().Jobs("default").Create(c.t.Context(), job, metav1.CreateOptions{}))
	c.kubectl("wait", "--for=condition=Failed", "--timeout=60s", "job/failing")
	c.kubectl("wait", "--for=delete", "--timeout=60s", "job/failing")
	if out := c.kubectl("get", "events", "--field-selector", "reason=PodFailurePolicy"); !strings.Contains(out, "failed with exit code 42 matching FailJob rule at index 0") {
		c.t.Errorf("events\n%s", out)
	}
	if left := c.pods("failing"); len(left) > 0 {
		c.t.Errorf("%d pods stay after their job", len(left))
	}
}

func (c *cluster) cronJob() {
	job := work("report", "echo", "done")
	c.made(c.client.BatchV1().CronJobs("default").Create(c.t.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "report"},
		Spec: batchv1.CronJobSpec{
			Schedule: "@every 2s", TimeZone: ptr.To("Europe/Oslo"), ConcurrencyPolicy: batchv1.ForbidConcurrent,
			JobTemplate: batchv1.JobTemplateSpec{Spec: job.Spec},
		},
	}, metav1.CreateOptions{}))
	c.kubectl("wait", "--for=jsonpath={.status.lastSuccessfulTime}", "--timeout=60s", "cronjob/report")
	c.kubectl("create", "job", "by-hand", "--from=cronjob/report")
	c.kubectl("wait", "--for=condition=Complete", "--timeout=60s", "job/by-hand")
	c.kubectl("delete", "cronjob", "report", "--timeout=60s")
	c.kubectl("wait", "--for=delete", "--timeout=60s", "job/by-hand")
}

func (c *cluster) disruptionBudget() {
	c.deploy("web", 2)
	c.made(c.client.PolicyV1().PodDisruptionBudgets("default").Create(c.t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: ptr.To(intstr.FromString("100%")), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}, metav1.CreateOptions{}))
	c.kubectl("wait", "--for=jsonpath={.status.currentHealthy}=2", "--timeout=60s", "pdb/web")
	evict := func() error {
		return c.client.CoreV1().Pods("default").EvictV1(c.t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: c.pods("web")[0].Name, Namespace: "default"}})
	}
	if err := evict(); !apierrors.IsTooManyRequests(err) {
		c.t.Errorf("evict a pod that is needed: %v, want a refusal", err)
	}
	c.kubectl("patch", "pdb", "web", "--type=merge", "-p", `{"spec":{"minAvailable":1}}`)
	c.kubectl("wait", "--for=jsonpath={.status.disruptionsAllowed}=1", "--timeout=60s", "pdb/web")
	if err := evict(); err != nil {
		c.t.Errorf("evict a pod that can be spared: %v", err)
	}
	c.kubectl("delete", "pdb/web", "service/web", "deployment/web", "--cascade=foreground", "--timeout=60s")
}

func (c *cluster) quota() {
	c.kubectl("create", "namespace", "bounded")
	c.made(c.client.CoreV1().ResourceQuotas("bounded").Create(c.t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "books"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1")}},
	}, metav1.CreateOptions{}))
	c.kubectl("wait", "-n", "bounded", "--for=jsonpath={.status.used.pods}=0", "--timeout=60s", "quota/books")
	create := func(name string) error {
		_, err := c.client.CoreV1().Pods("bounded").Create(c.t.Context(), pod(name, app("sleep")), metav1.CreateOptions{})
		return err
	}
	if err := create("one"); err != nil {
		c.t.Fatal(err)
	}
	if err := create("two"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: books") {
		c.t.Errorf("a second pod: %v, want a refusal", err)
	}
	c.kubectl("delete", "-n", "bounded", "pod", "one", "--timeout=60s")
	c.kubectl("wait", "-n", "bounded", "--for=jsonpath={.status.used.pods}=0", "--timeout=60s", "quota/books")
	if err := create("two"); err != nil {
		c.t.Error(err)
	}
	c.kubectl("delete", "namespace", "bounded", "--timeout=60s")
}

package job

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

type world struct {
	*Reconciler
	t      *testing.T
	clock  *testclock.FakePassiveClock
	events *record.FakeRecorder
}

func newWorld(t *testing.T, funcs interceptor.Funcs, objects ...client.Object) *world {
	c := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&batchv1.Job{}, &corev1.Pod{}).WithInterceptorFuncs(funcs).
		WithIndex(&corev1.Pod{}, indexes.PodController, func(o client.Object) []string {
			if owner := metav1.GetControllerOf(o); owner != nil {
				return []string{string(owner.UID)}
			}
			return []string{""}
		}).Build()
	w := &world{t: t, clock: testclock.NewFakePassiveClock(now), events: record.NewFakeRecorder(1000)}
	w.Reconciler = &Reconciler{
		client: c, clock: w.clock, memory: &memory{jobs: map[types.UID]*wrote{}},
		pods: podcontrol.New(owners, c, c, w.events, w.clock),
	}
	return w
}

var key = types.NamespacedName{Namespace: "shop", Name: "pi"}

// pass lets the controller settle the job, as if the cache had shown everything.
func (w *world) pass() (ctrl.Result, error) {
	w.pods.Expected.Forget("job")
	return reconcile.AsReconciler(w.client, w.Reconciler).Reconcile(w.t.Context(), ctrl.Request{NamespacedName: key})
}

func (w *world) settle() batchJob {
	w.t.Helper()
	for range 5 {
		if _, err := w.pass(); err != nil {
			w.t.Fatal(err)
		}
	}
	return w.job()
}

func (w *world) job() batchJob {
	w.t.Helper()
	job := &batchv1.Job{}
	if err := w.client.Get(w.t.Context(), key, job); err != nil {
		w.t.Fatal(err)
	}
	return batchJob{job}
}

func (w *world) all() []corev1.Pod {
	w.t.Helper()
	var pods corev1.PodList
	if err := w.client.List(w.t.Context(), &pods); err != nil {
		w.t.Fatal(err)
	}
	return pods.Items
}

// end gives every pod that has not ended a phase.
func (w *world) end(phase corev1.PodPhase) (n int) {
	w.t.Helper()
	for _, p := range w.all() {
		if podcontrol.Terminal(&p) {
			continue
		}
		p.UID = types.UID(p.Name)
		exited(1, now.Sub(w.clock.Now()))(&p)
		p.Status.Phase = phase
		if err := w.client.Status().Update(w.t.Context(), &p); err != nil {
			w.t.Fatal(err)
		}
		n++
	}
	return n
}

func (w *world) update(c change) {
	w.t.Helper()
	job := w.job()
	c(job.Job)
	if err := w.client.Update(w.t.Context(), job.Job); err != nil {
		w.t.Fatal(err)
	}
}

// told returns the reasons of the events so far.
func (w *world) told() (reasons []string) {
	for {
		select {
		case e := <-w.events.Events:
			reasons = append(reasons, e)
		default:
			return reasons
		}
	}
}

// withUIDs names objects as the API server does.
var withUIDs = interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
	o.SetUID(types.UID(o.GetName()))
	return c.Create(ctx, o, options...)
}}

func conditions(job batchJob) (list []string) {
	for _, c := range job.Status.Conditions {
		list = append(list, string(c.Type)+"="+string(c.Status)+" "+c.Reason)
	}
	return list
}

func TestAJobRunsToItsEnd(t *testing.T) {
	w := newWorld(t, withUIDs, pi().Job)
	for _, started := range []int{2, 1} {
		w.settle()
		if got := w.end(corev1.PodSucceeded); got != started {
			t.Fatalf("%d pods started, want %d", got, started)
		}
	}
	job := w.settle()
	if diff := cmp.Diff([]string{"SuccessCriteriaMet=True CompletionsReached", "Complete=True CompletionsReached"}, conditions(job)); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	status := job.Status
	if status.Succeeded != 3 || status.Failed != 0 || status.Active != 0 || status.StartTime == nil || status.CompletionTime == nil {
		t.Errorf("status %+v", status)
	}
	for _, p := range w.all() {
		if len(p.Finalizers) > 0 {
			t.Errorf("pod %s keeps %v", p.Name, p.Finalizers)
		}
	}
	told := w.told()
	if last := told[len(told)-1]; len(told) != 4 || last != "Normal Completed Job completed" {
		t.Errorf("events %q", told)
	}
}

func TestAJobFailsAfterItsTries(t *testing.T) {
	w := newWorld(t, withUIDs, pi(parallelism(1), completions(1), backoffLimit(2)).Job)
	for try := range 3 {
		w.settle()
		if got := w.end(corev1.PodFailed); got != 1 {
			t.Fatalf("try %d: %d pods run, want 1", try, got)
		}
		result, err := w.pass()
		if err != nil {
			t.Fatal(err)
		}
		if try < 2 && result.RequeueAfter != delayAfter(try+1) {
			t.Errorf("try %d comes after %v, want %v", try+2, result.RequeueAfter, delayAfter(try+1))
		}
		w.clock.SetTime(w.clock.Now().Add(result.RequeueAfter))
	}
	job := w.settle()
	if diff := cmp.Diff([]string{"FailureTarget=True BackoffLimitExceeded", "Failed=True BackoffLimitExceeded"}, conditions(job)); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if job.Status.Failed != 3 || job.Status.CompletionTime != nil {
		t.Errorf("status %+v", job.Status)
	}
	if told := w.told(); told[len(told)-1] != "Warning BackoffLimitExceeded Job has reached the specified backoff limit" {
		t.Errorf("events %q", told)
	}
}

func TestIndexesHaveTriesOfTheirOwn(t *testing.T) {
	w := newWorld(t, withUIDs, pi(perIndex(1), parallelism(2), completions(2)).Job)
	w.settle()
	for range 2 {
		for _, p := range w.all() {
			phase := corev1.PodFailed
			if p.Annotations[batchv1.JobCompletionIndexAnnotation] == "1" {
				phase = corev1.PodSucceeded
			}
			exited(1, now.Sub(w.clock.Now()))(&p)
			p.Status.Phase = phase
			if err := w.client.Status().Update(t.Context(), &p); err != nil {
				t.Fatal(err)
			}
		}
		w.settle()
		w.clock.SetTime(w.clock.Now().Add(time.Minute))
		w.settle()
	}
	job := w.settle()
	if diff := cmp.Diff([]string{"FailureTarget=True FailedIndexes", "Failed=True FailedIndexes"}, conditions(job)); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if s := job.Status; s.CompletedIndexes != "1" || ptr.Deref(s.FailedIndexes, "") != "0" || s.Succeeded != 1 || s.Failed != 2 {
		t.Errorf("status %+v", s)
	}
	for _, p := range w.all() {
		if p.Spec.Hostname != "pi-"+p.Annotations[batchv1.JobCompletionIndexAnnotation] || p.Spec.Containers[0].Env[0].Name != "JOB_COMPLETION_INDEX" {
			t.Errorf("pod %s: hostname %s, environment %v", p.Name, p.Spec.Hostname, p.Spec.Containers[0].Env)
		}
	}
}

func TestSuspendingIsNoFailure(t *testing.T) {
	w := newWorld(t, withUIDs, pi(backoffLimit(0)).Job)
	w.settle()
	w.update(suspended)
	job := w.settle()
	if len(w.all()) != 0 || job.Status.Failed != 0 || job.condition(batchv1.JobSuspended) == nil || job.Status.StartTime != nil {
		t.Errorf("%d pods, status %+v", len(w.all()), job.Status)
	}
	w.clock.SetTime(now.Add(time.Hour))
	w.update(func(job *batchv1.Job) { job.Spec.Suspend = ptr.To(false) })
	job = w.settle()
	if diff := cmp.Diff([]string{"Suspended=False JobResumed"}, conditions(job)); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
	if len(w.all()) != 2 || !job.Status.StartTime.Time.Equal(now.Add(time.Hour)) {
		t.Errorf("%d pods, started at %v", len(w.all()), job.Status.StartTime)
	}
	var told []string
	for _, e := range w.told() {
		if e == "Normal Suspended Job suspended" || e == "Normal Resumed Job resumed" {
			told = append(told, e)
		}
	}
	if len(told) != 2 {
		t.Errorf("events %q", told)
	}
}

// TestAWithdrawalCutShortCostsNoSuccess: a pod is taken off the books before it is deleted. If the deletion fails and the pod
// may stay after all, it has to come back on them, or what it achieves is lost.
func TestAWithdrawalCutShortCostsNoSuccess(t *testing.T) {
	cut := false
	w := newWorld(t, interceptor.Funcs{Create: withUIDs.Create, Delete: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.DeleteOption) error {
		if cut {
			return errors.New("cut")
		}
		return c.Delete(ctx, o, options...)
	}}, pi(parallelism(1), completions(1), indexed).Job)
	w.settle()
	w.update(suspended)
	cut = true
	if _, err := w.pass(); err == nil {
		t.Fatal("a deletion that failed is no error")
	}
	cut = false
	w.memory.forget("job") // nor does the next process know
	w.update(func(job *batchv1.Job) { job.Spec.Suspend = ptr.To(false) })
	w.settle()
	if n := w.end(corev1.PodSucceeded); n != 1 {
		t.Fatalf("%d pods run, want the first one", n)
	}
	if job := w.settle(); job.Status.CompletedIndexes != "0" || len(w.all()) != 1 {
		t.Errorf("%d pods, status %+v", len(w.all()), job.Status)
	}
}

func TestAPodThatHasJustSucceededIsNotWithdrawn(t *testing.T) {
	var w *world
	ends := false
	w = newWorld(t, interceptor.Funcs{Create: withUIDs.Create, Patch: func(ctx context.Context, c client.WithWatch, o client.Object, patch client.Patch, options ...client.PatchOption) error {
		if ends {
			ends = false
			w.end(corev1.PodSucceeded)
		}
		return c.Patch(ctx, o, patch, options...)
	}}, pi(parallelism(1), completions(1)).Job)
	w.settle()
	w.update(suspended)
	ends = true
	if job := w.settle(); ends || job.Status.Succeeded != 1 || len(w.all()) != 1 {
		t.Errorf("%d pods, status %+v", len(w.all()), job.Status)
	}
}

// TestASuccessBetweenTheWritesOfAWithdrawalCounts: a withdrawn pod is let go of first and deleted then.
func TestASuccessBetweenTheWritesOfAWithdrawalCounts(t *testing.T) {
	for name, mode := range map[string]change{"by number": func(*batchv1.Job) {}, "by index": indexed} {
		t.Run(name, func(t *testing.T) {
			var w *world
			ends := false
			w = newWorld(t, interceptor.Funcs{Create: withUIDs.Create, Delete: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.DeleteOption) error {
				if ends {
					ends = false
					w.end(corev1.PodSucceeded)
				}
				return c.Delete(ctx, o, options...)
			}}, pi(parallelism(1), completions(1), mode).Job)
			w.settle()
			w.update(suspended)
			ends = true
			if job := w.settle(); ends || job.Status.Succeeded != 1 || len(w.all()) != 1 {
				t.Errorf("%d pods, status %+v", len(w.all()), job.Status)
			}
		})
	}
}

// TestASuspendedJobThatEndsHasBegun is what the API server asks of every job that ends.
func TestASuspendedJobThatEndsHasBegun(t *testing.T) {
	w := newWorld(t, withUIDs, pi(completions(0), suspended).Job)
	if job := w.settle(); job.condition(batchv1.JobComplete) == nil || job.Status.StartTime == nil || job.Status.CompletionTime == nil {
		t.Errorf("status %+v", job.Status)
	}
}

func TestAnotherControllersJobIsLeftAlone(t *testing.T) {
	w := newWorld(t, withUIDs, pi(func(job *batchv1.Job) { job.Spec.ManagedBy = ptr.To("example.com/queue") }).Job)
	if job := w.settle(); len(w.all()) != 0 || job.Status.StartTime != nil {
		t.Errorf("%d pods, status %+v", len(w.all()), job.Status)
	}
}

// TestEveryPodIsCountedOnce fails each write of a job's life in turn, with a new process after it.
func TestEveryPodIsCountedOnce(t *testing.T) {
	for broken := 0; ; broken++ {
		writes := 0
		fail := func() error {
			writes++
			if writes == broken {
				return errors.New("the power went")
			}
			return nil
		}
		w := newWorld(t, interceptor.Funcs{
			Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
				if err := fail(); err != nil {
					return err
				}
				return withUIDs.Create(ctx, c, o, options...)
			},
			Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, options ...client.PatchOption) error {
				if err := fail(); err != nil {
					return err
				}
				return c.Patch(ctx, o, p, options...)
			},
			SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, o client.Object, options ...client.SubResourceUpdateOption) error {
				if _, ours := o.(*batchv1.Job); ours {
					if err := fail(); err != nil {
						return err
					}
				}
				return c.SubResource(sub).Update(ctx, o, options...)
			},
		}, pi().Job)
		for range 2 {
			for range 6 {
				if _, err := w.pass(); err != nil {
					w.memory.forget("job")
				}
			}
			w.end(corev1.PodSucceeded)
			// A pod that ended is deleted at once; only its finalizer keeps it.
			for _, p := range w.all() {
				if err := w.client.Delete(t.Context(), &p); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 6 {
			if _, err := w.pass(); err != nil {
				w.memory.forget("job")
			}
		}
		job := w.job()
		if job.Status.Succeeded != 3 || job.condition(batchv1.JobComplete) == nil {
			t.Fatalf("write %d of %d failed: status %+v", broken, writes, job.Status)
		}
		if left := len(w.all()); left != 0 {
			t.Fatalf("write %d of %d failed: %d pods left", broken, writes, left)
		}
		if broken > writes {
			return
		}
	}
}

func TestAStaleCacheDoesNotCountOrStartTwice(t *testing.T) {
	var oldJob *batchv1.Job
	var oldPods *corev1.PodList
	w := newWorld(t, interceptor.Funcs{
		Create: withUIDs.Create,
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			if job, is := o.(*batchv1.Job); is && oldJob != nil {
				oldJob.DeepCopyInto(job)
				return nil
			}
			return c.Get(ctx, key, o, options...)
		},
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
			if pods, is := list.(*corev1.PodList); is && oldPods != nil {
				var o client.ListOptions
				if owner, _ := o.ApplyOptions(options).FieldSelector.RequiresExactMatch(indexes.PodController); owner != "" {
					oldPods.DeepCopyInto(pods)
				}
				return nil
			}
			return c.List(ctx, list, options...)
		},
	}, pi(parallelism(1)).Job)
	w.settle()
	w.end(corev1.PodSucceeded)
	frozenJob, frozenPods := w.job().Job, &corev1.PodList{Items: w.all()}
	w.told()

	oldPods = frozenPods // the job is shown as it is, its pods are not
	for range 3 {
		if _, err := reconcile.AsReconciler(w.client, w.Reconciler).Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
			t.Fatal(err)
		}
	}
	if told := w.told(); len(told) != 1 {
		t.Errorf("stale pods: events %q, want one pod created", told)
	}
	oldJob, oldPods = frozenJob, nil // and the other way round
	for range 3 {
		if _, err := w.pass(); err != nil {
			t.Fatal(err)
		}
	}
	oldJob = nil
	if told := w.told(); len(told) != 0 {
		t.Errorf("a stale job: events %q, want none", told)
	}
	if status := w.job().Status; status.Succeeded != 1 || len(status.UncountedTerminatedPods.Succeeded) != 0 {
		t.Errorf("status %+v", status)
	}
}

// TestNoIndexHasTwoPods: whatever the cache shows late, and whether or not the API's answer came through.
func TestNoIndexHasTwoPods(t *testing.T) {
	for name, lost := range map[string]bool{"the pod that was made is not shown yet": false, "nobody said that the pod was made": true} {
		t.Run(name, func(t *testing.T) {
			var shown *corev1.PodList
			cut := false
			w := newWorld(t, interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
					if err := withUIDs.Create(ctx, c, o, options...); err != nil || !cut {
						return err
					}
					return errors.New("the line is cut")
				},
				List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
					pods, is := list.(*corev1.PodList)
					if !is || shown == nil {
						return c.List(ctx, list, options...)
					}
					var o client.ListOptions
					if owner, _ := o.ApplyOptions(options).FieldSelector.RequiresExactMatch(indexes.PodController); owner != "" {
						shown.DeepCopyInto(pods)
					}
					return nil
				},
			}, pi(indexed, parallelism(2), completions(5)).Job)
			w.settle()
			for _, pod := range w.all() {
				if pod.Annotations[batchv1.JobCompletionIndexAnnotation] == "1" {
					pod.Status.Phase = corev1.PodFailed
					if err := w.client.Status().Update(t.Context(), &pod); err != nil {
						t.Fatal(err)
					}
				}
			}
			w.clock.SetTime(now.Add(time.Hour)) // nothing rests after the failure any more
			shown, cut = &corev1.PodList{Items: w.all()}, lost
			for range 5 {
				_, err := reconcile.AsReconciler(w.client, w.Reconciler).Reconcile(t.Context(), ctrl.Request{NamespacedName: key})
				if err != nil && !lost {
					t.Fatal(err)
				}
				cut = false
			}
			shown = nil
			running := map[string]int{}
			for _, pod := range w.all() {
				if podcontrol.Active(&pod) {
					running[pod.Annotations[batchv1.JobCompletionIndexAnnotation]]++
				}
			}
			if diff := cmp.Diff(map[string]int{"0": 1, "1": 1}, running); diff != "" {
				t.Errorf("running pods by index (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStraysAreFreed(t *testing.T) {
	orphan := func(p *corev1.Pod) { p.OwnerReferences = nil }
	finished := pi(func(job *batchv1.Job) {
		job.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}
	}).Job
	tests := map[string]struct {
		job  *batchv1.Job
		pod  *corev1.Pod
		free bool
	}{
		"a pod of a job that runs":             {job: pi().Job, pod: pod(corev1.PodSucceeded)},
		"a pod whose job is gone":              {pod: pod(corev1.PodSucceeded), free: true},
		"a pod of a job that was there before": {job: pi(func(job *batchv1.Job) { job.UID = "next" }).Job, pod: pod(corev1.PodSucceeded), free: true},
		"a pod of a job that has finished":     {job: finished, pod: pod(corev1.PodSucceeded), free: true},
		"a pod that nobody owns and wants":     {pod: pod(corev1.PodRunning, orphan), free: true},
		"a pod that a job is about to adopt":   {job: pi().Job, pod: pod(corev1.PodRunning, orphan)},
		"a pod of a job that another one manages": {
			job: pi(func(job *batchv1.Job) { job.Spec.ManagedBy = ptr.To("example.com/queue") }).Job, pod: pod(corev1.PodSucceeded),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			objects := []client.Object{tc.pod}
			if tc.job != nil {
				objects = append(objects, tc.job)
			}
			w := newWorld(t, interceptor.Funcs{}, objects...)
			s := &strays{client: w.client, live: w.client, wanting: w.pods.Wanting}
			if _, err := s.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(tc.pod)}); err != nil {
				t.Fatal(err)
			}
			var got corev1.Pod
			if err := w.client.Get(t.Context(), client.ObjectKeyFromObject(tc.pod), &got); client.IgnoreNotFound(err) != nil {
				t.Fatal(err)
			}
			if free := !hasFinalizer(&got); free != tc.free {
				t.Errorf("freed %v, want %v", free, tc.free)
			}
		})
	}
}

func TestAConflictIsNoError(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{
		SubResourceUpdate: func(context.Context, client.Client, string, client.Object, ...client.SubResourceUpdateOption) error {
			return apierrors.NewConflict(batchv1.Resource("jobs"), "pi", errors.New("changed"))
		},
	}, pi().Job)
	if _, err := w.pass(); err != nil {
		t.Errorf("Reconcile() = %v, want nil", err)
	}
}

func TestAJumpOfTheClockEndsNoJob(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			job := pi().Job
			job.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600)
			w := newWorld(t, withUIDs, job)
			w.settle()
			w.Reconciler.clock = steadytest.Jumped(now.Add(time.Minute), by)
			if job := w.settle(); len(conditions(job)) != 0 || job.Status.Active == 0 {
				t.Errorf("conditions %v, %d pods", conditions(job), job.Status.Active)
			}
		})
	}
}

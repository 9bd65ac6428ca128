package cronjob

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

func reconciler(funcs interceptor.Funcs, objects ...client.Object) (*Reconciler, *testclock.FakePassiveClock, *record.FakeRecorder) {
	funcs.Create = func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
		o.SetUID(types.UID(o.GetName())) // as the API server does
		return c.Create(ctx, o, options...)
	}
	c := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&batchv1.CronJob{}, &batchv1.Job{}).WithInterceptorFuncs(funcs).Build()
	clock, events := testclock.NewFakePassiveClock(now), record.NewFakeRecorder(100)
	return &Reconciler{client: c, live: c, events: events, clock: clock}, clock, events
}

var request = ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "shop", Name: "report"}}

func look(t *testing.T, r *Reconciler) (*batchv1.CronJob, []batchv1.Job) {
	t.Helper()
	var c batchv1.CronJob
	if err := r.client.Get(t.Context(), request.NamespacedName, &c); err != nil {
		t.Fatal(err)
	}
	var jobs batchv1.JobList
	if err := r.client.List(t.Context(), &jobs); err != nil {
		t.Fatal(err)
	}
	return &c, jobs.Items
}

func TestReconcileMakesOneJobAMinute(t *testing.T) {
	r, clock, events := reconciler(interceptor.Funcs{}, report())
	for minute := 1; minute <= 3; minute++ {
		for range 3 {
			if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err != nil {
				t.Fatal(err)
			}
		}
		c, jobs := look(t, r)
		if len(jobs) != minute || len(c.Status.Active) != minute || !c.Status.LastScheduleTime.Time.Equal(clock.Now().Truncate(time.Minute)) {
			t.Fatalf("minute %d: %d jobs, status %+v", minute, len(jobs), c.Status)
		}
		clock.SetTime(clock.Now().Add(time.Minute))
	}
	if event := <-events.Events; !strings.HasPrefix(event, "Normal SuccessfulCreate Created job report-") {
		t.Errorf("event %q", event)
	}
}

func TestReconcileReplaces(t *testing.T) {
	r, clock, _ := reconciler(interceptor.Funcs{}, report(policy(batchv1.ReplaceConcurrent)))
	for range 3 {
		if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		clock.SetTime(clock.Now().Add(time.Minute))
	}
	if c, jobs := look(t, r); len(jobs) != 1 || len(c.Status.Active) != 1 || c.Status.Active[0].Name != jobs[0].Name {
		t.Errorf("jobs %v, active %v; want the newest alone", len(jobs), c.Status.Active)
	}
}

func TestReconcileHealsALostStatusWrite(t *testing.T) {
	lost := true
	r, _, _ := reconciler(interceptor.Funcs{
		SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, o client.Object, options ...client.SubResourceUpdateOption) error {
			if lost {
				return errors.New("the power went")
			}
			return c.SubResource(sub).Update(ctx, o, options...)
		},
	}, report(policy(batchv1.ReplaceConcurrent)))
	if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err == nil {
		t.Fatal("Reconcile() = nil, want the lost write")
	}
	lost = false
	if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	if c, jobs := look(t, r); len(jobs) != 1 || len(c.Status.Active) != 1 || c.Status.LastScheduleTime == nil {
		t.Errorf("%d jobs, status %+v; want the first job, and to know of it", len(jobs), c.Status)
	}
}

func TestReconcileForbidsWhateverTheCacheShows(t *testing.T) {
	stale := report(policy(batchv1.ForbidConcurrent))
	r, clock, events := reconciler(interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
			if seen, ok := o.(*batchv1.CronJob); ok {
				stale.DeepCopyInto(seen)
				return nil
			}
			return c.Get(ctx, key, o, options...)
		},
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return nil },
	}, stale.DeepCopy())
	for range 3 {
		if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		clock.SetTime(clock.Now().Add(time.Minute))
	}
	created := 0
	for len(events.Events) > 0 {
		if strings.Contains(<-events.Events, "SuccessfulCreate") {
			created++
		}
	}
	if created != 1 {
		t.Errorf("%d jobs made, want the first to forbid the others", created)
	}
}

func TestReconcileSaysWhoseNameIsTaken(t *testing.T) {
	squatter := newJob(report(), now, time.UTC)
	squatter.OwnerReferences = nil
	r, _, _ := reconciler(interceptor.Funcs{}, report(), squatter)
	if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("Reconcile() = %v", err)
	}
}

func TestReconcileTakesAConflictAsNews(t *testing.T) {
	r, _, _ := reconciler(interceptor.Funcs{
		SubResourceUpdate: func(context.Context, client.Client, string, client.Object, ...client.SubResourceUpdateOption) error {
			return apierrors.NewConflict(batchv1.Resource("cronjobs"), "report", errors.New("changed"))
		},
	}, report())
	if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err != nil {
		t.Errorf("Reconcile() = %v, want nil", err)
	}
}

func TestAJumpOfTheClockStartsNothing(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			r, _, _ := reconciler(interceptor.Funcs{}, report(schedules("0 0 * * *"), madeAgo(time.Minute)))
			r.clock = steadytest.Jumped(now, by)
			if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			if _, jobs := look(t, r); len(jobs) != 0 {
				t.Errorf("%d jobs", len(jobs))
			}
		})
	}
}

func TestANewScheduleNobodyCanReadIsLeftAlone(t *testing.T) {
	zone := func(name string) func(*batchv1.CronJob) {
		return func(c *batchv1.CronJob) { c.Spec.TimeZone = &name }
	}
	tests := map[string]struct {
		next *batchv1.CronJob
		want string
	}{
		"what stays is looked at":                  {next: report()},
		"another schedule is looked at":            {next: report(schedules("5 * * * *"))},
		"a zone nobody knows is for a pass":        {next: report(zone("Atlantis/Center"))},
		"one that cannot be read waits for better": {next: report(schedules("now and then")), want: "Warning UnParseableCronJobSchedule unparseable schedule for cronjob: now and then"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, _, events := reconciler(interceptor.Funcs{})
			if got := r.changed(event.UpdateEvent{ObjectOld: report(), ObjectNew: tc.next}); got != (tc.want == "") {
				t.Errorf("changed() = %v", got)
			}
			got := ""
			if len(events.Events) > 0 {
				got = <-events.Events
			}
			if got != tc.want {
				t.Errorf("told %q, want %q", got, tc.want)
			}
		})
	}
}

package ttlafterfinished

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func finished(kind batchv1.JobConditionType, ttl int32, ago time.Duration) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "pi", UID: "job"},
		Spec:       batchv1.JobSpec{TTLSecondsAfterFinished: &ttl},
		Status: batchv1.JobStatus{Conditions: []batchv1.JobCondition{
			{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-ago))},
		}},
	}
}

func TestReconcile(t *testing.T) {
	unlimited := finished(batchv1.JobComplete, 0, time.Hour)
	unlimited.Spec.TTLSecondsAfterFinished = nil
	going := finished(batchv1.JobComplete, 0, time.Hour)
	going.DeletionTimestamp, going.Finalizers = ptr.To(metav1.NewTime(now)), []string{"test/keep"}
	tests := map[string]struct {
		job   *batchv1.Job
		gone  bool
		again time.Duration
	}{
		"a complete job whose time is up":           {job: finished(batchv1.JobComplete, 60, time.Minute), gone: true},
		"a failed job whose time is up":             {job: finished(batchv1.JobFailed, 60, time.Minute), gone: true},
		"no time at all":                            {job: finished(batchv1.JobComplete, 0, 0), gone: true},
		"some time left":                            {job: finished(batchv1.JobComplete, 90, time.Minute), again: 30 * time.Second},
		"much time left is looked at in between":    {job: finished(batchv1.JobComplete, 86400, 0), again: maxWait},
		"finished in the future by a wrong clock":   {job: finished(batchv1.JobComplete, 60, -365*24*time.Hour), again: maxWait},
		"a job that runs":                           {job: finished(batchv1.JobSuspended, 0, time.Hour)},
		"a job that may stay":                       {job: unlimited},
		"a job that goes already is left to itself": {job: going},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(tc.job).Build()
			r := &Reconciler{client: c, clock: testclock.NewFakePassiveClock(now)}
			result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(tc.job)})
			if err != nil || result.RequeueAfter != tc.again {
				t.Errorf("Reconcile() = %v, %v; want %v", result.RequeueAfter, err, tc.again)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(tc.job), &batchv1.Job{}); apierrors.IsNotFound(err) != tc.gone {
				t.Errorf("Get() = %v, want gone %v", err, tc.gone)
			}
		})
	}
}

func TestAJumpOfTheClockDeletesNothing(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			job := finished(batchv1.JobComplete, 90, time.Minute)
			c := fake.NewClientBuilder().WithObjects(job).Build()
			r := &Reconciler{client: c, clock: steadytest.Jumped(now, by)}
			result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(job)})
			if err != nil || result.RequeueAfter != 30*time.Second {
				t.Errorf("Reconcile() = %v, %v", result.RequeueAfter, err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(job), &batchv1.Job{}); err != nil {
				t.Error(err)
			}
		})
	}
}

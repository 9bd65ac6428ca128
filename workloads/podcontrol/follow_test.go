package podcontrol

import (
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// waits is a queue that notes how long what is added to it is to wait.
type waits struct {
	queue
	in []time.Duration
}

func (w *waits) AddAfter(_ reconcile.Request, in time.Duration) { w.in = append(w.in, in) }

func TestNewsThatOnlyChangeCountsWaitForMore(t *testing.T) {
	const gather = time.Minute
	failed := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	going := func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
	another := func(p *corev1.Pod) { p.OwnerReferences[0].UID, p.OwnerReferences[0].Name = "other", "other" }
	tests := map[string]struct {
		before, pod []change
		in          []time.Duration
	}{
		"a pod that got ready":      {in: []time.Duration{gather}},
		"a pod that failed":         {pod: []change{failed}, in: []time.Duration{0}},
		"a pod that is to go":       {pod: []change{going}, in: []time.Duration{0}},
		"a pod that changed owners": {before: []change{another}, in: []time.Duration{0, 0}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			owners := Owners[*appsv1.ReplicaSet]{Kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), Gather: gather}
			c := New(owners, fake.NewClientBuilder().Build(), nil, record.NewFakeRecorder(1), testclock.NewFakePassiveClock(now))
			before, after := pod("a", append([]change{ofSet}, tc.before...)...), pod("a", append([]change{ofSet}, tc.pod...)...)
			before.ResourceVersion, after.ResourceVersion = "1", "2"
			q := &waits{}
			c.Follow().Update(t.Context(), event.UpdateEvent{ObjectOld: before, ObjectNew: after}, q)
			if !slices.Equal(q.in, tc.in) {
				t.Errorf("queued in %v, want %v", q.in, tc.in)
			}
		})
	}
}

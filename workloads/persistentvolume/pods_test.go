package persistentvolume

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// podWith is a pod without a node that uses a claim, and has one of its own called NAME-own.
func podWith(name, claim string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}},
		{Name: "own", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestAClaimNamesThePodsItWaitsFor(t *testing.T) {
	placed := func(p *corev1.Pod) { p.Spec.NodeName = "cellar" }
	over := func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }
	tests := map[string]struct {
		claim string
		pods  []*corev1.Pod
		want  event
	}{
		"nobody uses it": {
			claim: "data", pods: []*corev1.Pod{podWith("a", "other", nil)},
			want: event{reason: "WaitForFirstConsumer", message: "waiting for first consumer to be created before binding"},
		},
		"one pod does": {
			claim: "data", pods: []*corev1.Pod{podWith("a", "data", nil), podWith("b", "other", nil)},
			want: event{reason: "WaitForPodScheduled", message: "waiting for pod a to be scheduled"},
		},
		"several do": {
			claim: "data", pods: []*corev1.Pod{podWith("b", "data", nil), podWith("a", "data", nil)},
			want: event{reason: "WaitForPodScheduled", message: "waiting for pods a,b to be scheduled"},
		},
		"those that have a node or are over do not count": {
			claim: "data", pods: []*corev1.Pod{podWith("a", "data", placed), podWith("b", "data", over)},
			want: event{reason: "WaitForFirstConsumer", message: "waiting for first consumer to be created before binding"},
		},
		"the pod it was made for does": {
			claim: "a-own", pods: []*corev1.Pod{podWith("a", "data", nil)},
			want: event{reason: "WaitForPodScheduled", message: "waiting for pod a to be scheduled"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			objects := fake.NewClientBuilder()
			for _, pod := range tc.pods {
				objects.WithObjects(pod)
			}
			r := &reconciler{client: objects.Build()}
			claim := claimOf("fast", func(c *corev1.PersistentVolumeClaim) { c.Name = tc.claim })
			names, err := r.unplaced(t.Context(), claim)
			if err != nil {
				t.Fatal(err)
			}
			got := waiting(claim, names)
			if got.reason != tc.want.reason || got.message != tc.want.message || got.kind != corev1.EventTypeNormal {
				t.Errorf("told %s %s %q, want %s %q", got.kind, got.reason, got.message, tc.want.reason, tc.want.message)
			}
		})
	}
}

func TestOnlyAPodThatIsStuckQueuesItsClaims(t *testing.T) {
	said := func(status corev1.ConditionStatus) *corev1.Pod {
		return podWith("a", "data", func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: status}}
		})
	}
	fresh, refused, placed := podWith("a", "data", nil), said(corev1.ConditionFalse), said(corev1.ConditionTrue)
	for name, tc := range map[string]struct {
		before, after *corev1.Pod
		want          bool
	}{
		"it is refused":           {fresh, refused, true},
		"it is refused once more": {refused, refused, false},
		"it is placed":            {refused, placed, false},
		"its labels change":       {fresh, fresh, false},
	} {
		if got := stuck().Update(ctrlevent.UpdateEvent{ObjectOld: tc.before, ObjectNew: tc.after}); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	bound := claimOf("fast", wasBound, func(c *corev1.PersistentVolumeClaim) { c.Name = "a-own" })
	r := &reconciler{client: fake.NewClientBuilder().WithObjects(claimOf("fast"), bound).Build()}
	want := []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "data"}}}
	if diff := cmp.Diff(want, r.claimsOfPod(t.Context(), refused)); diff != "" {
		t.Errorf("claims that are queued (-want +got):\n%s", diff)
	}
}

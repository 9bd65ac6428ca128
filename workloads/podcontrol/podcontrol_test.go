package podcontrol

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type change func(*corev1.Pod)

// ofSet makes a pod that of the ReplicaSet rs.
func ofSet(p *corev1.Pod) {
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: ptr.To(true)}}
}

func pod(name string, changes ...change) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec:       corev1.PodSpec{NodeName: "n"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	ready(time.Hour)(p)
	for _, c := range changes {
		c(p)
	}
	return p
}

func ready(since time.Duration) change {
	return func(p *corev1.Pod) {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-since))}}
	}
}

func TestDeletionOrder(t *testing.T) {
	tests := map[string]struct {
		first, second *corev1.Pod
		crowd         map[string]int
	}{
		"a pod without a node goes before one that has one": {
			first: pod("a", func(p *corev1.Pod) { p.Spec.NodeName = "" }), second: pod("b"),
		},
		"a pending pod goes before a running one": {
			first: pod("a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }), second: pod("b"),
		},
		"an unready pod goes before a ready one": {
			first: pod("a", func(p *corev1.Pod) { p.Status.Conditions = nil }), second: pod("b"),
		},
		"a cheap pod goes before a dear one": {
			first: pod("a"), second: pod("b", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "10"} }),
		},
		"a pod among many of its kind goes before a lonely one": {
			first: pod("a", func(p *corev1.Pod) { p.Spec.NodeName = "full" }), second: pod("b"), crowd: map[string]int{"full": 3, "n": 1},
		},
		"one that turned ready lately goes before an old hand": {first: pod("a", ready(time.Minute)), second: pod("b", ready(time.Hour))},
		"one that restarted often goes before a calm one": {
			first:  pod("a", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 7}} }),
			second: pod("b"),
		},
		"a young pod goes before an old one": {
			first: pod("a", func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Minute)) }), second: pod("b"),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, given := range [][]*corev1.Pod{{tc.first, tc.second}, {tc.second, tc.first}} {
				if got := DeletionOrder(given, tc.crowd, now); got[0] != tc.first {
					t.Errorf("%s goes first, want %s", got[0].Name, tc.first.Name)
				}
			}
		})
	}
}

func TestAvailable(t *testing.T) {
	tests := map[string]struct {
		pod      *corev1.Pod
		minReady time.Duration
		want     bool
		in       time.Duration
	}{
		"ready is enough without a minimum":       {pod: pod("a", ready(0)), want: true},
		"ready for long enough":                   {pod: pod("a", ready(time.Minute)), minReady: 10 * time.Second, want: true},
		"ready, but not for long enough":          {pod: pod("a", ready(4*time.Second)), minReady: 10 * time.Second, in: 6 * time.Second},
		"not ready is never available, nor later": {pod: pod("a", func(p *corev1.Pod) { p.Status.Conditions = nil }), minReady: 10 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got, in := Available(tc.pod, tc.minReady, now); got != tc.want || in != tc.in {
				t.Errorf("Available() = %v in %v, want %v in %v", got, in, tc.want, tc.in)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	alive := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "rs"}}
	going := alive.DeepCopy()
	going.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	owned := func(uid types.UID) change {
		return func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{UID: uid, Controller: ptr.To(true)}}
		}
	}
	labeled := func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} }
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }
	tests := map[string]struct {
		owner *appsv1.ReplicaSet
		pod   *corev1.Pod
		want  Claim
	}{
		"a matching orphan is adopted":                     {owner: alive, pod: pod("a", labeled), want: Adopt},
		"an orphan that does not match is left":            {owner: alive, pod: pod("a"), want: Leave},
		"an orphan that ends is left":                      {owner: alive, pod: pod("a", labeled, ending), want: Leave},
		"an owner that goes adopts nobody":                 {owner: going, pod: pod("a", labeled), want: Leave},
		"ours that matches is kept":                        {owner: alive, pod: pod("a", labeled, owned("rs")), want: Keep},
		"ours that no longer matches is released":          {owner: alive, pod: pod("a", owned("rs")), want: Release},
		"an owner that goes releases nobody":               {owner: going, pod: pod("a", owned("rs")), want: Leave},
		"another's is left, whatever our selector thinks":  {owner: alive, pod: pod("a", labeled, owned("other")), want: Leave},
		"a namesake of ours from before is another's too ": {owner: alive, pod: pod("a", owned("rs-before")), want: Leave},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Judge(tc.owner, tc.pod, labels.SelectorFromSet(labels.Set{"app": "web"})); got != tc.want {
				t.Errorf("Judge() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestTakeAdoptsAndReleases(t *testing.T) {
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "rs"}}
	kind := appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	orphan := pod("orphan", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} })
	stray := pod("stray", func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)}
	})
	c := fake.NewClientBuilder().WithObjects(owner, orphan, stray).Build()
	claims := &Claimer{Client: c, Live: c, Kind: kind}
	mine, err := Take(t.Context(), claims, owner, labels.SelectorFromSet(labels.Set{"app": "web"}), []*corev1.Pod{orphan, stray})
	if err != nil {
		t.Fatal(err)
	}
	if len(mine) != 1 || mine[0] != orphan {
		t.Errorf("taken %v, want the orphan", mine)
	}
	owners := map[string]int{}
	var pods corev1.PodList
	if err := c.List(t.Context(), &pods); err != nil {
		t.Fatal(err)
	}
	for _, p := range pods.Items {
		owners[p.Name] = len(p.OwnerReferences)
	}
	if diff := cmp.Diff(map[string]int{"orphan": 1, "stray": 0}, owners); diff != "" {
		t.Errorf("owner references (-want +got):\n%s", diff)
	}
}

func TestSlowStart(t *testing.T) {
	tests := map[string]struct {
		n, failFrom int
		done, calls int
	}{
		"all succeed":                     {n: 10, failFrom: 99, done: 10, calls: 10},
		"nothing to do":                   {n: 0, failFrom: 99},
		"the first refusal costs one try": {n: 100, failFrom: 0, done: 0, calls: 1},
		"a late refusal ends its batch":   {n: 100, failFrom: 5, done: 5, calls: 7},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			done, err := SlowStart(tc.n, func(i int) error {
				calls.Add(1)
				if i >= tc.failFrom {
					return errors.New("refused")
				}
				return nil
			})
			if done != tc.done || int(calls.Load()) != tc.calls || (err != nil) != (tc.done < tc.n) {
				t.Errorf("SlowStart() = %d, %v after %d calls; want %d after %d", done, err, calls.Load(), tc.done, tc.calls)
			}
		})
	}
}

func TestFromTemplateNamesFitAHostname(t *testing.T) {
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "a-very-long-name-of-an-application-that-somebody-found-descriptive-5c9f8d"}}
	got := FromTemplate(owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), &corev1.PodTemplateSpec{})
	if len(got.Name) != nameLimit {
		t.Errorf("name %q has %d letters, want %d", got.Name, len(got.Name), nameLimit)
	}
}

func TestACreationNobodyAnsweredIsAskedAbout(t *testing.T) {
	broken := errors.New("connection reset by peer")
	tests := map[string]struct {
		made, answers, current bool
	}{
		"one that was made holds its owner until the cache shows it": {made: true, answers: true, current: false},
		"one that was not made is forgotten":                         {made: false, answers: true, current: true},
		"while the server is silent nothing is done":                 {made: true, answers: false, current: false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "rs"}}
			c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
				Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
					if tc.made {
						return errors.Join(broken, c.Create(ctx, o, options...))
					}
					return broken
				},
				Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, options ...client.GetOption) error {
					if !tc.answers {
						return broken
					}
					return c.Get(ctx, key, o, options...)
				},
			}).Build()
			control := New(Owners[*appsv1.ReplicaSet]{Kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet")}, c, c, record.NewFakeRecorder(9), testclock.NewFakePassiveClock(now))
			if err := control.Create(t.Context(), rs, pod("web-a", ofSet)); err == nil {
				t.Fatal("Create() = nil, want the broken connection")
			}
			current, _, err := control.Current(t.Context(), rs)
			if current != tc.current || (err == nil) != tc.answers {
				t.Errorf("Current() = %v, %v; want %v", current, err, tc.current)
			}
		})
	}
}

func TestAPodThatCameAndWentUnseenHoldsNobodyUp(t *testing.T) {
	tests := map[string]struct {
		live    *corev1.Pod // what the server has by that name
		current bool
	}{
		"it is gone":                         {current: true},
		"another has its name now":           {live: pod("web-a"), current: true},
		"it is there, and will come in view": {live: pod("web-a", ofSet)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			rs := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "rs"}}
			c, clock := fake.NewClientBuilder().Build(), testclock.NewFakePassiveClock(now)
			control := New(Owners[*appsv1.ReplicaSet]{Kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet")}, c, c, record.NewFakeRecorder(9), clock)
			control.Expected.Creating("rs", "web-a")
			if tc.live != nil {
				tc.live.Namespace = "shop"
				if err := c.Create(t.Context(), tc.live); err != nil {
					t.Fatal(err)
				}
			}
			if current, again, err := control.Current(t.Context(), rs); current || again > time.Minute || err != nil {
				t.Fatalf("Current() = %v in %v, %v; want to wait a moment", current, again, err)
			}
			clock.SetTime(now.Add(time.Minute))
			if current, _, err := control.Current(t.Context(), rs); current != tc.current || err != nil {
				t.Errorf("Current() = %v, %v; want %v", current, err, tc.current)
			}
		})
	}
}

func TestARestartedWatchShowsOnePodInPlaceOfAnother(t *testing.T) {
	c := fake.NewClientBuilder().Build()
	control := New(Owners[*appsv1.ReplicaSet]{Kind: appsv1.SchemeGroupVersion.WithKind("ReplicaSet")}, c, c, record.NewFakeRecorder(9), testclock.NewFakePassiveClock(now))
	owned := func(uid types.UID, version string) *corev1.Pod {
		return pod("web-a", ofSet, func(p *corev1.Pod) { p.UID, p.ResourceVersion = uid, version })
	}
	control.Expected.Deleting("rs", "web-a")
	q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer q.ShutDown()
	control.Follow().Update(t.Context(), event.UpdateEvent{ObjectOld: owned("a", "1"), ObjectNew: owned("b", "2")}, q)
	if met, _ := control.Expected.Met("rs"); !met {
		t.Error("the deletion of a pod whose name another has is still expected")
	}
}

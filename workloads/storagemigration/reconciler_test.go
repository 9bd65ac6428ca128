package storagemigration

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

func TestConditions(t *testing.T) {
	now := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	running := conditions(nil, storagemigrationv1.MigrationRunning, "", now)
	tests := map[string]struct {
		have  []metav1.Condition
		state storagemigrationv1.MigrationConditionType
		want  map[string]metav1.ConditionStatus
	}{
		"it runs":                       {nil, storagemigrationv1.MigrationRunning, map[string]metav1.ConditionStatus{"Running": "True"}},
		"it has run":                    {running, storagemigrationv1.MigrationSucceeded, map[string]metav1.ConditionStatus{"Running": "False", "Succeeded": "True"}},
		"it cannot":                     {running, storagemigrationv1.MigrationFailed, map[string]metav1.ConditionStatus{"Running": "False", "Failed": "True"}},
		"it could not so much as begin": {nil, storagemigrationv1.MigrationFailed, map[string]metav1.ConditionStatus{"Running": "False", "Failed": "True"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := map[string]metav1.ConditionStatus{}
			for _, c := range conditions(tc.have, tc.state, "", now) {
				if got[c.Type] = c.Status; c.Reason == "" {
					t.Errorf("%s has no reason", c.Type)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("conditions() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPermanent(t *testing.T) {
	secrets := schema.GroupResource{Resource: "secrets"}
	tests := map[string]struct {
		err  error
		want bool
	}{
		"a busy server is asked again":     {err: apierrors.NewTooManyRequests("later", 1)},
		"a server that stops, too":         {err: errors.New("connection refused")},
		"what is not valid never will be":  {err: apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "a", nil), want: true},
		"what a policy forbids stays so":   {err: apierrors.NewForbidden(secrets, "a", errors.New("no")), want: true},
		"what cannot be patched never can": {err: apierrors.NewMethodNotSupported(secrets, "patch"), want: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := permanent(tc.err); got != tc.want {
				t.Errorf("permanent() = %v, want %v", got, tc.want)
			}
		})
	}
}

// answer is what discovery said.
type answer struct {
	lists []*metav1.APIResourceList
	err   error
}

func (a answer) ServerPreferredResources() ([]*metav1.APIResourceList, error) { return a.lists, a.err }

func TestFind(t *testing.T) {
	core := []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "secrets"}}}}
	failed := func(group string) error {
		return &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: group, Version: "v1"}: errors.New("down")}}
	}
	tests := map[string]struct {
		answer answer
		group  string
		found  bool
		err    bool
	}{
		"a resource that is served":                 {answer: answer{lists: core}, found: true},
		"one that is, while another server is down": {answer: answer{lists: core, err: failed("metrics.k8s.io")}, found: true},
		"one that is not":                           {answer: answer{lists: core}, group: "apps"},
		"one that is not, whoever is down":          {answer: answer{lists: core, err: failed("metrics.k8s.io")}, group: "apps"},
		"one whose own server is down":              {answer: answer{lists: core, err: failed("apps")}, group: "apps", err: true},
		"no answer at all":                          {answer: answer{err: errors.New("down")}, err: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, found, err := (&Reconciler{kinds: tc.answer}).find(metav1.GroupResource{Group: tc.group, Resource: "secrets"})
			if found != tc.found || (err != nil) != tc.err {
				t.Errorf("find() = %v, %v; want %v, an error: %v", found, err, tc.found, tc.err)
			}
		})
	}
}

func TestHowLongAResourceMayTakeToBeServed(t *testing.T) {
	for name, c := range map[string]struct{ age, want time.Duration }{
		"a new migration looks again soon":        {0, 5 * time.Second},
		"at the end it looks a last time":         {58 * time.Second, 2 * time.Second},
		"after a minute it fails":                 {time.Minute, 0},
		"long after, with a server that was away": {time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := untilServed(c.age); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestAJumpOfTheClockFailsNoMigration(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			m := &storagemigrationv1.StorageVersionMigration{
				ObjectMeta: metav1.ObjectMeta{Name: "m", CreationTimestamp: metav1.NewTime(now.Add(-58 * time.Second))},
				Spec:       storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "example.com", Resource: "widgets"}},
			}
			c := fake.NewClientBuilder().WithObjects(m).WithStatusSubresource(m).Build()
			r := &Reconciler{client: c, migrations: c, kinds: answer{}, clock: steadytest.Jumped(now, by)}
			result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(m)})
			if err != nil || result.RequeueAfter != 2*time.Second {
				t.Errorf("Reconcile() = %v, %v; want a last look at what is served in two seconds", result.RequeueAfter, err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil || ended(m) {
				t.Errorf("the migration ended: %+v, %v", m.Status, err)
			}
		})
	}
}

package resource

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func deployment(replicas, ready int32, label string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "n", Generation: 7, Labels: map[string]string{"l": label}},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas},
		Status:     appsv1.DeploymentStatus{ReadyReplicas: ready},
	}
}

func strategyOf(hooks Hooks[*appsv1.Deployment]) *strategy {
	row := &Row{
		In: appsv1.SchemeGroupVersion, Object: &appsv1.Deployment{}, List: &appsv1.DeploymentList{}, Plural: "deployments",
		Namespaced: true, Status: true, Generation: true, Hooks: Erase(hooks),
	}
	return &strategy{row: row, layout: layoutOf(row.Object)}
}

func TestPrepare(t *testing.T) {
	ctx, s := context.Background(), strategyOf(Hooks[*appsv1.Deployment]{})
	born := strategyOf(Hooks[*appsv1.Deployment]{})
	born.row.StatusAtCreate = true
	tests := map[string]struct {
		prepare func(obj, old runtime.Object)
		obj     *appsv1.Deployment
		want    *appsv1.Deployment
	}{
		"a new object has no status and generation 1": {
			prepare: func(obj, _ runtime.Object) { s.PrepareForCreate(ctx, obj) },
			obj:     deployment(3, 3, "a"), want: func() *appsv1.Deployment { d := deployment(3, 0, "a"); d.Generation = 1; return d }(),
		},
		"a new object of a kind that is made with its status keeps it": {
			prepare: func(obj, _ runtime.Object) { born.PrepareForCreate(ctx, obj) },
			obj:     deployment(3, 3, "a"), want: func() *appsv1.Deployment { d := deployment(3, 3, "a"); d.Generation = 1; return d }(),
		},
		"an update leaves the status alone": {
			prepare: func(obj, old runtime.Object) { s.PrepareForUpdate(ctx, obj, old) },
			obj:     deployment(1, 9, "b"), want: deployment(1, 1, "b"),
		},
		"another spec is another generation": {
			prepare: func(obj, old runtime.Object) { s.PrepareForUpdate(ctx, obj, old) },
			obj:     deployment(2, 1, "a"), want: func() *appsv1.Deployment { d := deployment(2, 1, "a"); d.Generation = 8; return d }(),
		},
		"an update of status leaves the spec alone and takes labels": {
			prepare: func(obj, old runtime.Object) { (&statusStrategy{s}).PrepareForUpdate(ctx, obj, old) },
			obj:     deployment(5, 2, "b"), want: deployment(1, 2, "b"),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			old := deployment(1, 1, "a")
			tc.prepare(tc.obj, old)
			if diff := cmp.Diff(tc.want, tc.obj); diff != "" {
				t.Errorf("object (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(deployment(1, 1, "a"), old); diff != "" {
				t.Errorf("the old object changed (-before +after):\n%s", diff)
			}
		})
	}
}

func TestHooksAreCalledWithTheirType(t *testing.T) {
	ctx := context.Background()
	var called []string
	s := strategyOf(Hooks[*appsv1.Deployment]{
		PrepareCreate: func(context.Context, *appsv1.Deployment) { called = append(called, "create") },
		PrepareUpdate: func(context.Context, *appsv1.Deployment, *appsv1.Deployment) { called = append(called, "update") },
		PrepareStatus: func(context.Context, *appsv1.Deployment, *appsv1.Deployment) { called = append(called, "status") },
		Validate: func(_ context.Context, d *appsv1.Deployment) field.ErrorList {
			return field.ErrorList{field.Required(field.NewPath("spec"), d.Name)}
		},
		Warnings: func(context.Context, *appsv1.Deployment) []string { return []string{"careful"} },
	})
	d := deployment(1, 1, "a")
	s.PrepareForCreate(ctx, d.DeepCopy())
	s.PrepareForUpdate(ctx, d.DeepCopy(), d)
	(&statusStrategy{s}).PrepareForUpdate(ctx, d.DeepCopy(), d)
	if got := strings.Join(called, " "); got != "create update status" {
		t.Errorf("called %s", got)
	}
	if errs := s.Validate(ctx, d); len(errs) != 1 {
		t.Errorf("on creation: %v", errs)
	}
	if errs := s.ValidateUpdate(ctx, d, d); len(errs) != 1 {
		t.Errorf("an update without a rule of its own is validated like a creation: %v", errs)
	}
	if errs := (&statusStrategy{s}).ValidateUpdate(ctx, d, d); len(errs) != 0 {
		t.Errorf("an update of status was validated by the rule for the spec: %v", errs)
	}
	if w := s.WarningsOnUpdate(ctx, deployment(2, 1, "a"), d); len(w) != 1 {
		t.Errorf("warnings: %v", w)
	}
	if w := s.WarningsOnUpdate(ctx, deployment(1, 2, "b"), d); len(w) != 0 {
		t.Errorf("warnings of an update that leaves the content alone: %v", w)
	}
}

func TestNames(t *testing.T) {
	ctx := context.Background()
	tests := map[string]struct {
		name  string
		rule  func(string, bool) []string
		valid bool
	}{
		"a DNS subdomain unless the kind says otherwise": {name: "a.b-c", valid: true},
		"nothing else":                                             {name: "A_b"},
		"what the kind's own rule allows":                          {name: "A_b", rule: func(string, bool) []string { return nil }, valid: true},
		"but never what would be another path":                     {name: "a/b"},
		"an address where the rule of the kind is about addresses": {name: "10.0.0.1", rule: func(string, bool) []string { return nil }, valid: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := deployment(1, 0, "a")
			d.Name = tc.name
			errs := strategyOf(Hooks[*appsv1.Deployment]{ValidateName: tc.rule}).Validate(ctx, d)
			if (len(errs) == 0) != tc.valid {
				t.Errorf("errors: %v", errs)
			}
		})
	}
}

func TestFinalizers(t *testing.T) {
	ctx := context.Background()
	const refused = "name is neither a standard finalizer name nor is it fully qualified"
	tests := map[string]struct {
		before, now    []string
		lax            bool
		create, update string // what is said; "": allowed
	}{
		"a domain says whose one is":        {now: []string{"example.com/a"}},
		"Kubernetes' own have none":         {now: []string{"foregroundDeletion", "kubernetes"}},
		"nobody else's is without":          {now: []string{"example.com/a", "mine"}, create: refused, update: refused},
		"one that was there may stay":       {before: []string{"mine"}, now: []string{"mine"}, create: refused},
		"some kinds take what the path can": {now: []string{"mine"}, lax: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := strategyOf(Hooks[*appsv1.Deployment]{LaxMetadata: tc.lax})
			d, old := deployment(1, 0, "a"), deployment(1, 0, "a")
			d.Finalizers, old.Finalizers = tc.now, tc.before
			for what, got := range map[string]struct {
				errs field.ErrorList
				want string
			}{"create": {s.Validate(ctx, d), tc.create}, "update": {s.ValidateUpdate(ctx, d, old), tc.update}} {
				if err := got.errs.ToAggregate(); (err == nil) != (got.want == "") || err != nil && !strings.Contains(err.Error(), got.want) {
					t.Errorf("%s: %v, want %q", what, err, got.want)
				}
			}
		})
	}
}

func TestLayout(t *testing.T) {
	tests := map[string]struct {
		object  runtime.Object
		status  bool
		content []string
	}{
		"spec and status":       {object: &corev1.Pod{}, status: true, content: []string{"spec"}},
		"neither":               {object: &corev1.ConfigMap{}, content: []string{"immutable", "data", "binaryData"}},
		"nothing but a subject": {object: &corev1.Binding{}, content: []string{"target"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l := layoutOf(tc.object)
			if (l.status >= 0) != tc.status {
				t.Errorf("status at %d", l.status)
			}
			if diff := cmp.Diff(tc.content, l.contentNames); diff != "" {
				t.Errorf("content (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRowsThatAreImpossibleAreReported(t *testing.T) {
	tests := map[string]Row{
		"no object":                {In: corev1.SchemeGroupVersion, Plural: "pods"},
		"stored without a list":    {In: corev1.SchemeGroupVersion, Plural: "pods", Object: &corev1.Pod{}},
		"hooks for something else": {In: corev1.SchemeGroupVersion, Plural: "pods", Object: &corev1.Pod{}, List: &corev1.PodList{}, Hooks: Erase(Hooks[*corev1.Node]{})},
	}
	for name, row := range tests {
		t.Run(name, func(t *testing.T) {
			if err := row.Check(); err == nil {
				t.Error("the row was accepted")
			}
		})
	}
}

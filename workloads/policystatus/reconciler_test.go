package policystatus

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestChecked(t *testing.T) {
	policy := func(generation, observed int64, checking *admissionregistrationv1.TypeChecking) *admissionregistrationv1.ValidatingAdmissionPolicy {
		return &admissionregistrationv1.ValidatingAdmissionPolicy{
			ObjectMeta: metav1.ObjectMeta{Generation: generation},
			Status:     admissionregistrationv1.ValidatingAdmissionPolicyStatus{ObservedGeneration: observed, TypeChecking: checking},
		}
	}
	tests := map[string]struct {
		policy *admissionregistrationv1.ValidatingAdmissionPolicy
		want   bool
	}{
		"a new policy is not":            {policy(1, 0, nil), false},
		"one that was is":                {policy(1, 1, &admissionregistrationv1.TypeChecking{}), true},
		"one that changed since is not":  {policy(2, 1, &admissionregistrationv1.TypeChecking{}), false},
		"one only its author noted, too": {policy(1, 1, nil), false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := checked(tc.policy); got != tc.want {
				t.Errorf("checked() = %v, want %v", got, tc.want)
			}
		})
	}
}

// counting finds the same in every policy, and counts.
type counting struct{ checks int }

func (c *counting) Check(*admissionregistrationv1.ValidatingAdmissionPolicy) []admissionregistrationv1.ExpressionWarning {
	c.checks++
	return []admissionregistrationv1.ExpressionWarning{{FieldRef: "spec.validations[0].expression", Warning: "undefined field"}}
}

func TestEachGenerationIsCheckedOnce(t *testing.T) {
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p", Generation: 3}}
	c := fake.NewClientBuilder().WithObjects(policy).WithStatusSubresource(policy).Build()
	found := &counting{}
	r := &Reconciler{client: c, policies: c, checker: found}
	for range 2 {
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "p"}}); err != nil {
			t.Fatal(err)
		}
	}
	var got admissionregistrationv1.ValidatingAdmissionPolicy
	if err := c.Get(t.Context(), client.ObjectKey{Name: "p"}, &got); err != nil {
		t.Fatal(err)
	}
	if found.checks != 1 || got.Status.ObservedGeneration != 3 || len(got.Status.TypeChecking.ExpressionWarnings) != 1 {
		t.Errorf("%d checks, status %+v", found.checks, got.Status)
	}
}

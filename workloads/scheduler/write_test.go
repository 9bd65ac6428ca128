package scheduler

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestGone(t *testing.T) {
	pod := corev1.SchemeGroupVersion.WithKind("Pod").GroupKind()
	invalid := func(path *field.Path) error {
		return fmt.Errorf("mark pod: %w", apierrors.NewInvalid(pod, "web", field.ErrorList{field.Invalid(path, "1", "field is immutable")}))
	}
	tests := map[string]struct {
		err  error
		want bool
	}{
		"nothing went wrong":                   {err: nil},
		"the server did not answer":            {err: errors.New("refused")},
		"the pod was deleted":                  {err: apierrors.NewNotFound(corev1.Resource("pods"), "web"), want: true},
		"the pod is placed":                    {err: apierrors.NewConflict(corev1.Resource("pods"), "web", nil), want: true},
		"another pod has its name":             {err: invalid(field.NewPath("metadata", "uid")), want: true},
		"what was written is not allowed":      {err: invalid(field.NewPath("status", "nominatedNodeName"))},
		"the server refuses for other reasons": {err: apierrors.NewForbidden(corev1.Resource("pods"), "web", nil)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := gone(tc.err); got != tc.want {
				t.Errorf("gone(%v) = %v, want %v", tc.err, got, tc.want)
			}
		})
	}
}

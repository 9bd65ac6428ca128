package pod

import (
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func TestARefusalMeansAnotherPodOnlyIfThereIsOne(t *testing.T) {
	conflict := apierrors.NewConflict(corev1.Resource("pods"), "p", nil)
	invalid := apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Pod").GroupKind(), "p", field.ErrorList{field.Invalid(field.NewPath("metadata", "uid"), "ours", "field is immutable")})
	tests := map[string]struct {
		stored types.UID // of the pod the API has by the name; "" means there is none
		refuse error
		gone   bool
	}{
		"others wrote too often meanwhile, so it is written again":     {stored: "ours", refuse: conflict},
		"another pod has the name, so ours is wound down":              {stored: "other", refuse: conflict, gone: true},
		"its UID is no change of the other one, so ours is wound down": {stored: "other", refuse: invalid, gone: true},
		"the pod is gone, so ours is wound down":                       {refuse: conflict, gone: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "ours"}}
			api := fake.NewClientset()
			if tc.stored != "" {
				stored := pod.DeepCopy()
				stored.UID = tc.stored
				if err := api.Tracker().Add(stored); err != nil {
					t.Fatal(err)
				}
			}
			refusals := 1
			api.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
				refusals--
				return refusals >= 0, nil, tc.refuse
			})
			m := NewManager(Config{Client: api.CoreV1(), Log: slog.New(slog.DiscardHandler)})
			m.ctx, m.closed = t.Context(), true // nothing but the writer runs
			a := newActor(m, "ours")
			a.pod, a.want = pod, &wanted{status: corev1.PodStatus{Phase: corev1.PodRunning}}
			m.writer.write(a, "default", "p")

			if a.gone != tc.gone {
				t.Errorf("gone is %t; want %t", a.gone, tc.gone)
			}
			if tc.gone {
				return
			}
			got, err := api.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if got.Status.Phase != corev1.PodRunning {
				t.Errorf("the API has phase %q; want Running", got.Status.Phase)
			}
		})
	}
}

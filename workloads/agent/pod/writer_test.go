package pod

import (
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

func TestAConflictMeansAnotherPodOnlyIfThereIsOne(t *testing.T) {
	tests := map[string]struct {
		stored types.UID // of the pod the API has by the name; "" means there is none
		gone   bool
	}{
		"others wrote too often meanwhile, so it is written again": {stored: "ours"},
		"another pod has the name, so ours is wound down":          {stored: "other", gone: true},
		"the pod is gone, so ours is wound down":                   {gone: true},
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
			conflicts := 1
			api.PrependReactor("patch", "pods", func(k8stesting.Action) (bool, runtime.Object, error) {
				conflicts--
				return conflicts >= 0, nil, apierrors.NewConflict(corev1.Resource("pods"), "p", nil)
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

package statefulset

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

func TestFollowNames(t *testing.T) {
	stranger := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}}
	}
	tests := map[string]struct {
		gone *corev1.Pod
		want string
	}{
		"a stranger under a member's name sets the name free": {gone: stranger("db-0"), want: "shop/db"},
		"a name without an ordinal is nobody's":               {gone: stranger("db")},
		"a member's owner is queued for it elsewhere":         {gone: pods(db(1), "0:new:ready")[0]},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			defer q.ShutDown()
			followNames().Delete(t.Context(), event.DeleteEvent{Object: tc.gone}, q)
			got := ""
			if q.Len() > 0 {
				request, _ := q.Get()
				got = request.String()
			}
			if got != tc.want {
				t.Errorf("queued %q, want %q", got, tc.want)
			}
		})
	}
}

package statefulset

import (
	"context"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// followNames queues the StatefulSet that may have waited for the name of a pod that is gone: a pod it released, or one
// that was never its own. Its own pods queue it as their owner.
func followNames() handler.EventHandler {
	return handler.Funcs{
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			name := e.Object.GetName()
			if end := strings.LastIndexByte(name, '-'); end > 0 && metav1.GetControllerOfNoCopy(e.Object) == nil {
				q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: e.Object.GetNamespace(), Name: name[:end]}})
			}
		},
	}
}

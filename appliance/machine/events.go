package machine

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// events carries what a node has to tell about its pods and itself to the API server, under the name users of
// Kubernetes look for.
type events struct {
	client      kubernetes.Interface
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
}

func newEvents(client kubernetes.Interface, node string) *events {
	b := record.NewBroadcaster()
	return &events{client, b, b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: node})}
}

func (e *events) Name() string { return "events" }

func (e *events) Run(ctx context.Context, ready func()) error {
	e.broadcaster.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: e.client.CoreV1().Events("")})
	ready()
	<-ctx.Done()
	e.broadcaster.Shutdown()
	return nil
}

package machine

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	toolscache "k8s.io/client-go/tools/cache"

	"knarr.dev/knarr/netstack/dns"
)

// dnsSettings brings the cluster's DNS settings to this node's server: a watch of one object, because nodes may read no
// other ConfigMap.
type dnsSettings struct {
	client kubernetes.Interface
	follow func(data map[string]string)
}

func (d dnsSettings) Name() string { return "dns settings" }

// Run is ready at once: names are answered before the API server is there.
func (d dnsSettings) Run(ctx context.Context, ready func()) error {
	ready()
	source := toolscache.NewListWatchFromClient(d.client.CoreV1().RESTClient(), "configmaps", metav1.NamespaceSystem,
		fields.OneTermEqualSelector(metav1.ObjectNameField, dns.ConfigMapName))
	take := func(object any) {
		if settings, ok := object.(*corev1.ConfigMap); ok {
			d.follow(settings.Data)
		}
	}
	_, informer := toolscache.NewInformerWithOptions(toolscache.InformerOptions{
		ListerWatcher: source, ObjectType: &corev1.ConfigMap{},
		Handler: toolscache.ResourceEventHandlerFuncs{
			AddFunc:    take,
			UpdateFunc: func(_, object any) { take(object) },
			DeleteFunc: func(any) { d.follow(nil) },
		},
	})
	informer.RunWithContext(ctx)
	return nil
}

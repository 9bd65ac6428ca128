// Package loadbalancer gives services of type LoadBalancer addresses where there is no cloud to do it.
//
// In:       services and nodes, from the shared cache; a pool of addresses.
// Out:      status.loadBalancer of services that leave the choice to the cluster (no loadBalancerClass), the cleanup
//
//	finalizer and the events of k8s.io/cloud-provider's service controller, which runs on our provider.
//
// Promise:  no two services have the same address; a service keeps what it has, across restarts too.
// Not here: announcing addresses to the network, forwarding what arrives (netstack).
package loadbalancer

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corev1listers "k8s.io/client-go/listers/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	servicecontroller "k8s.io/cloud-provider/controllers/service"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/bootstrap/addresspool"
)

// workers is one: what a service gets depends on what the one before it got.
const workers = 1

// Concerns says whether a service is one we are for.
func Concerns(o metav1.Object) bool {
	s, whole := o.(*corev1.Service)
	return !whole || s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil
}

// Register adds the service controller to a manager.
func Register(ctx context.Context, mgr manager.Manager, pool addresspool.Pool) error {
	api, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a client of services: %w", err)
	}
	services, err := shared(ctx, mgr, &corev1.Service{})
	if err != nil {
		return err
	}
	nodes, err := shared(ctx, mgr, &corev1.Node{})
	if err != nil {
		return err
	}
	lister := serviceInformer{services}.Lister()
	controller, err := servicecontroller.New(NewProvider(pool, lister), api, serviceInformer{services}, nodeInformer{nodes}, "knarr", nil)
	if err != nil {
		return fmt.Errorf("make the service controller: %w", err)
	}
	return mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
		controller.Run(ctx, workers, controllersmetrics.NewControllerManagerMetrics("knarr"))
		return nil
	}))
}

// shared is an informer of the shared cache in the form the library takes.
func shared(ctx context.Context, mgr manager.Manager, kind client.Object) (toolscache.SharedIndexInformer, error) {
	informer, err := mgr.GetCache().GetInformer(ctx, kind)
	if err != nil {
		return nil, fmt.Errorf("watch %T: %w", kind, err)
	}
	index, ok := informer.(toolscache.SharedIndexInformer)
	if !ok {
		return nil, fmt.Errorf("watch %T: the cache's informer is a %T", kind, informer)
	}
	return index, nil
}

type serviceInformer struct{ toolscache.SharedIndexInformer }

var _ coreinformers.ServiceInformer = serviceInformer{}

func (i serviceInformer) Informer() toolscache.SharedIndexInformer { return i.SharedIndexInformer }
func (i serviceInformer) Lister() corev1listers.ServiceLister {
	return corev1listers.NewServiceLister(i.GetIndexer())
}

type nodeInformer struct{ toolscache.SharedIndexInformer }

var _ coreinformers.NodeInformer = nodeInformer{}

func (i nodeInformer) Informer() toolscache.SharedIndexInformer { return i.SharedIndexInformer }
func (i nodeInformer) Lister() corev1listers.NodeLister {
	return corev1listers.NewNodeLister(i.GetIndexer())
}

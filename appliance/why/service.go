package why

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/bootstrap/addresspool"
	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/workloads/loadbalancer"
	"knarr.dev/knarr/workloads/nodebalancer"
)

// ServiceFacts are what is known about a Service.
type ServiceFacts struct {
	Facts                      // Nodes and Pods, of all nodes, where its address depends on them
	Service   *corev1.Service  // nil when there is none
	Services  []corev1.Service // all, while it waits for an address
	Endpoints []discoveryv1.EndpointSlice
	Behind    []corev1.Pod      // that its selector names
	Cluster   map[string]string // settings of the cluster; nil when they could not be read
}

// GatherService asks a cluster for the facts about a Service. Only when the cluster does not answer at all it fails.
func GatherService(ctx context.Context, client kubernetes.Interface, namespace, name string, now time.Time) (*ServiceFacts, error) {
	f := &ServiceFacts{Facts: Facts{Now: now, Namespace: namespace, Name: name}}
	core := client.CoreV1()
	service, err := core.Services(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return f, nil
	case err != nil:
		return nil, fmt.Errorf("ask for service %s in namespace %s: %w", name, namespace, err)
	}
	f.Service = service
	f.Events = f.events(ctx, client, "involvedObject.uid="+string(service.UID))
	take(&f.Facts, "the service's endpoints", &f.Endpoints, func() ([]discoveryv1.EndpointSlice, error) {
		l, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set{discoveryv1.LabelServiceName: name}.String()})
		return ptr.Deref(l, discoveryv1.EndpointSliceList{}).Items, err
	})
	if len(service.Spec.Selector) > 0 {
		take(&f.Facts, "the service's pods", &f.Behind, func() ([]corev1.Pod, error) {
			l, err := core.Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.Set(service.Spec.Selector).String()})
			return ptr.Deref(l, corev1.PodList{}).Items, err
		})
	}
	if service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil {
		f.balancing(ctx, client)
	}
	return f, nil
}

// balancing reads what load balancers' addresses are decided by.
func (f *ServiceFacts) balancing(ctx context.Context, client kubernetes.Interface) {
	core := client.CoreV1()
	settings, err := core.ConfigMaps(metav1.NamespaceSystem).Get(ctx, join.ConfigMapName, metav1.GetOptions{})
	if err != nil {
		f.unknown("the cluster's settings", err)
		return
	}
	f.Cluster = settings.Data
	take(&f.Facts, "the services of all namespaces", &f.Services, func() ([]corev1.Service, error) {
		l, err := core.Services("").List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, corev1.ServiceList{}).Items, err
	})
	if f.Cluster[balancers] != config.OwnAddresses {
		return
	}
	take(&f.Facts, "nodes", &f.Nodes, func() ([]corev1.Node, error) {
		l, err := core.Nodes().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, corev1.NodeList{}).Items, err
	})
	take(&f.Facts, "the pods of all namespaces", &f.Pods, func() ([]corev1.Pod, error) {
		l, err := core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"})
		return ptr.Deref(l, corev1.PodList{}).Items, err
	})
}

// balancers is the setting that says which addresses load balancers get.
const balancers = "load-balancer-addresses"

// ExplainService says why a Service cannot be reached.
func ExplainService(f *ServiceFacts) *Report {
	r, s := &Report{Unknown: f.Unknown}, f.Service
	if s == nil {
		r.Cause = fmt.Sprintf("There is no service %s in namespace %s.", f.Name, f.Namespace)
		r.do("Look for it elsewhere: kubectl get services -A | grep %s", f.Name)
		return r
	}
	ready := readyEndpoints(f.Endpoints)
	switch {
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		r.Cause = fmt.Sprintf("Service %s/%s is another name for %s: whether that answers is not this cluster's to know.", s.Namespace, s.Name, s.Spec.ExternalName)
	case s.Spec.Type == corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) == 0:
		withoutAddress(f, r)
	case ready == 0:
		nobodyBehind(f, r)
	default:
		r.Cause = fmt.Sprintf("Service %s/%s has %d ready endpoints.", s.Namespace, s.Name, ready)
		if missing, _ := f.atNodes(); len(missing) > 0 {
			r.section("Not at every node", missing...)
		}
	}
	r.section("Events", eventLines(&f.Facts, "")...)
	return r
}

// withoutAddress explains a Service of type LoadBalancer that waits for one.
func withoutAddress(f *ServiceFacts, r *Report) {
	s := f.Service
	r.Cause = fmt.Sprintf("Service %s/%s waits for an address of its own", s.Namespace, s.Name)
	switch setting := f.Cluster[balancers]; {
	case s.Spec.LoadBalancerClass != nil:
		r.Cause += fmt.Sprintf(": whoever serves the load balancer class %s has to give it one.", *s.Spec.LoadBalancerClass)
		r.do("Look at the log of that controller, or create the service again without spec.loadBalancerClass.")
	case f.Cluster == nil:
		r.Cause += "."
	case f.Cluster["cloud-provider"] == config.External:
		r.Cause += ": the cloud's controller manager has to give it one (cloud-provider: external)."
		r.do("Look at that controller manager's log.")
	case setting == "":
		r.Cause += ": this cluster has none to give."
		r.do("Set load-balancer-addresses on the servers and start them again: to addresses of the machines' network that nobody has (192.0.2.10-192.0.2.20), or to `nodes` for the nodes' own.")
		r.do("Or install another controller of load balancers, or use type NodePort.")
	case len(f.Unknown) > 0: // somebody whom we do not see may have it
		r.Cause += "."
	case setting == config.OwnAddresses:
		missing, waiting := f.atNodes()
		switch {
		case waiting:
			r.Cause += ": nodes are looking who has its ports, which takes them up to 10 s."
			r.section("Other nodes", missing...)
		case len(missing) == 0:
			r.Cause += ", and could have those of nodes: it gets them in a moment."
			r.do("If that does not happen: `knarr status` on a server says whether the control plane runs.")
		default:
			r.Cause += ": no node gives it its own."
			r.section("Nodes", missing...)
			r.do("Free the ports on a node, or have the service name others (spec.ports); it gets the node as soon as that is done.")
		}
	default:
		pool, err := addresspool.Parse(setting)
		if err == nil {
			err = loadbalancer.Obstacle(s, f.Services, pool)
		}
		if err != nil {
			r.Cause += fmt.Sprintf(": %v.", err)
			r.section("load-balancer-addresses", setting)
			return
		}
		r.Cause += ", and there is one free: it gets it in a moment."
		r.do("If that does not happen: `knarr status` on a server says whether the control plane runs.")
	}
}

// atNodes are the nodes that give a Service no address, and why, where nodes give theirs.
func (f *ServiceFacts) atNodes() (lines []string, waiting bool) {
	if f.Cluster[balancers] != config.OwnAddresses {
		return nil, false
	}
	lines, waiting = nodebalancer.Explain(f.Service, f.Services, f.Nodes, f.Pods, f.Endpoints)
	for i, line := range lines {
		lines[i] = strings.Replace(line, ": ", "\t", 1)
	}
	return lines, waiting
}

// nobodyBehind explains a Service without an endpoint that is ready.
func nobodyBehind(f *ServiceFacts, r *Report) {
	s := f.Service
	r.Cause = fmt.Sprintf("Service %s/%s leads nowhere: ", s.Namespace, s.Name)
	selector := labels.Set(s.Spec.Selector).String()
	switch {
	case len(s.Spec.Selector) == 0:
		r.Cause += "it has no selector, and nobody has given it an EndpointSlice with a ready endpoint."
	case len(f.Behind) == 0:
		r.Cause += fmt.Sprintf("no pod in its namespace has the labels of its selector (%s).", selector)
		r.do("Compare the selector with the pods: kubectl -n %s get pods --show-labels", s.Namespace)
	default:
		r.Cause += fmt.Sprintf("of %d pods with the labels of its selector none is ready.", len(f.Behind))
		slices.SortFunc(f.Behind, func(a, b corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
		for i := range f.Behind {
			p := &f.Behind[i]
			r.section("Pod "+p.Name, string(p.Status.Phase))
		}
		r.do("knarr why pod/%s -n %s", f.Behind[0].Name, s.Namespace)
	}
}

func readyEndpoints(slices []discoveryv1.EndpointSlice) (n int) {
	for i := range slices {
		for _, e := range slices[i].Endpoints {
			if ptr.Deref(e.Conditions.Ready, true) {
				n += len(e.Addresses)
			}
		}
	}
	return n
}

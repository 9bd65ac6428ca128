package virtual

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/appliance/apiserver/printing"
	resources "knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/usage"
)

// NodeUsage serves metrics.k8s.io's nodes: what each node uses.
func NodeUsage(env *resources.Env) (rest.Storage, error) {
	return &nodeUsage{TableConvertor: printing.NodeMetrics(), env: env}, nil
}

// PodUsage serves metrics.k8s.io's pods: what each container of running pods uses.
func PodUsage(env *resources.Env) (rest.Storage, error) {
	return &podUsage{TableConvertor: printing.PodMetrics(), env: env}, nil
}

type nodeUsage struct {
	rest.TableConvertor
	env *resources.Env
}

type podUsage struct {
	rest.TableConvertor
	env *resources.Env
}

var (
	_ rest.Lister = &nodeUsage{}
	_ rest.Getter = &nodeUsage{}
	_ rest.Lister = &podUsage{}
	_ rest.Getter = &podUsage{}
)

func (n *nodeUsage) New() runtime.Object     { return &metricsv1beta1.NodeMetrics{} }
func (n *nodeUsage) NewList() runtime.Object { return &metricsv1beta1.NodeMetricsList{} }
func (n *nodeUsage) Destroy()                {}
func (n *nodeUsage) NamespaceScoped() bool   { return false }
func (n *nodeUsage) GetSingularName() string { return "" } // "node" is the core group's

func (n *nodeUsage) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	found, err := n.env.Storage(corev1.Resource("nodes")).List(ctx, cached(options))
	if err != nil {
		return nil, err
	}
	nodes := found.(*corev1.NodeList).Items
	names := make([]string, 0, len(nodes))
	for i := range nodes {
		names = append(names, nodes[i].Name)
	}
	used := n.env.Usage.Of(ctx, names)
	list := &metricsv1beta1.NodeMetricsList{Items: make([]metricsv1beta1.NodeMetrics, 0, len(nodes))}
	for i := range nodes {
		if m := nodeMetrics(&nodes[i], used); m != nil {
			list.Items = append(list.Items, *m)
		}
	}
	return list, nil
}

func (n *nodeUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	missing := apierrors.NewNotFound(metricsv1beta1.Resource("nodemetrics"), name)
	found, err := n.env.Storage(corev1.Resource("nodes")).Get(ctx, name, &metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	if m := nodeMetrics(found.(*corev1.Node), n.env.Usage.Of(ctx, []string{name})); m != nil {
		return m, nil
	}
	return nil, missing
}

func (p *podUsage) New() runtime.Object     { return &metricsv1beta1.PodMetrics{} }
func (p *podUsage) NewList() runtime.Object { return &metricsv1beta1.PodMetricsList{} }
func (p *podUsage) Destroy()                {}
func (p *podUsage) NamespaceScoped() bool   { return true }
func (p *podUsage) GetSingularName() string { return "" } // "pod" is the core group's

func (p *podUsage) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	found, err := p.env.Storage(corev1.Resource("pods")).List(ctx, cached(options))
	if err != nil {
		return nil, err
	}
	pods := slices.DeleteFunc(found.(*corev1.PodList).Items, func(p corev1.Pod) bool { return !running(&p) })
	var nodes []string // only those the pods are on
	for i := range pods {
		nodes = append(nodes, pods[i].Spec.NodeName)
	}
	slices.Sort(nodes)
	used := p.env.Usage.Of(ctx, slices.Compact(nodes))
	list := &metricsv1beta1.PodMetricsList{Items: make([]metricsv1beta1.PodMetrics, 0, len(pods))}
	for i := range pods {
		if m := podMetrics(&pods[i], used); m != nil {
			list.Items = append(list.Items, *m)
		}
	}
	return list, nil
}

func (p *podUsage) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	missing := apierrors.NewNotFound(metricsv1beta1.Resource("podmetrics"), request.NamespaceValue(ctx)+"/"+name)
	found, err := p.env.Storage(corev1.Resource("pods")).Get(ctx, name, &metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return nil, missing
	}
	if err != nil {
		return nil, err
	}
	pod := found.(*corev1.Pod)
	if !running(pod) {
		return nil, missing
	}
	if m := podMetrics(pod, p.env.Usage.Of(ctx, []string{pod.Spec.NodeName})); m != nil {
		return m, nil
	}
	return nil, missing
}

// cached asks the watch cache rather than the datastore: objects a moment old do, since usage is older.
func cached(options *metainternalversion.ListOptions) *metainternalversion.ListOptions {
	asked := &metainternalversion.ListOptions{ResourceVersion: "0", FieldSelector: fields.Everything()}
	if options != nil {
		asked.LabelSelector = options.LabelSelector
		if options.FieldSelector != nil {
			asked.FieldSelector = options.FieldSelector
		}
	}
	return asked
}

func running(pod *corev1.Pod) bool {
	return pod.Spec.NodeName != "" && pod.Status.Phase == corev1.PodRunning
}

// nodeMetrics is nil for a node that has not answered.
func nodeMetrics(node *corev1.Node, used usage.Usage) *metricsv1beta1.NodeMetrics {
	r, known := used.Node(node.Name)
	if !known {
		return nil
	}
	return &metricsv1beta1.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: metav1.Now()},
		Timestamp:  metav1.NewTime(r.At), Window: metav1.Duration{Duration: r.Window}, Usage: usageList(r),
	}
}

// podMetrics is nil for a pod of which a running container has not been measured: what adds up its containers would take
// it for a smaller one. The moment is the earliest of its containers', and so is the window.
func podMetrics(pod *corev1.Pod, used usage.Usage) *metricsv1beta1.PodMetrics {
	var at time.Time
	var window time.Duration
	var containers []metricsv1beta1.ContainerMetrics
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].State.Running == nil {
				continue
			}
			r, known := used.Container(pod.Spec.NodeName, pod.Namespace, pod.Name, list[i].Name)
			if !known {
				return nil
			}
			if at.IsZero() || r.At.Before(at) {
				at, window = r.At, r.Window
			}
			containers = append(containers, metricsv1beta1.ContainerMetrics{Name: list[i].Name, Usage: usageList(r)})
		}
	}
	if len(containers) == 0 {
		return nil
	}
	return &metricsv1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: metav1.Now()},
		Timestamp:  metav1.NewTime(at), Window: metav1.Duration{Duration: window}, Containers: containers,
	}
}

func usageList(r usage.Reading) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(r.CPU, resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(r.Memory, resource.BinarySI),
	}
}

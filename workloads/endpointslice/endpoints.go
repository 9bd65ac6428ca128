package endpointslice

//lint:file-ignore SA1019 Endpoints are deprecated, and served to those who still read them.

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	endpointslice "k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/utils/net"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	ownerLabel = "endpoints.kubernetes.io/managed-by"
	ownerName  = "endpoint-controller"
	// addressLimit is what one Endpoints object holds: it is a single object, sent whole with every change.
	addressLimit = 1000
	// behind is about as long as a write takes to come back through a watch.
	behind = 20 * time.Millisecond
)

func endpoints() client.Object { return &corev1.Endpoints{} }

// ours says whether this controller made an Endpoints object.
func ours(o client.Object) bool { return o.GetLabels()[ownerLabel] == ownerName }

// settleEndpoints publishes a service's pods the older way; again is when to come back, if the cache is a moment
// behind our own last write.
func (r *Reconciler) settleEndpoints(ctx context.Context, service *corev1.Service, pods []*corev1.Pod) (again time.Duration, err error) {
	var existing corev1.Endpoints
	err = r.client.Get(ctx, client.ObjectKeyFromObject(service), &existing)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("observe endpoints %s/%s: %w", service.Namespace, service.Name, err)
	}
	exists := err == nil
	next := wantedEndpoints(service, pods, &existing)
	switch {
	case !exists && service.DeletionTimestamp == nil:
		err = r.client.Create(ctx, next)
	case exists && !apiequality.Semantic.DeepEqual(&existing, next):
		err = r.client.Update(ctx, next)
	default:
		return 0, nil
	}
	switch {
	case err == nil || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return 0, nil
	case apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err):
		return behind, nil
	}
	if exists {
		r.events.Eventf(next, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s/%s: %v", service.Namespace, service.Name, err)
	} else {
		r.events.Eventf(next, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %s/%s: %v", service.Namespace, service.Name, err)
	}
	return 0, fmt.Errorf("write endpoints %s/%s: %w", service.Namespace, service.Name, err)
}

// dropEndpoints deletes what this controller made for a service that is gone.
func (r *Reconciler) dropEndpoints(ctx context.Context, key types.NamespacedName) error {
	var existing corev1.Endpoints
	err := r.client.Get(ctx, key, &existing)
	if err == nil && ours(&existing) {
		err = r.client.Delete(ctx, existing.DeepCopy(), client.Preconditions{UID: &existing.UID})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("drop endpoints %s: %w", key, err)
	}
	return nil
}

// wantedEndpoints is the Endpoints object as it should be, made from the existing one.
func wantedEndpoints(service *corev1.Service, pods []*corev1.Pod, existing *corev1.Endpoints) *corev1.Endpoints {
	next := existing.DeepCopy()
	next.Namespace, next.Name = service.Namespace, service.Name
	next.Labels = maps.Clone(service.Labels)
	metav1.SetMetaDataLabel(&next.ObjectMeta, ownerLabel, ownerName)
	delete(next.Labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone || service.Spec.ClusterIP == "" {
		next.Labels[corev1.IsHeadlessService] = ""
	}
	subsets, whole := limit(subsets(service, pods), addressLimit)
	next.Subsets = subsets
	delete(next.Annotations, corev1.EndpointsOverCapacity)
	if !whole {
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, corev1.EndpointsOverCapacity, "truncated")
	}
	return next
}

// subsets groups pods by the ports they serve on, ready ones apart from the others.
func subsets(service *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		if !endpointsliceutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := addressOf(service, pod)
		if !ok {
			continue
		}
		ports, ok := portsOf(service, pod)
		if !ok {
			continue
		}
		key, err := json.Marshal(ports)
		if err != nil {
			continue // ports are strings and numbers
		}
		group := groups[string(key)]
		if group == nil {
			group = &corev1.EndpointSubset{Ports: ports}
			groups[string(key)] = group
		}
		if service.Spec.PublishNotReadyAddresses || endpointsliceutil.IsPodReady(pod) {
			group.Addresses = append(group.Addresses, address)
		} else {
			group.NotReadyAddresses = append(group.NotReadyAddresses, address)
		}
	}
	var all []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		group := groups[key]
		slices.SortFunc(group.Addresses, byIP)
		slices.SortFunc(group.NotReadyAddresses, byIP)
		all = append(all, *group)
	}
	return all
}

func byIP(a, b corev1.EndpointAddress) int {
	return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
}

// addressOf is a pod's address in the service's first family.
func addressOf(service *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	ipv6 := len(service.Spec.IPFamilies) > 0 && service.Spec.IPFamilies[0] == corev1.IPv6Protocol
	addresses := pod.Status.PodIPs
	if len(addresses) == 0 {
		addresses = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, candidate := range addresses {
		if net.IsIPv6String(candidate.IP) != ipv6 {
			continue
		}
		address := corev1.EndpointAddress{
			IP:        candidate.IP,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		if pod.Spec.NodeName != "" {
			address.NodeName = ptr.To(pod.Spec.NodeName)
		}
		if endpointsliceutil.ShouldSetHostname(pod, service) {
			address.Hostname = pod.Spec.Hostname
		}
		return address, true
	}
	return corev1.EndpointAddress{}, false
}

// portsOf are the service's ports as one pod serves them. A pod that has none of them is no endpoint, unless a
// headless service names no ports at all.
func portsOf(service *corev1.Service, pod *corev1.Pod) ([]corev1.EndpointPort, bool) {
	if len(service.Spec.Ports) == 0 {
		return nil, service.Spec.ClusterIP == corev1.ClusterIPNone
	}
	var ports []corev1.EndpointPort
	for i := range service.Spec.Ports {
		port := &service.Spec.Ports[i]
		number, err := endpointslice.FindPort(pod, port)
		if err != nil {
			continue // this pod has no container port of that name
		}
		ports = append(ports, corev1.EndpointPort{Name: port.Name, Port: int32(number), Protocol: port.Protocol, AppProtocol: port.AppProtocol})
	}
	return ports, len(ports) > 0
}

// limit cuts what is over the limit, unready addresses first; whole is false if anything was.
func limit(subsets []corev1.EndpointSubset, most int) (cut []corev1.EndpointSubset, whole bool) {
	whole = true
	for i := range subsets {
		keep := min(len(subsets[i].Addresses), most)
		whole = whole && keep == len(subsets[i].Addresses)
		subsets[i].Addresses = subsets[i].Addresses[:keep]
		most -= keep
	}
	for i := range subsets {
		keep := min(len(subsets[i].NotReadyAddresses), most)
		whole = whole && keep == len(subsets[i].NotReadyAddresses)
		subsets[i].NotReadyAddresses = subsets[i].NotReadyAddresses[:keep]
		most -= keep
		if len(subsets[i].Addresses)+len(subsets[i].NotReadyAddresses) > 0 {
			cut = append(cut, subsets[i])
		}
	}
	return cut, whole
}

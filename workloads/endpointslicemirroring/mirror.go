package endpointslicemirroring

//lint:file-ignore SA1019 Endpoints are deprecated, and mirrored for those who still write them.

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	// managedBy is upstream's name: proxies and other programs know slices by it.
	managedBy = "endpointslicemirroring-controller.k8s.io"
	// leaderAnnotation marks Endpoints that hold an election and lead nowhere.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
	// addressLimit is what is mirrored of one subset, and what a slice can hold.
	addressLimit = 1000
)

// mirror is the slices that show an Endpoints object; whole is false if it has more addresses than are shown.
func mirror(service *corev1.Service, endpoints *corev1.Endpoints) (wanted []*discoveryv1.EndpointSlice, whole bool) {
	whole = true
	if service == nil || service.Spec.Selector != nil || service.DeletionTimestamp != nil || endpoints == nil || !asked(endpoints) {
		return nil, whole
	}
	byName := map[string]*discoveryv1.EndpointSlice{}
	seen := map[string]map[netip.Addr]bool{}
	for i := range endpoints.Subsets {
		subset := &endpoints.Subsets[i]
		left := addressLimit
		for _, half := range []struct {
			addresses []corev1.EndpointAddress
			ready     bool
		}{{subset.Addresses, true}, {subset.NotReadyAddresses, false}} {
			for j := range half.addresses {
				address, err := netip.ParseAddr(half.addresses[j].IP)
				if err != nil {
					continue // the API server takes no such thing
				}
				if left == 0 {
					whole = false
					break
				}
				left--
				family := discoveryv1.AddressTypeIPv4
				if address.Is6() {
					family = discoveryv1.AddressTypeIPv6
				}
				name := nameOf(endpoints.Name, family, subset.Ports)
				slice := byName[name]
				if slice == nil {
					slice = empty(endpoints, name, family, subset.Ports)
					byName[name], seen[name] = slice, map[netip.Addr]bool{}
				}
				switch {
				case seen[name][address]: // twice with the same ports: the first, ready before not, counts
				case len(slice.Endpoints) == addressLimit: // two subsets with the same ports
					whole = false
				default:
					seen[name][address] = true
					slice.Endpoints = append(slice.Endpoints, endpoint(&half.addresses[j], half.ready))
				}
			}
		}
	}
	if len(byName) == 0 { // somebody wrote that there is nobody: so do we
		family := familyOf(service)
		name := nameOf(endpoints.Name, family, nil)
		byName[name] = empty(endpoints, name, family, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		wanted = append(wanted, byName[name])
	}
	return wanted, whole
}

// asked says whether an Endpoints object is to be mirrored, apart from what its service says.
func asked(endpoints *corev1.Endpoints) bool {
	_, elects := endpoints.Annotations[leaderAnnotation]
	return endpoints.DeletionTimestamp == nil && endpoints.Labels[discoveryv1.LabelSkipMirror] != "true" && !elects
}

func familyOf(service *corev1.Service) discoveryv1.AddressType {
	if len(service.Spec.IPFamilies) > 0 && service.Spec.IPFamilies[0] == corev1.IPv6Protocol {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// nameOf tells the slices of one Endpoints object apart by what a slice cannot change or has one of.
func nameOf(endpoints string, family discoveryv1.AddressType, ports []corev1.EndpointPort) string {
	text, err := json.Marshal(ports)
	if err != nil {
		return endpoints // ports are strings and numbers
	}
	hash := fnv.New32a()
	_, _ = fmt.Fprintf(hash, "%s %s", family, text)
	return fmt.Sprintf("%s-%08x", endpoints, hash.Sum32())
}

func empty(endpoints *corev1.Endpoints, name string, family discoveryv1.AddressType, ports []corev1.EndpointPort) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: endpoints.Namespace, Name: name,
			Labels: maps.Clone(endpoints.Labels), Annotations: maps.Clone(endpoints.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{},
	}
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelServiceName, endpoints.Name)
	metav1.SetMetaDataLabel(&slice.ObjectMeta, discoveryv1.LabelManagedBy, managedBy)
	// What kubectl applied was the Endpoints object.
	delete(slice.Annotations, corev1.LastAppliedConfigAnnotation)
	for _, port := range ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{
			Name: ptr.To(port.Name), Port: ptr.To(port.Port), Protocol: ptr.To(port.Protocol), AppProtocol: port.AppProtocol,
		})
	}
	return slice
}

func endpoint(address *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{address.IP}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)},
		TargetRef: address.TargetRef, NodeName: address.NodeName,
	}
	if address.Hostname != "" {
		e.Hostname = ptr.To(address.Hostname)
	}
	return e
}

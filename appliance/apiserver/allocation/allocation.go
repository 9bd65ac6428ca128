// Package allocation gives services their cluster addresses and node ports.
//
// In:       services as they are created, updated and deleted; the address range and the port range of the cluster.
// Out:      spec.clusterIPs, ipFamilies, nodePort and healthCheckNodePort filled in; one reservation object each in
//
//	the datastore: IPAddresses of the API for addresses, the same kind under a key of their own for ports.
//
// Promise:  two services never get the same, whichever servers they were created on, because a reservation is
//
//	created under the name of what it reserves. A crash leaves at most a reservation nobody uses, and
//	those are given back (repair.go).
//
// Not here: what else is right or wrong about a service (kinds).
package allocation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Services is the storage of services, with addresses and ports.
type Services struct {
	*resource.Storage

	addresses, ports *book
	networks         []network         // the primary family's first
	more             *resource.Storage // ServiceCIDRs
	nodePorts        portRange
}

// NewServices is the Wrap of the services' row.
func NewServices(env *resource.Env, store *resource.Storage) (rest.Storage, error) {
	s := &Services{Storage: store, more: env.Storage(networkingv1.Resource("servicecidrs")), nodePorts: portRange(env.NodePorts)}
	if s.more == nil {
		return nil, fmt.Errorf("find the storage of service ranges: it is not in the table")
	}
	for _, cidr := range env.ServiceCIDRs {
		prefix, err := netip.ParsePrefix(cidr)
		if err != nil {
			return nil, fmt.Errorf("read service network: %w", err)
		}
		s.networks = append(s.networks, newNetwork(prefix))
	}
	var err error
	if s.addresses, err = addressBook(env); err != nil {
		return nil, err
	}
	if s.ports, err = portBook(env); err != nil {
		return nil, err
	}
	store.BeginCreate = func(ctx context.Context, obj runtime.Object, options *metav1.CreateOptions) (registry.FinishFunc, error) {
		svc := obj.(*corev1.Service)
		kinds.MatchClusterIPs(svc, nil)
		return s.begin(ctx, svc, &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}, dryrun.IsDryRun(options.DryRun))
	}
	store.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, options *metav1.UpdateOptions) (registry.FinishFunc, error) {
		svc, was := obj.(*corev1.Service), old.(*corev1.Service)
		kinds.KeepAllocated(svc, was)
		return s.begin(ctx, svc, was, dryrun.IsDryRun(options.DryRun))
	}
	store.AfterDelete = func(obj runtime.Object, options *metav1.DeleteOptions) {
		if options != nil && dryrun.IsDryRun(options.DryRun) {
			return
		}
		svc := obj.(*corev1.Service)
		s.release(context.Background(), svc, s.held(svc))
	}
	return s, nil
}

// begin reserves what svc needs beyond what old has. The returned function settles it: what the service no longer
// needs goes back when it was written, what was reserved for it goes back when it was not.
func (s *Services) begin(ctx context.Context, svc, old *corev1.Service, dry bool) (registry.FinishFunc, error) {
	t := &transaction{owner: ownerOf(svc), held: s.held(old), dry: dry}
	errs := chooseFamilies(svc, old, s.families())
	if len(errs) == 0 {
		var err error
		if errs, err = s.reserve(ctx, t, svc); err != nil {
			t.rollback(ctx)
			return nil, apierrors.NewInternalError(fmt.Errorf("reserve addresses and ports of service %s: %w", t.owner, err))
		}
	}
	if len(errs) > 0 {
		t.rollback(ctx)
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
	}
	return func(ctx context.Context, success bool) {
		if !success {
			t.rollback(ctx)
			return
		}
		if !dry {
			s.release(ctx, old, without(t.held, s.held(svc)))
		}
	}, nil
}

func (s *Services) reserve(ctx context.Context, t *transaction, svc *corev1.Service) (field.ErrorList, error) {
	errs, err := s.reserveAddresses(ctx, t, svc)
	if err != nil || len(errs) > 0 {
		return errs, err
	}
	return s.reservePorts(ctx, t, svc)
}

func (s *Services) reserveAddresses(ctx context.Context, t *transaction, svc *corev1.Service) (field.ErrorList, error) {
	if !kinds.HasClusterIP(svc) || isHeadless(svc) {
		return nil, nil
	}
	path := field.NewPath("spec", "clusterIPs")
	for i, family := range svc.Spec.IPFamilies {
		networks, err := s.networksOf(ctx, family)
		if err != nil {
			return nil, err
		}
		if len(networks) == 0 {
			return field.ErrorList{field.Invalid(path.Root().Child("ipFamilies").Index(i), family, "not configured on this cluster")}, nil
		}
		if i >= len(svc.Spec.ClusterIPs) {
			address, err := s.reserveAnyAddress(ctx, t, networks)
			if err != nil {
				return nil, err
			}
			svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, address)
			continue
		}
		wanted := svc.Spec.ClusterIPs[i]
		ip, err := netip.ParseAddr(wanted)
		if err != nil {
			return field.ErrorList{field.Invalid(path.Index(i), wanted, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")}, nil
		}
		if t.holds(s.addresses, ip.String()) {
			continue // it was this service's before; the range may have changed since
		}
		if !slices.ContainsFunc(networks, func(n network) bool { return n.contains(ip) }) {
			return field.ErrorList{field.Invalid(path, svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", wanted, wanted, prefixes(networks)))}, nil
		}
		free, err := s.addresses.reserve(ctx, t, ip.String())
		if err != nil {
			return nil, err
		}
		if !free {
			return field.ErrorList{field.Invalid(path, svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", wanted))}, nil
		}
	}
	svc.Spec.ClusterIP = svc.Spec.ClusterIPs[0]
	return nil, nil
}

func (s *Services) reservePorts(ctx context.Context, t *transaction, svc *corev1.Service) (field.ErrorList, error) {
	ports := field.NewPath("spec", "ports")
	if kinds.HasNodePorts(svc) || svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for i := range svc.Spec.Ports {
			port := &svc.Spec.Ports[i]
			if port.NodePort == 0 {
				continue
			}
			if problem, err := s.reservePort(ctx, t, port.NodePort); problem != "" || err != nil {
				return field.ErrorList{field.Invalid(ports.Index(i).Child("nodePort"), port.NodePort, problem)}, err
			}
		}
	}
	if kinds.HasNodePorts(svc) {
		// Those a client chose came first, so that none of them is given away here.
		for i := range svc.Spec.Ports {
			port := &svc.Spec.Ports[i]
			if port.NodePort != 0 {
				continue
			}
			if shared := sameNumber(svc.Spec.Ports, *port); shared != 0 {
				port.NodePort = shared
				continue
			}
			number, err := s.ports.reserveAny(ctx, t, s.nodePorts)
			if err != nil {
				return nil, err
			}
			port.NodePort = parsePort(number)
		}
	}
	if !kinds.HasHealthPort(svc) {
		return nil, nil
	}
	if svc.Spec.HealthCheckNodePort == 0 {
		number, err := s.ports.reserveAny(ctx, t, s.nodePorts)
		if err != nil {
			return nil, err
		}
		svc.Spec.HealthCheckNodePort = parsePort(number)
		return nil, nil
	}
	if problem, err := s.reservePort(ctx, t, svc.Spec.HealthCheckNodePort); problem != "" || err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("spec", "healthCheckNodePort"), svc.Spec.HealthCheckNodePort, problem)}, err
	}
	return nil, nil
}

// sameNumber finds the node port of another protocol on the same port: a DNS service wants one number for both.
func sameNumber(ports []corev1.ServicePort, port corev1.ServicePort) int32 {
	for _, other := range ports {
		if other.Port == port.Port && other.Protocol != port.Protocol && other.NodePort != 0 {
			return other.NodePort
		}
	}
	return 0
}

func (s *Services) reservePort(ctx context.Context, t *transaction, port int32) (problem string, err error) {
	if t.holds(s.ports, portName(port)) {
		return "", nil
	}
	if !s.nodePorts.contains(port) {
		return fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", s.nodePorts.First, s.nodePorts.Last), nil
	}
	free, err := s.ports.reserve(ctx, t, portName(port))
	if err != nil {
		return "", err
	}
	if !free {
		return "provided port is already allocated", nil
	}
	return "", nil
}

func (s *Services) families() []corev1.IPFamily {
	var families []corev1.IPFamily
	for _, n := range s.networks {
		families = append(families, n.family())
	}
	return families
}

// networksOf are the ranges of a family the cluster has: first the one it was configured with, then those of ServiceCIDRs
// that are not being deleted.
func (s *Services) networksOf(ctx context.Context, family corev1.IPFamily) ([]network, error) {
	var found []network
	for _, n := range s.networks {
		if n.family() == family {
			found = append(found, n)
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	list, err := s.more.List(ctx, &metainternalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("list service ranges: %w", err)
	}
	for _, cidr := range list.(*networkingv1.ServiceCIDRList).Items {
		for _, text := range cidr.Spec.CIDRs {
			prefix, err := netip.ParsePrefix(text)
			if err != nil || cidr.DeletionTimestamp != nil {
				continue
			}
			if n := newNetwork(prefix); n.family() == family && !slices.Contains(found, n) {
				found = append(found, n)
			}
		}
	}
	return found, nil
}

// reserveAnyAddress takes an address of the first range that has one left.
func (s *Services) reserveAnyAddress(ctx context.Context, t *transaction, networks []network) (string, error) {
	err := errFull
	for _, n := range networks {
		var address string
		if address, err = s.addresses.reserveAny(ctx, t, n); !errors.Is(err, errFull) {
			return address, err
		}
	}
	return "", err
}

func prefixes(networks []network) string {
	var all []string
	for _, n := range networks {
		all = append(all, n.prefix.String())
	}
	return strings.Join(all, ", ")
}

// held lists the reservations a service lives by.
func (s *Services) held(svc *corev1.Service) []reservation {
	var held []reservation
	if kinds.HasClusterIP(svc) {
		for _, address := range svc.Spec.ClusterIPs {
			if ip, err := netip.ParseAddr(address); err == nil {
				held = append(held, reservation{s.addresses, ip.String()})
			}
		}
	}
	for _, port := range svc.Spec.Ports {
		if port.NodePort != 0 {
			held = append(held, reservation{s.ports, portName(port.NodePort)})
		}
	}
	if port := svc.Spec.HealthCheckNodePort; port != 0 {
		held = append(held, reservation{s.ports, portName(port)})
	}
	return held
}

func isHeadless(svc *corev1.Service) bool {
	return len(svc.Spec.ClusterIPs) > 0 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// addressBook keeps reservations as the API's own IPAddress objects.
func addressBook(env *resource.Env) (*book, error) {
	addresses := env.Storage(networkingv1.Resource("ipaddresses"))
	if addresses == nil {
		return nil, fmt.Errorf("find the storage of IP addresses: it is not in the table")
	}
	key := func(name string) (string, error) { return addresses.KeyFunc(context.Background(), name) }
	return &book{store: addresses.Storage.Storage, key: key, root: addresses.KeyRootFunc(context.Background()), services: serviceGetter(env)}, nil
}

// portBook keeps reservations in the same shape beside them, named after the port; no API shows them.
func portBook(env *resource.Env) (*book, error) {
	options, err := env.RESTOptions.GetRESTOptions(schema.GroupResource{Group: networkingv1.GroupName, Resource: "nodeports"}, &networkingv1.IPAddress{})
	if err != nil {
		return nil, fmt.Errorf("find where node ports are kept: %w", err)
	}
	root := "/" + options.ResourcePrefix
	key := func(name string) (string, error) { return root + "/" + name, nil }
	reservations, _, err := options.Decorator(options.StorageConfig, root,
		func(obj runtime.Object) (string, error) { return key(obj.(*networkingv1.IPAddress).Name) },
		func() runtime.Object { return &networkingv1.IPAddress{} },
		func() runtime.Object { return &networkingv1.IPAddressList{} },
		storage.DefaultClusterScopedAttr, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("open the store of node ports: %w", err)
	}
	return &book{store: reservations, key: key, root: root, services: serviceGetter(env)}, nil
}

package loadbalancer

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/bootstrap/addresspool"
)

// key names a service.
func key(service *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: service.Namespace, Name: service.Name}
}

// taken are the addresses all services but one have: those they say they have, and those they were given since.
func taken(services []*corev1.Service, given map[types.NamespacedName][]netip.Addr, but types.NamespacedName) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for _, service := range services {
		if key(service) == but {
			continue
		}
		for _, ip := range published(service) {
			all[ip] = true
		}
	}
	for name, addresses := range given {
		if name == but {
			continue
		}
		for _, ip := range addresses {
			all[ip] = true
		}
	}
	return all
}

// published are the addresses a service has.
func published(service *corev1.Service) []netip.Addr {
	var out []netip.Addr
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if ip, err := netip.ParseAddr(ingress.IP); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// Obstacle is why a service has no address of a pool, nil if it could have one.
func Obstacle(service *corev1.Service, services []corev1.Service, pool addresspool.Pool) error {
	all := make([]*corev1.Service, len(services))
	for i := range services {
		all[i] = &services[i]
	}
	_, err := choose(service, published(service), pool, taken(all, nil, key(service)))
	return err
}

// choose gives a service one address of each of its families. What it has it keeps, as long as the pool does.
func choose(service *corev1.Service, have []netip.Addr, pool addresspool.Pool, taken map[netip.Addr]bool) ([]netip.Addr, error) {
	asked, err := wish(service, pool, taken)
	if err != nil {
		return nil, err
	}
	var chosen []netip.Addr
	for i, family := range families(service) {
		v6 := family == corev1.IPv6Protocol
		fits := func(ip netip.Addr) bool { return ip.Is6() == v6 && pool.Contains(ip) && !taken[ip] }
		if asked.IsValid() && asked.Is6() == v6 {
			chosen = append(chosen, asked)
			continue
		}
		if at := slices.IndexFunc(have, fits); at >= 0 {
			chosen = append(chosen, have[at])
			continue
		}
		ip, found := pool.Free(v6, taken)
		switch {
		case found:
			chosen = append(chosen, ip)
		case i == 0 || service.Spec.IPFamilyPolicy == nil || *service.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack:
			return nil, fmt.Errorf("no free %s address is left: add to load-balancer-addresses, or delete a service of type LoadBalancer", family)
		}
	}
	return chosen, nil
}

// wish is the address a service asks for by name, which must be free.
func wish(service *corev1.Service, pool addresspool.Pool, taken map[netip.Addr]bool) (netip.Addr, error) {
	text := service.Spec.LoadBalancerIP
	if text == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return netip.Addr{}, fmt.Errorf("spec.loadBalancerIP %q is no address", text)
	case !pool.Contains(ip):
		return netip.Addr{}, fmt.Errorf("spec.loadBalancerIP %s is not among load-balancer-addresses", ip)
	case taken[ip]:
		return netip.Addr{}, fmt.Errorf("spec.loadBalancerIP %s is another service's", ip)
	}
	return ip, nil
}

func families(service *corev1.Service) []corev1.IPFamily {
	if len(service.Spec.IPFamilies) == 0 {
		return []corev1.IPFamily{corev1.IPv4Protocol}
	}
	return service.Spec.IPFamilies
}

// status is what a service says of its addresses.
func status(addresses []netip.Addr) *corev1.LoadBalancerStatus {
	s := &corev1.LoadBalancerStatus{}
	for _, ip := range addresses {
		mode := corev1.LoadBalancerIPModeVIP
		s.Ingress = append(s.Ingress, corev1.LoadBalancerIngress{IP: ip.String(), IPMode: &mode})
	}
	return s
}

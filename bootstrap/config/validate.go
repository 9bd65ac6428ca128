package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"knarr.dev/knarr/bootstrap/addresspool"
)

// A unix socket's path has 107 bytes; this is the longest name we put below the run folder.
const longestSocket = len("/containerd.sock.ttrpc")

// portsTaken are those other parts of a machine listen on.
var portsTaken = map[int]string{2379: "the datastore", 2380: "the datastore", 10250: "the node agent"}

// Validate reports everything that is wrong at once, each with its key, its value and what to do.
func (c *Config) Validate() error {
	var problems []error
	report := func(key, value, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s %q %s", key, value, fmt.Sprintf(format, args...)))
	}
	if reasons := validation.IsDNS1123Subdomain(c.NodeName); len(reasons) > 0 {
		report("node-name", c.NodeName, "is not a DNS name (%s): set another", reasons[0])
	}
	if len(c.RunDir)+longestSocket > 107 {
		report("run-dir", c.RunDir, "is too long for sockets below it: use a path of at most %d characters", 107-longestSocket)
	}
	if !strings.HasPrefix(c.CgroupRoot, "/") {
		report("cgroup-root", c.CgroupRoot, "is not absolute: begin it with /")
	}
	if !slices.Contains([]string{FilterAuto, FilterNFTables, FilterIPTables}, c.PacketFilter) {
		report("packet-filter", c.PacketFilter, "is not known: use %s, %s or %s", FilterAuto, FilterNFTables, FilterIPTables)
	}
	machine, err := Addresses(c.NodeIP)
	if err != nil {
		report("node-ip", c.NodeIP, "%s", err)
	}
	for _, ip := range machine {
		if !ip.IsGlobalUnicast() {
			report("node-ip", c.NodeIP, "cannot be reached from other machines: give another of this machine's")
		}
	}
	if c.ParallelImagePulls < 0 || c.ParallelImagePulls > 64 {
		report("parallel-image-pulls", fmt.Sprint(c.ParallelImagePulls), "is out of range: use 1 to 64")
	}
	if c.RuntimeEndpoint != "" {
		if _, err := Socket(c.RuntimeEndpoint); err != nil {
			problems = append(problems, fmt.Errorf("container-runtime-endpoint: %w", err))
		}
	}
	if (c.CredentialProviders == "") != (c.CredentialProvidersDir == "") {
		problems = append(problems, errors.New("image-credential-provider-config and image-credential-provider-bin-dir go together: set both or none"))
	}
	problems = append(problems, c.validateJoin()...)
	if c.Role == Agent {
		return errors.Join(problems...)
	}

	if c.HTTPSPort < 1 || c.HTTPSPort > 65535 {
		report("https-port", fmt.Sprint(c.HTTPSPort), "is not a port: use 1 to 65535")
	} else if owner := portsTaken[c.HTTPSPort]; owner != "" {
		report("https-port", fmt.Sprint(c.HTTPSPort), "belongs to %s: use another", owner)
	}
	if reasons := validation.IsDNS1123Subdomain(c.ClusterDomain); len(reasons) > 0 {
		report("cluster-domain", c.ClusterDomain, "is not a DNS name (%s): set another", reasons[0])
	}
	if !slices.Contains([]string{VXLAN, WireGuard, Routes}, c.Overlay) {
		report("overlay", c.Overlay, "is not known: use %s, %s or %s", VXLAN, WireGuard, Routes)
	}
	if _, err := addresspool.Parse(c.LoadBalancerAddresses); err != nil && c.LoadBalancerAddresses != OwnAddresses {
		problems = append(problems, fmt.Errorf("load-balancer-addresses: %w; or %s for the nodes' own", err, OwnAddresses))
	}
	if c.APIVirtualAddress != "" {
		ip, err := netip.ParseAddr(c.APIVirtualAddress)
		switch {
		case err != nil || !ip.IsGlobalUnicast() || ip.Is4In6():
			report("api-virtual-address", c.APIVirtualAddress, "is not an address others could reach: give a free one of this machine's network")
		case slices.Contains(machine, ip):
			report("api-virtual-address", c.APIVirtualAddress, "is this machine's own: give a free address of its network")
		case within(ip, []string{c.ClusterCIDR, c.ServiceCIDR}):
			report("api-virtual-address", c.APIVirtualAddress, "is within cluster-cidr or service-cidr: give a free address of this machine's network")
		case !slices.ContainsFunc(machine, func(own netip.Addr) bool { return own.Is4() == ip.Is4() }):
			report("api-virtual-address", c.APIVirtualAddress, "is of a family in which node-ip %q has no address: give one of its network", c.NodeIP)
		case !slices.ContainsFunc(families(c.ServiceCIDR), func(r netip.Prefix) bool { return r.Addr().Is4() == ip.Is4() }):
			report("api-virtual-address", c.APIVirtualAddress, "is of a family that service-cidr %q has not: give one of its network", c.ServiceCIDR)
		case c.DisableNode:
			problems = append(problems, errors.New("api-virtual-address needs a node beside the API server, whose service network passes connections on: remove it, or disable-node"))
		}
	}
	if c.PodNetwork != "" && c.PodNetwork != KnarrNetwork && c.PodNetwork != NoNetwork {
		report("pod-network", c.PodNetwork, "is not known: use %s or %s", KnarrNetwork, NoNetwork)
	}
	switch {
	case c.CloudProvider != "" && c.CloudProvider != External:
		report("cloud-provider", c.CloudProvider, "is not known: use %s, or leave it out", External)
	case c.CloudProvider != "" && c.LoadBalancerAddresses != "":
		problems = append(problems, errors.New("load-balancer-addresses cannot be given with cloud-provider: the cloud has its own; remove one of them"))
	}
	return errors.Join(append(problems, c.validateRanges(machine)...)...)
}

// validateRanges checks the cluster's addresses against each other and against this machine's.
func (c *Config) validateRanges(machine []netip.Addr) (problems []error) {
	report := func(key, value, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s %q %s", key, value, fmt.Sprintf(format, args...)))
	}
	pods, podsErr := Ranges(c.ClusterCIDR)
	if podsErr != nil {
		report("cluster-cidr", c.ClusterCIDR, "%s", podsErr)
	}
	for _, r := range pods {
		switch {
		case r.Addr().Is4() && r.Bits() > 24:
			report("cluster-cidr", c.ClusterCIDR, "is too small: each node takes a /24 of %s, so use /24 or larger, such as /16", r)
		case r.Addr().Is6() && r.Bits() > 64:
			report("cluster-cidr", c.ClusterCIDR, "is too small: each node takes a /64 of %s, so use /64 or larger, such as /48", r)
		}
	}
	services, servicesErr := Ranges(c.ServiceCIDR)
	if servicesErr != nil {
		report("service-cidr", c.ServiceCIDR, "%s", servicesErr)
	}
	for _, r := range services {
		switch {
		case r.Addr().BitLen()-r.Bits() < 4:
			report("service-cidr", c.ServiceCIDR, "is too small: use /28 of IPv4 or larger, such as /16, and /124 of IPv6 or larger, such as /112")
		case r.Addr().Is6() && r.Bits() < 64:
			report("service-cidr", c.ServiceCIDR, "is too large: use /64 of IPv6 or smaller, such as /112")
		}
	}
	if podsErr != nil || servicesErr != nil {
		return problems
	}

	if services[0].Addr().Is4() != pods[0].Addr().Is4() || len(services) > len(pods) {
		report("service-cidr", c.ServiceCIDR, "has not the families of cluster-cidr %q in the same order: services are reached through addresses that their pods have", c.ClusterCIDR)
	}
	for _, p := range pods {
		for _, s := range services {
			if p.Overlaps(s) {
				report("service-cidr", c.ServiceCIDR, "overlaps cluster-cidr %q: choose separate ranges", c.ClusterCIDR)
			}
		}
	}
	dns, err := netip.ParseAddr(c.ClusterDNS)
	switch {
	case err != nil:
		report("cluster-dns", c.ClusterDNS, "is not an IP address: give one within service-cidr %q", c.ServiceCIDR)
	case !slices.ContainsFunc(services, func(r netip.Prefix) bool { return r.Contains(dns) }):
		report("cluster-dns", c.ClusterDNS, "is outside service-cidr %q: give an address within it", c.ServiceCIDR)
	case slices.ContainsFunc(services, func(r netip.Prefix) bool { return dns == r.Addr() || dns == r.Addr().Next() }):
		report("cluster-dns", c.ClusterDNS, "is where the API server is reached: give another address of service-cidr %q", c.ServiceCIDR)
	}
	for _, ip := range machine {
		if within(ip, []string{c.ClusterCIDR}) {
			report("node-ip", c.NodeIP, "is within cluster-cidr %q: choose a range that is not in use", c.ClusterCIDR)
		}
		if within(ip, []string{c.ServiceCIDR}) {
			report("node-ip", c.NodeIP, "is within service-cidr %q: choose a range that is not in use", c.ServiceCIDR)
		}
	}
	if len(machine) > 0 && !slices.ContainsFunc(machine, func(ip netip.Addr) bool { return ip.Is4() == services[0].Addr().Is4() }) {
		report("node-ip", c.NodeIP, "is not of the family in which service-cidr %q begins, where pods look for the API server: add one that is", c.ServiceCIDR)
	}
	return problems
}

func (c *Config) validateJoin() []error {
	if c.Join == "" {
		if c.Token != "" && c.Role == Server {
			return []error{errors.New("token is set but join is not: add the https://HOST:6443 of a running server")}
		}
		return nil
	}
	server, err := url.Parse(c.Join)
	if err != nil || server.Scheme != "https" || server.Hostname() == "" || strings.Trim(server.Path, "/") != "" {
		return []error{fmt.Errorf("join %q is not a server: give https://HOST:6443", c.Join)}
	}
	return nil
}

// Ranges reads a range of addresses, or one of each family between a comma. The first counts where only one can.
func Ranges(text string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		switch {
		case err != nil || prefix.Addr().Is4In6():
			return nil, errors.New("is not a range of addresses: give one such as 10.42.0.0/16, or one of each family such as 10.42.0.0/16,fd42::/48")
		case prefix != prefix.Masked():
			return nil, fmt.Errorf("begins within its range: write %s", prefix.Masked())
		}
		all = append(all, prefix)
	}
	if len(all) > 2 || len(all) == 2 && all[0].Addr().Is4() == all[1].Addr().Is4() {
		return nil, errors.New("has more than one range of a family: give one of IPv4 and one of IPv6, such as 10.42.0.0/16,fd42::/48")
	}
	return all, nil
}

// families are the ranges of a text, none where they cannot be read.
func families(text string) []netip.Prefix {
	all, _ := Ranges(text)
	return all
}

// Addresses reads an address, or one of each family between a comma.
func Addresses(text string) ([]netip.Addr, error) {
	var all []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil || ip.Zone() != "" {
			return nil, errors.New("is not an IP address: give one of this machine's, or one of each family between a comma")
		}
		all = append(all, ip.Unmap())
	}
	if len(all) > 2 || len(all) == 2 && all[0].Is4() == all[1].Is4() {
		return nil, errors.New("has more than one address of a family: give one of IPv4 and one of IPv6")
	}
	return all, nil
}

// tenth is where the cluster's DNS is unless somebody says otherwise.
func tenth(r netip.Prefix) netip.Addr {
	ip := r.Masked().Addr()
	for range 10 {
		ip = ip.Next()
	}
	return ip
}

// FindNodeIP looks for this machine's address in each family the cluster has, unless node-ip said it. A machine that has
// none in these families is reached at any that it has; so is one that does not know the cluster yet.
func (c *Config) FindNodeIP() error {
	if !c.nodeIPFound {
		return nil
	}
	own := []string{c.ClusterCIDR, c.ServiceCIDR}
	var found []string
	if families, err := Ranges(c.ClusterCIDR); err == nil {
		for _, r := range families {
			if ip, err := machineAddress(r.Addr().Is6(), own); err == nil {
				found = append(found, ip.String())
			}
		}
	}
	for _, v6 := range []bool{false, true} {
		if ip, err := machineAddress(v6, own); err == nil && len(found) == 0 {
			found = append(found, ip.String())
		}
	}
	if len(found) == 0 {
		return errors.New("this machine has no address others could reach: connect it to a network or set node-ip")
	}
	c.NodeIP = strings.Join(found, ",")
	return nil
}

// NodeIPFound tells that nobody set the addresses: they follow the machine's.
func (c *Config) NodeIPFound() bool { return c.nodeIPFound }

// machineAddress finds the address other machines reach this one at in a family: the one the default route leaves from,
// else the first that is neither local nor within one of the cluster's own ranges, which our bridge has.
func machineAddress(v6 bool, own []string) (netip.Addr, error) {
	if ip := RoutedAddress(v6); ip.IsValid() && !within(ip, own) {
		return ip, nil
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of this machine: %w", err)
	}
	for _, a := range all {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is6() == v6 && prefix.Addr().IsGlobalUnicast() && !within(prefix.Addr(), own) {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no such address")
}

// RoutedAddress is the address of a family that the default route leaves from, if there is one.
func RoutedAddress(v6 bool) netip.Addr {
	anywhere := "192.0.2.1:9"
	if v6 {
		anywhere = "[2001:db8::1]:9"
	}
	conn, err := net.Dial("udp", anywhere) // routes, sends nothing
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	ip := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	if !ip.IsGlobalUnicast() {
		return netip.Addr{}
	}
	return ip
}

func within(addr netip.Addr, ranges []string) bool {
	for part := range strings.SplitSeq(strings.Join(ranges, ","), ",") {
		if prefix, err := netip.ParsePrefix(strings.TrimSpace(part)); err == nil && prefix.Contains(addr) {
			return true
		}
	}
	return false
}

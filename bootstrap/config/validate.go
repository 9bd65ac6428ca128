package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
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
	nodeIP, err := netip.ParseAddr(c.NodeIP)
	switch {
	case err != nil:
		report("node-ip", c.NodeIP, "is not an IP address: give one of this machine's")
	case !nodeIP.IsGlobalUnicast():
		report("node-ip", c.NodeIP, "cannot be reached from other machines: give another of this machine's")
	}
	if c.ParallelImagePulls < 0 || c.ParallelImagePulls > 64 {
		report("parallel-image-pulls", fmt.Sprint(c.ParallelImagePulls), "is out of range: use 1 to 64")
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
	if _, err := addresspool.Parse(c.LoadBalancerAddresses); err != nil {
		problems = append(problems, fmt.Errorf("load-balancer-addresses: %w", err))
	}
	switch {
	case c.CloudProvider != "" && c.CloudProvider != External:
		report("cloud-provider", c.CloudProvider, "is not known: use %s, or leave it out", External)
	case c.CloudProvider != "" && c.LoadBalancerAddresses != "":
		problems = append(problems, errors.New("load-balancer-addresses cannot be given with cloud-provider: the cloud has its own; remove one of them"))
	}
	var pods netip.Prefix
	all, podsErr := Ranges(c.ClusterCIDR)
	if podsErr != nil {
		report("cluster-cidr", c.ClusterCIDR, "%s", podsErr)
	} else if pods = all[0]; pods.Bits() > 24 {
		report("cluster-cidr", c.ClusterCIDR, "is too small: each node takes a /24 of it, so use /24 or larger, such as /16")
	} else if len(all) > 1 && all[1].Bits() > 64 {
		report("cluster-cidr", c.ClusterCIDR, "is too small: each node takes a /64 of the second range, so use /64 or larger, such as /48")
	}
	services, servicesErr := parseRange(c.ServiceCIDR)
	if servicesErr != nil {
		report("service-cidr", c.ServiceCIDR, "%s", servicesErr)
	} else if services.Bits() > 28 {
		report("service-cidr", c.ServiceCIDR, "is too small: use /28 or larger, such as /16")
	}
	if podsErr != nil || servicesErr != nil {
		return errors.Join(problems...)
	}

	if pods.Overlaps(services) {
		report("service-cidr", c.ServiceCIDR, "overlaps cluster-cidr %q: choose separate ranges", c.ClusterCIDR)
	}
	dns, err := netip.ParseAddr(c.ClusterDNS)
	switch {
	case err != nil:
		report("cluster-dns", c.ClusterDNS, "is not an IP address: give one within service-cidr %q", c.ServiceCIDR)
	case !services.Contains(dns):
		report("cluster-dns", c.ClusterDNS, "is outside service-cidr %q: give an address within it", c.ServiceCIDR)
	case dns == services.Addr() || dns == services.Addr().Next():
		report("cluster-dns", c.ClusterDNS, "is where the API server is reached: give another address of service-cidr %q", c.ServiceCIDR)
	}
	if pods.Contains(nodeIP) {
		report("node-ip", c.NodeIP, "is within cluster-cidr %q: choose a range that is not in use", c.ClusterCIDR)
	}
	if services.Contains(nodeIP) {
		report("node-ip", c.NodeIP, "is within service-cidr %q: choose a range that is not in use", c.ServiceCIDR)
	}
	return errors.Join(problems...)
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

// Ranges reads a range of IPv4 and, after a comma, possibly one of IPv6.
func Ranges(text string) ([]netip.Prefix, error) {
	first, second, both := strings.Cut(text, ",")
	prefix, err := parseRange(strings.TrimSpace(first))
	if err != nil || !both {
		return []netip.Prefix{prefix}, err
	}
	other, err := netip.ParsePrefix(strings.TrimSpace(second))
	switch {
	case err != nil || other.Addr().Is4():
		return nil, errors.New("does not go on with a range of IPv6: give two such as 10.42.0.0/16,fd42::/48")
	case other != other.Masked():
		return nil, fmt.Errorf("begins within its range: write %s", other.Masked())
	}
	return []netip.Prefix{prefix, other}, nil
}

func parseRange(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return prefix, errors.New("is not a range of addresses: give one such as 10.42.0.0/16")
	case !prefix.Addr().Is4():
		return prefix, errors.New("is not of IPv4: give a range such as 10.42.0.0/16")
	case prefix != prefix.Masked():
		return prefix, fmt.Errorf("begins within its range: write %s", prefix.Masked())
	}
	return prefix, nil
}

// machineAddress finds the address other machines reach this one at: the one the default route leaves from,
// else the first that is neither local nor within one of the cluster's own ranges, which our bridge has.
func machineAddress(own ...string) (netip.Addr, error) {
	for _, anywhere := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		conn, err := net.Dial("udp", anywhere) // routes, sends nothing
		if err != nil {
			continue
		}
		addr := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		conn.Close()
		if addr.IsGlobalUnicast() {
			return addr, nil
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses of this machine: %w", err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() && !within(prefix.Addr(), own) {
			return prefix.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no address others could reach: connect it to a network or set node-ip")
}

func within(addr netip.Addr, ranges []string) bool {
	for part := range strings.SplitSeq(strings.Join(ranges, ","), ",") {
		if prefix, err := netip.ParsePrefix(part); err == nil && prefix.Contains(addr) {
			return true
		}
	}
	return false
}

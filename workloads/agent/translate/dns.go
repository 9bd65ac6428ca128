package translate

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// DNS is a resolver configuration.
type DNS struct{ Servers, Searches, Options []string }

// ParseResolvConf reads the format of /etc/resolv.conf and skips what it does not know.
func ParseResolvConf(r io.Reader) (DNS, error) {
	var d DNS
	for lines := bufio.NewScanner(r); ; {
		if !lines.Scan() {
			return d, lines.Err()
		}
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			d.Servers = append(d.Servers, fields[1])
		case "search", "domain":
			d.Searches = fields[1:]
		case "options":
			d.Options = append(d.Options, fields[1:]...)
		}
	}
}

const maxServers, maxSearches = 3, 32 // what resolvers read

func podDNS(pod *corev1.Pod, node Node) (*runtimeapi.DNSConfig, error) {
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork || policy == "" {
		policy = map[bool]corev1.DNSPolicy{true: corev1.DNSDefault, false: corev1.DNSClusterFirst}[pod.Spec.HostNetwork]
	}
	var d DNS
	switch policy {
	case corev1.DNSNone:
		if pod.Spec.DNSConfig == nil || len(pod.Spec.DNSConfig.Nameservers) == 0 {
			return nil, badConfig("dnsPolicy None needs dnsConfig with at least one nameserver")
		}
	case corev1.DNSDefault:
		d = node.DNS
	default:
		if len(node.ClusterDNS) == 0 {
			d = node.DNS
			break
		}
		d.Servers = node.ClusterDNS
		if node.ClusterDomain != "" {
			d.Searches = []string{
				fmt.Sprintf("%s.svc.%s", pod.Namespace, node.ClusterDomain), "svc." + node.ClusterDomain, node.ClusterDomain,
			}
		}
		d.Searches = append(d.Searches, node.DNS.Searches...)
		d.Options = []string{"ndots:5"}
	}
	if extra := pod.Spec.DNSConfig; extra != nil {
		d.Servers = union(d.Servers, extra.Nameservers)
		d.Searches = union(d.Searches, extra.Searches)
		d.Options = mergeOptions(d.Options, extra.Options)
	}
	return &runtimeapi.DNSConfig{
		Servers:  firstN(d.Servers, maxServers),
		Searches: firstN(d.Searches, maxSearches),
		Options:  d.Options,
	}, nil
}

// Paths in a container that its pod decides about.
const (
	HostsPath      = "/etc/hosts"
	HostnamePath   = "/etc/hostname"
	ResolvConfPath = "/etc/resolv.conf"
	ShmPath        = "/dev/shm"
)

// ResolvConf is the /etc/resolv.conf of the pod's containers.
func ResolvConf(pod *corev1.Pod, node Node) (string, error) {
	d, err := podDNS(pod, node)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if len(d.Searches) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.Searches, " "))
	}
	for _, s := range d.Servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return b.String(), nil
}

// HostnameFile is the /etc/hostname of the pod's containers; machine is the name of the machine itself.
func HostnameFile(pod *corev1.Pod, node Node, machine string) (string, error) {
	if pod.Spec.HostNetwork {
		return machine + "\n", nil
	}
	name, err := kernelHostname(pod, node)
	return name + "\n", err
}

func firstN(list []string, n int) []string { return list[:min(len(list), n)] }

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions lets the pod's options replace those of the same name.
func mergeOptions(have []string, extra []corev1.PodDNSConfigOption) []string {
	var out []string
	for _, o := range have {
		name, _, _ := strings.Cut(o, ":")
		if !slices.ContainsFunc(extra, func(e corev1.PodDNSConfigOption) bool { return e.Name == name }) {
			out = append(out, o)
		}
	}
	for _, e := range extra {
		if v := ptr.Deref(e.Value, ""); v != "" {
			out = append(out, e.Name+":"+v)
		} else {
			out = append(out, e.Name)
		}
	}
	return out
}

const maxHostname, maxKernelHostname = 63, 64

// Hostname is the pod's name for itself, and the domain it has when it names a subdomain.
func Hostname(pod *corev1.Pod, node Node) (host, domain string) {
	host = pod.Spec.Hostname
	if host == "" {
		host = pod.Name
	}
	if len(host) > maxHostname {
		host = strings.TrimRight(host[:maxHostname], "-.")
	}
	if o := ptr.Deref(pod.Spec.HostnameOverride, ""); o != "" {
		return o, ""
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, node.ClusterDomain)
	}
	return host, domain
}

// kernelHostname is what uname says inside the pod.
func kernelHostname(pod *corev1.Pod, node Node) (string, error) {
	host, domain := Hostname(pod, node)
	if !ptr.Deref(pod.Spec.SetHostnameAsFQDN, false) || domain == "" {
		return host, nil
	}
	fqdn := host + "." + domain
	if len(fqdn) > maxKernelHostname {
		return "", badConfig("hostname %q is longer than the kernel's limit of %d bytes; shorten it or leave out setHostnameAsFQDN", fqdn, maxKernelHostname)
	}
	return fqdn, nil
}

// HostsFile is the /etc/hosts of the pod's containers. A pod on the host's network sees the host's entries.
func HostsFile(pod *corev1.Pod, node Node, podIPs []string, host string) string {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.WriteString(host)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n")
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
		b.WriteString("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		names, domain := Hostname(pod, node)
		if domain != "" {
			names = names + "." + domain + "\t" + names
		}
		for _, ip := range podIPs {
			fmt.Fprintf(&b, "%s\t%s\n", ip, names)
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return b.String()
}

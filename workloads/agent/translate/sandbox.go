package translate

import (
	"maps"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/cgroup"
)

// Sandbox is the pod's network, its namespaces and what its containers share.
func Sandbox(pod *corev1.Pod, node Node, attempt uint32, cgroupParent string, users *Users) (*runtimeapi.PodSandboxConfig, error) {
	dns, err := podDNS(pod, node)
	if err != nil {
		return nil, err
	}
	security, err := sandboxSecurity(pod, node)
	if err != nil {
		return nil, err
	}
	security.NamespaceOptions.UsernsOptions = users.namespace()
	labels := podLabels(pod)
	for k, v := range pod.Labels {
		if _, ours := labels[k]; !ours {
			labels[k] = v
		}
	}
	notes := maps.Clone(pod.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	conf := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: filepath.Join(node.LogRoot, LogFolder(pod)),
		DnsConfig:    dns,
		Labels:       labels,
		Annotations:  notes,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    cgroupParent,
			SecurityContext: security,
			Sysctls:         sysctls(pod),
			Resources:       &runtimeapi.LinuxContainerResources{CpuShares: cgroup.Shares(0)},
		},
	}
	if !pod.Spec.HostNetwork {
		if conf.Hostname, err = kernelHostname(pod, node); err != nil {
			return nil, err
		}
		conf.PortMappings = portMappings(pod)
	}
	return conf, nil
}

func portMappings(pod *corev1.Pod) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort == 0 {
					continue
				}
				m := &runtimeapi.PortMapping{ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP}
				switch p.Protocol {
				case corev1.ProtocolUDP:
					m.Protocol = runtimeapi.Protocol_UDP
				case corev1.ProtocolSCTP:
					m.Protocol = runtimeapi.Protocol_SCTP
				}
				out = append(out, m)
			}
		}
	}
	return out
}

func sysctls(pod *corev1.Pod) map[string]string {
	if pod.Spec.SecurityContext == nil || len(pod.Spec.SecurityContext.Sysctls) == 0 {
		return nil
	}
	out := make(map[string]string, len(pod.Spec.SecurityContext.Sysctls))
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		out[s.Name] = s.Value
	}
	return out
}

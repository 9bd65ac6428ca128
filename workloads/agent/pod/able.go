package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Able is what a pod may ask of this machine beside its resources.
type Able struct {
	UnsafeSysctls []string // beside the safe ones; one that ends in * stands for all that begin so
	AppArmor      bool     // the kernel has it
}

// refuse says why a pod cannot run here, nil if it can: what it asks for would be forbidden, or silently not be done.
func (able Able) refuse(pod *corev1.Pod) *Ending {
	if e := able.refuseSysctls(pod); e != nil {
		return e
	}
	if !able.AppArmor && wantsAppArmor(pod) {
		return &Ending{Reason: "AppArmor", Message: "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host"}
	}
	return nil
}

// safeSysctls concern the pod alone, and cannot hurt its neighbours
// (https://kubernetes.io/docs/tasks/administer-cluster/sysctl-cluster/#safe-and-unsafe-sysctls).
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}

// Sysctls each pod has its own of, by the namespace that keeps them apart.
var (
	ofNetwork = []string{"net."}
	ofIPC     = []string{"kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."}
)

func (able Able) refuseSysctls(pod *corev1.Pod) *Ending {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	forbidden := func(format string, args ...any) *Ending {
		return &Ending{Reason: "SysctlForbidden", Message: "Pod was rejected: forbidden sysctl: " + fmt.Sprintf(format, args...)}
	}
	for _, sysctl := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(sysctl.Name, "/", ".")
		begins := func(with string) bool { return strings.HasPrefix(name, with) }
		allowed := func(pattern string) bool {
			prefix, open := strings.CutSuffix(strings.ReplaceAll(pattern, "/", "."), "*")
			return name == prefix || open && begins(prefix)
		}
		network, ipc := slices.ContainsFunc(ofNetwork, begins), slices.ContainsFunc(ofIPC, begins)
		switch {
		case !slices.Contains(safeSysctls, name) && !slices.ContainsFunc(able.UnsafeSysctls, allowed):
			return forbidden("%q not allowlisted", name)
		case !network && !ipc:
			return forbidden("%q is the whole machine's, not a pod's", name)
		case network && pod.Spec.HostNetwork:
			return forbidden("%q not allowed with host net enabled", name)
		case ipc && pod.Spec.HostIPC:
			return forbidden("%q not allowed with host ipc enabled", name)
		}
	}
	return nil
}

// wantsAppArmor: does any of it ask to be confined by AppArmor?
func wantsAppArmor(pod *corev1.Pod) bool {
	confines := func(p *corev1.AppArmorProfile) bool {
		return p != nil && p.Type != corev1.AppArmorProfileTypeUnconfined
	}
	if pod.Spec.SecurityContext != nil && confines(pod.Spec.SecurityContext.AppArmorProfile) {
		return true
	}
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		return c.SecurityContext != nil && confines(c.SecurityContext.AppArmorProfile)
	})
}

package translate

import (
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// What a container must not see of the host's /proc and /sys unless it is privileged or asks for an unmasked /proc.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

func namespaces(pod *corev1.Pod) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	if pod.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		o.Ipc = runtimeapi.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		o.Pid = runtimeapi.NamespaceMode_NODE
	case ptr.Deref(pod.Spec.ShareProcessNamespace, false):
		o.Pid = runtimeapi.NamespaceMode_POD
	}
	return o
}

func groupsPolicy(sc *corev1.PodSecurityContext) runtimeapi.SupplementalGroupsPolicy {
	if sc != nil && ptr.Deref(sc.SupplementalGroupsPolicy, "") == corev1.SupplementalGroupsPolicyStrict {
		return runtimeapi.SupplementalGroupsPolicy_Strict
	}
	return runtimeapi.SupplementalGroupsPolicy_Merge
}

func supplementalGroups(sc *corev1.PodSecurityContext) []int64 {
	if sc == nil {
		return nil
	}
	groups := append([]int64(nil), sc.SupplementalGroups...)
	if sc.FSGroup != nil {
		groups = append(groups, *sc.FSGroup)
	}
	return groups
}

func sandboxSecurity(pod *corev1.Pod, node Node) (*runtimeapi.LinuxSandboxSecurityContext, error) {
	sc := pod.Spec.SecurityContext
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions:         namespaces(pod),
		Privileged:               anyPrivileged(pod),
		SupplementalGroups:       supplementalGroups(sc),
		SupplementalGroupsPolicy: groupsPolicy(sc),
		// The sandbox's own process only waits; the profile of the pod's containers is none of its business.
		Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	if sc != nil {
		out.RunAsUser = int64Value(sc.RunAsUser)
		if sc.RunAsUser != nil { // CRI refuses a group without a user
			out.RunAsGroup = int64Value(sc.RunAsGroup)
		}
		out.SelinuxOptions = selinux(sc.SELinuxOptions)
	}
	return out, nil
}

func anyPrivileged(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if privileged(&list[i]) {
				return true
			}
		}
	}
	return false
}

func privileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && ptr.Deref(c.SecurityContext.Privileged, false)
}

func int64Value(v *int64) *runtimeapi.Int64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.Int64Value{Value: *v}
}

func selinux(o *corev1.SELinuxOptions) *runtimeapi.SELinuxOption {
	if o == nil {
		return nil
	}
	return &runtimeapi.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

// Image is what the container's image says about its user.
type Image struct {
	UID      *int64
	Username string
}

// containerSecurity merges the pod's and the container's security context; the container's wins.
func containerSecurity(pod *corev1.Pod, c *corev1.Container, node Node, image Image) (*runtimeapi.LinuxContainerSecurityContext, error) {
	podSC := pod.Spec.SecurityContext
	if podSC == nil {
		podSC = &corev1.PodSecurityContext{}
	}
	sc := c.SecurityContext
	if sc == nil {
		sc = &corev1.SecurityContext{}
	}
	user := first(sc.RunAsUser, podSC.RunAsUser)
	if err := checkNonRoot(c, first(sc.RunAsNonRoot, podSC.RunAsNonRoot), user, image); err != nil {
		return nil, err
	}
	out := &runtimeapi.LinuxContainerSecurityContext{
		NamespaceOptions:         namespaces(pod),
		Privileged:               privileged(c),
		ReadonlyRootfs:           ptr.Deref(sc.ReadOnlyRootFilesystem, false),
		SupplementalGroups:       supplementalGroups(podSC),
		SupplementalGroupsPolicy: groupsPolicy(podSC),
		RunAsUser:                int64Value(user),
		RunAsGroup:               int64Value(first(sc.RunAsGroup, podSC.RunAsGroup)),
		SelinuxOptions:           selinux(first(sc.SELinuxOptions, podSC.SELinuxOptions)),
		NoNewPrivs:               sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
	}
	if user == nil {
		// The image's user, spelled out: with Strict groups or a group alone, CRI needs to be told.
		switch {
		case image.UID != nil:
			out.RunAsUser = int64Value(image.UID)
		case image.Username != "":
			out.RunAsUsername = image.Username
		case out.RunAsGroup != nil:
			out.RunAsUser = &runtimeapi.Int64Value{}
		}
	}
	if sc.Capabilities != nil {
		out.Capabilities = &runtimeapi.Capability{}
		for _, name := range sc.Capabilities.Add {
			out.Capabilities.AddCapabilities = append(out.Capabilities.AddCapabilities, string(name))
		}
		for _, name := range sc.Capabilities.Drop {
			out.Capabilities.DropCapabilities = append(out.Capabilities.DropCapabilities, string(name))
		}
	}
	switch {
	case out.Privileged:
	case ptr.Deref(sc.ProcMount, corev1.DefaultProcMount) == corev1.UnmaskedProcMount:
		out.MaskedPaths, out.ReadonlyPaths = []string{}, []string{}
	default:
		out.MaskedPaths, out.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	var err error
	if out.Seccomp, err = seccomp(first(sc.SeccompProfile, podSC.SeccompProfile), out.Privileged, node); err != nil {
		return nil, err
	}
	out.Apparmor = apparmor(first(sc.AppArmorProfile, podSC.AppArmorProfile))
	return out, nil
}

func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

func checkNonRoot(c *corev1.Container, nonRoot *bool, user *int64, image Image) error {
	if !ptr.Deref(nonRoot, false) {
		return nil
	}
	switch {
	case user != nil && *user == 0:
		return badConfig("container's runAsUser breaks non-root policy (container: %s)", c.Name)
	case user != nil:
		return nil
	case image.UID != nil && *image.UID == 0, image.UID == nil && image.Username == "":
		return badConfig("container has runAsNonRoot and image will run as root (container: %s)", c.Name)
	case image.UID == nil:
		return badConfig("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (container: %s)", image.Username, c.Name)
	}
	return nil
}

// seccomp confines containers that say nothing about it: that is this system's default.
func seccomp(p *corev1.SeccompProfile, privileged bool, node Node) (*runtimeapi.SecurityProfile, error) {
	if p == nil {
		if privileged {
			return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
		}
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	}
	switch p.Type {
	case corev1.SeccompProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case corev1.SeccompProfileTypeLocalhost:
		name := ptr.Deref(p.LocalhostProfile, "")
		if name == "" || !filepath.IsLocal(name) {
			return nil, badConfig("seccomp profile %q must be a path inside %s", name, node.SeccompRoot)
		}
		return &runtimeapi.SecurityProfile{
			ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: filepath.Join(node.SeccompRoot, name),
		}, nil
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
}

func apparmor(p *corev1.AppArmorProfile) *runtimeapi.SecurityProfile {
	if p == nil {
		return nil // the runtime's own default where the kernel has AppArmor
	}
	switch p.Type {
	case corev1.AppArmorProfileTypeUnconfined:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	case corev1.AppArmorProfileTypeLocalhost:
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: ptr.Deref(p.LocalhostProfile, "")}
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAble(t *testing.T) {
	sysctl := func(names ...string) *corev1.Pod {
		pod := &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{}}}
		for _, name := range names {
			pod.Spec.SecurityContext.Sysctls = append(pod.Spec.SecurityContext.Sysctls, corev1.Sysctl{Name: name, Value: "1"})
		}
		return pod
	}
	armored := func(kind corev1.AppArmorProfileType) *corev1.Pod {
		profile := &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: kind}}
		return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{SecurityContext: profile}}}}
	}
	onHost := sysctl("net.ipv4.tcp_syncookies")
	onHost.Spec.HostNetwork = true
	withIPC := sysctl("kernel.shm_rmid_forced")
	withIPC.Spec.HostIPC = true
	tests := map[string]struct {
		able            Able
		pod             *corev1.Pod
		reason, message string
	}{
		"a pod that asks for nothing":             {pod: &corev1.Pod{}},
		"safe sysctls":                            {pod: sysctl("kernel.shm_rmid_forced", "net/ipv4/tcp_syncookies")},
		"one that is not safe":                    {pod: sysctl("net.core.somaxconn"), reason: "SysctlForbidden", message: `Pod was rejected: forbidden sysctl: "net.core.somaxconn" not allowlisted`},
		"one the operator allows":                 {able: Able{UnsafeSysctls: []string{"net.core.somaxconn"}}, pod: sysctl("net.core.somaxconn")},
		"one of those the operator allows":        {able: Able{UnsafeSysctls: []string{"kernel.msg*"}}, pod: sysctl("kernel.msgmax")},
		"one that only begins like an allowed":    {able: Able{UnsafeSysctls: []string{"kernel.msg"}}, pod: sysctl("kernel.msgmax"), reason: "SysctlForbidden", message: `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`},
		"the machine's own, even if allowed":      {able: Able{UnsafeSysctls: []string{"vm.*"}}, pod: sysctl("vm.swappiness"), reason: "SysctlForbidden", message: `Pod was rejected: forbidden sysctl: "vm.swappiness" is the whole machine's, not a pod's`},
		"the network's on the host's network":     {pod: onHost, reason: "SysctlForbidden", message: `Pod was rejected: forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
		"shared memory's in the host's namespace": {pod: withIPC, reason: "SysctlForbidden", message: `Pod was rejected: forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host ipc enabled`},
		"AppArmor where the kernel has none":      {pod: armored(corev1.AppArmorProfileTypeRuntimeDefault), reason: "AppArmor", message: "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		"AppArmor where it has":                   {able: Able{AppArmor: true}, pod: armored(corev1.AppArmorProfileTypeLocalhost)},
		"unconfined by AppArmor anywhere":         {pod: armored(corev1.AppArmorProfileTypeUnconfined)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := tc.able.refuse(tc.pod)
			if e == nil {
				e = &Ending{}
			}
			if e.Reason != tc.reason || e.Message != tc.message {
				t.Errorf("refuse() = %q %q, want %q %q", e.Reason, e.Message, tc.reason, tc.message)
			}
		})
	}
}

package sandbox

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestThePauseProgramIsToldWhatThePodWants(t *testing.T) {
	own := &runtimeapi.NamespaceOption{}
	for name, c := range map[string]struct {
		conf *runtimeapi.PodSandboxConfig
		want []string
		pid  mode
	}{
		"a pod of its own has a network, a name and IPC, and may bind low ports and ping": {
			conf: &runtimeapi.PodSandboxConfig{
				Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Attempt: 3}, Hostname: "web-0", LogDirectory: "/var/log",
				Labels: map[string]string{"a": "b"},
				Linux: &runtimeapi.LinuxPodSandboxConfig{
					CgroupParent:    "/kubepods/pod1",
					Resources:       &runtimeapi.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: -1},
					SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: own},
				},
			},
			want: []string{"-n", "/netns", "-u", "web-0", "-i", "-s", "net/ipv4/ip_unprivileged_port_start=0", "-s", "net/ipv4/ping_group_range=0 2147483647"},
		},
		"a pod's sysctls go before the defaults": {
			conf: &runtimeapi.PodSandboxConfig{Hostname: "x", Linux: &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: own},
				Sysctls:         map[string]string{"net.ipv4.ip_unprivileged_port_start": "1024", "kernel.shm_rmid_forced": "1"},
			}},
			want: []string{"-n", "/netns", "-u", "x", "-i", "-s", "kernel/shm_rmid_forced=1", "-s", "net/ipv4/ip_unprivileged_port_start=1024", "-s", "net/ipv4/ping_group_range=0 2147483647"},
		},
		"a pod with users of its own lives in the user namespace its network belongs to": {
			conf: &runtimeapi.PodSandboxConfig{Hostname: "z", Linux: &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{
					Mode: runtimeapi.NamespaceMode_POD, Uids: []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}}, Gids: []*runtimeapi.IDMapping{{HostId: 65536, Length: 65536}},
				}}},
			}},
			want: []string{"-n", "/netns", "-u", "z", "-U", "-i", "-s", "net/ipv4/ip_unprivileged_port_start=0", "-s", "net/ipv4/ping_group_range=0 65535"},
		},
		"a pod that asks for the machine's users has them": {
			conf: &runtimeapi.PodSandboxConfig{Hostname: "z", Linux: &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
					UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}, Ipc: runtimeapi.NamespaceMode_NODE,
				}},
			}},
			want: []string{"-n", "/netns", "-u", "z", "-s", "net/ipv4/ip_unprivileged_port_start=0", "-s", "net/ipv4/ping_group_range=0 2147483647"},
		},
		"a pod on the machine's network keeps the machine's name and settings": {
			conf: &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE},
			}}},
			want: []string{"-i"},
		},
		"a pod with the machine's processes and IPC gets no own": {
			conf: &runtimeapi.PodSandboxConfig{Hostname: "y", Linux: &runtimeapi.LinuxPodSandboxConfig{
				SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{
					Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE,
				}},
			}},
			pid: node,
		},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := proto.Marshal(c.conf)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parse(data)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got.arguments("/netns")); diff != "" {
				t.Errorf("arguments (-want +got):\n%s", diff)
			}
			if got.pid != c.pid || got.cgroupParent != c.conf.GetLinux().GetCgroupParent() {
				t.Errorf("processes in %d, cgroup %q", got.pid, got.cgroupParent)
			}
		})
	}
}

func TestAConfigurationCutShortIsRefused(t *testing.T) {
	data, err := proto.Marshal(&runtimeapi.PodSandboxConfig{Hostname: "a-name-of-some-length"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(data[:len(data)-3]); err == nil {
		t.Error("it was read")
	}
}

func TestSysctlNames(t *testing.T) {
	for name, c := range map[string]struct{ name, want string }{
		"dots part a name":                      {"net.core.somaxconn", "net/core/somaxconn"},
		"slashes do too":                        {"net/core/somaxconn", "net/core/somaxconn"},
		"a slash after a dot is part of a word": {"net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"},
		"a dot after a slash is part of a word": {"net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"},
		"nothing leads out of the settings":     {"net/../../../etc/passwd", "etc/passwd"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sysctlPath(c.name); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

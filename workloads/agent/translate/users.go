package translate

import (
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Users are the machine's user and group ids that a pod's own, from 0 on, stand for. Nil: they are the machine's.
type Users struct{ First, Length uint32 }

// OwnUsers: does the pod ask not to be the machine's users?
func OwnUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }

func (u *Users) mapping() []*runtimeapi.IDMapping {
	if u == nil {
		return nil
	}
	return []*runtimeapi.IDMapping{{ContainerId: 0, HostId: u.First, Length: u.Length}}
}

func (u *Users) namespace() *runtimeapi.UserNamespace {
	if u == nil {
		return nil
	}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: u.mapping(), Gids: u.mapping()}
}

// shift has files of mounts belong, in the containers, to the ids that are on the disk: volumes need not know of any of
// this. Shared memory is left as it is: its files are the pod's own, and older kernels cannot do it for a tmpfs.
func (u *Users) shift(mounts []*runtimeapi.Mount) {
	for _, m := range mounts {
		if m.ContainerPath != ShmPath {
			m.UidMappings, m.GidMappings = u.mapping(), u.mapping()
		}
	}
}

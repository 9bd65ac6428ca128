package pod

import (
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/agent/translate"
	"knarr.dev/knarr/workloads/agent/userns"
)

// usersOf are the machine's ids that the users of a pod stand for, nil when they are the machine's own.
func (m *Manager) usersOf(pod *corev1.Pod) (*translate.Users, error) {
	if !translate.OwnUsers(pod) {
		return nil, nil
	}
	if ptr.Deref(pod.Spec.ShareProcessNamespace, false) {
		return nil, errors.New("hostUsers: false goes with containers that each have processes of their own: remove shareProcessNamespace")
	}
	first, err := m.users.Of(pod.UID)
	if err != nil {
		return nil, err
	}
	return &translate.Users{First: first, Length: userns.Length}, nil
}

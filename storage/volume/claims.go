package volume

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagevolume "k8s.io/component-helpers/storage/volume"
)

// resolveClaim follows a claim to the path its volume has on this node.
func (m *Manager) resolveClaim(ctx context.Context, pod *corev1.Pod, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	claim, err := m.config.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("persistentvolumeclaim %q not found: create it in namespace %q", name, pod.Namespace)
	}
	if err != nil {
		return "", fmt.Errorf("read persistentvolumeclaim %q: %w", name, err)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return "", fmt.Errorf("persistentvolumeclaim %q is not bound to a volume yet (%s): see its events for why", name, claim.Status.Phase)
	}
	pv, err := m.config.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", fmt.Errorf("persistentvolume %q of claim %q not found: the claim is lost; restore the volume or make a new claim", claim.Spec.VolumeName, name)
	}
	if err != nil {
		return "", fmt.Errorf("read persistentvolume %q: %w", claim.Spec.VolumeName, err)
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return "", fmt.Errorf("persistentvolume %q is not bound to claim %q: it serves another one", pv.Name, name)
	}
	if err := m.onThisNode(ctx, pv); err != nil {
		return "", err
	}
	return m.pathOf(pod, pv)
}

// pathOf a bound volume on this node.
func (m *Manager) pathOf(pod *corev1.Pod, pv *corev1.PersistentVolume) (string, error) {
	switch {
	case pv.Spec.HostPath != nil:
		return pv.Spec.HostPath.Path, checkHostPath(pv.Spec.HostPath)
	case pv.Spec.Local != nil:
		path := pv.Spec.Local.Path
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("path %q of local persistentvolume %q does not exist on node %s: create or mount it there", path, pv.Name, m.config.NodeName)
		}
		if group := fsGroup(pod); group != nil && info.IsDir() {
			if err := ownTree(path, *group, pod.Spec.SecurityContext.FSGroupChangePolicy, false); err != nil {
				return "", err
			}
		}
		return path, nil
	}
	return "", fmt.Errorf("persistentvolume %q is of a kind this node cannot mount: use a hostPath or local volume", pv.Name)
}

// onThisNode refuses a volume whose data lives elsewhere: mounting an empty path instead would look like data loss.
func (m *Manager) onThisNode(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv.Spec.NodeAffinity == nil {
		return nil
	}
	node, err := m.config.Client.CoreV1().Nodes().Get(ctx, m.config.NodeName, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("read node %s: %w", m.config.NodeName, err)
	}
	if err := storagevolume.CheckNodeAffinity(pv, node.Labels); err != nil {
		return fmt.Errorf("persistentvolume %q is not on node %s: move the pod to a node its node affinity allows", pv.Name, m.config.NodeName)
	}
	return nil
}

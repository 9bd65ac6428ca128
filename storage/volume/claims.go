package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storagevolume "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/storage/csi"
)

// setUpClaim makes the volume of a claim available, and returns its path on this node.
func (m *Manager) setUpClaim(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, name string, readOnly bool) (string, error) {
	claim, pv, err := m.resolveClaim(ctx, pod, name)
	if err != nil {
		return "", err
	}
	switch {
	case pv.Spec.CSI != nil:
		return m.drivers.Mount(ctx, pod, csi.Volume{Name: v.Name, PV: pv, Claim: claim, ReadOnly: readOnly}, ownFor(pod))
	case pv.Spec.NFS != nil:
		return m.setUpNFS(ctx, pod, pv.Name, pv.Spec.NFS, pv.Spec.MountOptions, readOnly || pv.Spec.NFS.ReadOnly)
	}
	return m.pathOf(pod, pv)
}

// resolveClaim follows a claim to its volume.
func (m *Manager) resolveClaim(ctx context.Context, pod *corev1.Pod, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	claim, err := m.config.Client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil, fmt.Errorf("persistentvolumeclaim %q not found: create it in namespace %q", name, pod.Namespace)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read persistentvolumeclaim %q: %w", name, err)
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return nil, nil, fmt.Errorf("persistentvolumeclaim %q is not bound to a volume yet (%s): see its events for why", name, claim.Status.Phase)
	}
	pv, err := m.config.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil, fmt.Errorf("persistentvolume %q of claim %q not found: the claim is lost; restore the volume or make a new claim", claim.Spec.VolumeName, name)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read persistentvolume %q: %w", claim.Spec.VolumeName, err)
	}
	if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return nil, nil, fmt.Errorf("persistentvolume %q is not bound to claim %q: it serves another one", pv.Name, name)
	}
	return claim, pv, m.onThisNode(ctx, pv)
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
		if ptr.Deref(pv.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock {
			if info.Mode()&fs.ModeDevice == 0 || info.Mode()&fs.ModeCharDevice != 0 {
				return "", fmt.Errorf("path %q of local persistentvolume %q is not a block device: name one, or use volumeMode Filesystem", path, pv.Name)
			}
			return path, nil
		}
		if !info.IsDir() {
			return "", fmt.Errorf("path %q of local persistentvolume %q is not a folder: mount the device and name the folder, or use volumeMode Block", path, pv.Name)
		}
		if group := fsGroup(pod); group != nil {
			if err := ownTree(path, *group, pod.Spec.SecurityContext.FSGroupChangePolicy, false); err != nil {
				return "", err
			}
		}
		return path, nil
	}
	return "", fmt.Errorf("persistentvolume %q is of a kind this node cannot mount: use a csi, nfs, local or hostPath volume", pv.Name)
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

// ownFor hands what a driver mounted to the pod's fsGroup.
func ownFor(pod *corev1.Pod) func(folder string) error {
	return func(folder string) error {
		return ownTree(folder, *fsGroup(pod), pod.Spec.SecurityContext.FSGroupChangePolicy, false)
	}
}

// republish lets drivers that ask for it hear of a pod's volumes again, and filesystems grow with their claims.
func (m *Manager) republish(ctx context.Context, pod *corev1.Pod) error {
	if !m.drivers.Serves(pod.UID) {
		return nil
	}
	var errs []error
	for i := range pod.Spec.Volumes {
		v, name := &pod.Spec.Volumes[i], ""
		switch {
		case v.CSI != nil:
			errs = append(errs, m.drivers.Republish(ctx, pod, csi.Volume{Name: v.Name, Inline: v.CSI}))
			continue
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = pod.Name + "-" + v.Name
		default:
			continue
		}
		claim, pv, err := m.resolveClaim(ctx, pod, name)
		if err == nil && pv.Spec.CSI != nil {
			readOnly := v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly
			err = m.drivers.Republish(ctx, pod, csi.Volume{Name: v.Name, PV: pv, Claim: claim, ReadOnly: readOnly})
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

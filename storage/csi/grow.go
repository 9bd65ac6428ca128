package csi

import (
	"context"
	"fmt"
	"slices"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// larger says whether a volume has become larger than its claim's user was told: its filesystem has to follow.
func larger(v Volume) bool {
	if v.PV == nil || v.Claim == nil {
		return false
	}
	volume, claim := v.PV.Spec.Capacity[corev1.ResourceStorage], v.Claim.Status.Capacity[corev1.ResourceStorage]
	return !claim.IsZero() && volume.Cmp(claim) > 0
}

// grow lets a filesystem follow its volume, and tells the claim's user.
func (c call) grow(ctx context.Context, stage string) error {
	if !larger(c.volume) || c.volume.readOnly() {
		return nil
	}
	if c.driver.can[csiv1.NodeServiceCapability_RPC_EXPAND_VOLUME] {
		at := stage
		if at == "" {
			at = c.held.target(c.use)
		}
		size := c.volume.PV.Spec.Capacity[corev1.ResourceStorage]
		secrets, err := c.secrets(ctx, c.volume.PV.Spec.CSI.NodeExpandSecretRef)
		if err != nil {
			return err
		}
		asked, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		q := &csiv1.NodeExpandVolumeRequest{
			VolumeId: c.use.Handle, VolumePath: c.told(at), CapacityRange: &csiv1.CapacityRange{RequiredBytes: size.Value()},
			VolumeCapability: c.capability(), Secrets: secrets,
		}
		if stage != "" {
			q.StagingTargetPath = c.told(stage)
		}
		if _, err := c.driver.node.NodeExpandVolume(asked, q); err != nil {
			return fmt.Errorf("rpc NodeExpandVolume of driver %s: %w", c.use.Driver, err)
		}
	}
	_, err := c.config.Client.CoreV1().PersistentVolumeClaims(c.volume.Claim.Namespace).UpdateStatus(ctx, grown(c.volume), metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("note that claim %s/%s has grown: %w", c.volume.Claim.Namespace, c.volume.Claim.Name, err)
	}
	return nil
}

// grown is the claim once its filesystem has the volume's size.
func grown(v Volume) *corev1.PersistentVolumeClaim {
	next := v.Claim.DeepCopy()
	if next.Status.Capacity == nil {
		next.Status.Capacity = corev1.ResourceList{}
	}
	next.Status.Capacity[corev1.ResourceStorage] = v.PV.Spec.Capacity[corev1.ResourceStorage].DeepCopy()
	delete(next.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
	next.Status.Conditions = slices.DeleteFunc(next.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimFileSystemResizePending || c.Type == corev1.PersistentVolumeClaimResizing
	})
	return next
}

package csi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AttachmentName is what the VolumeAttachment of a volume on a node is called, by everybody.
func AttachmentName(driver, handle, node string) string {
	sum := sha256.Sum256([]byte(handle + driver + node))
	return "csi-" + hex.EncodeToString(sum[:])
}

const (
	attachPatience = 2 * time.Minute // then the pod's events say so, and it is tried again
	firstLook      = 100 * time.Millisecond
	lastLook       = 2 * time.Second
)

// awaitAttached waits until the controllers have attached a volume to this machine, and returns what the driver's said of
// it. A node may read the attachments it needs one by one and not watch them.
func (n *Node) awaitAttached(ctx context.Context, u use) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	name := AttachmentName(u.Driver, u.Handle, n.config.NodeName)
	problem := "no controller has asked for it yet"
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		found, err := n.config.Client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil && found.DeletionTimestamp == nil && found.Status.Attached:
			return found.Status.AttachmentMetadata, nil
		case err == nil && found.Status.AttachError != nil:
			return nil, fmt.Errorf("AttachVolume.Attach failed for volume %q : %s", u.Spec, found.Status.AttachError.Message)
		case err == nil:
			problem = fmt.Sprintf("the controller of driver %s has not done it yet", u.Driver)
		case !apierrors.IsNotFound(err) && ctx.Err() == nil:
			problem = err.Error()
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("timed out waiting for volume %q to be attached to node %s (VolumeAttachment %s): %s", u.Spec, n.config.NodeName, name, problem)
		}
	}
}

package csi

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/retry"
)

// nodeIDs is where controllers of drivers find what they call this node.
const nodeIDs = "csi.volume.kubernetes.io/nodeid"

// announce says in the CSINode object, and in the node's labels, that a driver is here.
func (n *Node) announce(ctx context.Context, name string, info *csiv1.NodeGetInfoResponse) error {
	if err := n.change(ctx, func(c *storagev1.CSINode) { withDriver(c, name, info) }); err != nil {
		return err
	}
	return n.label(ctx, func(node *corev1.Node) ([]byte, error) { return labelsOf(node, name, info) })
}

// withdraw takes a driver off again. The labels stay: volumes that are there have not moved.
func (n *Node) withdraw(ctx context.Context, name string) error {
	return n.change(ctx, func(c *storagev1.CSINode) {
		c.Spec.Drivers = slices.DeleteFunc(c.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name })
	})
}

// change makes or changes this node's CSINode object.
func (n *Node) change(ctx context.Context, how func(*storagev1.CSINode)) error {
	nodes := n.config.Client.StorageV1().CSINodes()
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		was, err := nodes.Get(ctx, n.config.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			owner, err := n.config.Client.CoreV1().Nodes().Get(ctx, n.config.NodeName, metav1.GetOptions{})
			if err != nil {
				return err
			}
			fresh := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{
				Name:            n.config.NodeName,
				OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: owner.Name, UID: owner.UID}},
			}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{}}}
			how(fresh)
			_, err = nodes.Create(ctx, fresh, metav1.CreateOptions{})
			return err
		}
		if err != nil {
			return err
		}
		next := was.DeepCopy()
		how(next)
		if equality.Semantic.DeepEqual(was, next) {
			return nil
		}
		_, err = nodes.Update(ctx, next, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("write CSINode %s: %w", n.config.NodeName, err)
	}
	return nil
}

// withDriver puts one driver's entry into a CSINode object.
func withDriver(c *storagev1.CSINode, name string, info *csiv1.NodeGetInfoResponse) {
	entry := storagev1.CSINodeDriver{Name: name, NodeID: info.NodeId, TopologyKeys: slices.Sorted(maps.Keys(info.GetAccessibleTopology().GetSegments()))}
	if most := info.MaxVolumesPerNode; most > 0 {
		count := int32(min(most, 1<<31-1))
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	for i := range c.Spec.Drivers {
		if c.Spec.Drivers[i].Name == name {
			c.Spec.Drivers[i] = entry
			return
		}
	}
	c.Spec.Drivers = append(c.Spec.Drivers, entry)
}

func (n *Node) label(ctx context.Context, patchOf func(*corev1.Node) ([]byte, error)) error {
	nodes := n.config.Client.CoreV1().Nodes()
	node, err := nodes.Get(ctx, n.config.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node %s: %w", n.config.NodeName, err)
	}
	patch, err := patchOf(node)
	if err != nil || patch == nil {
		return err
	}
	if _, err := nodes.Patch(ctx, n.config.NodeName, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label node %s: %w", n.config.NodeName, err)
	}
	return nil
}

// labelsOf is the patch that shows a driver's topology and its name for the node; nil when both are shown already. A
// label that has another value is an error: volumes may be bound to it.
func labelsOf(node *corev1.Node, name string, info *csiv1.NodeGetInfoResponse) ([]byte, error) {
	ids := map[string]string{}
	if text := node.Annotations[nodeIDs]; text != "" && json.Unmarshal([]byte(text), &ids) != nil {
		ids = map[string]string{} // somebody broke it by hand
	}
	labels := map[string]string{}
	for key, value := range info.GetAccessibleTopology().GetSegments() {
		have, there := node.Labels[key]
		if there && have != value {
			return nil, fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, value, key, have)
		}
		if !there {
			labels[key] = value
		}
	}
	if ids[name] == info.NodeId && len(labels) == 0 {
		return nil, nil
	}
	ids[name] = info.NodeId
	text, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels, "annotations": map[string]string{nodeIDs: string(text)}}})
}

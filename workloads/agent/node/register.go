package node

import (
	"context"
	"encoding/json"
	"fmt"
	goruntime "runtime"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	cloudproviderapi "k8s.io/cloud-provider/api"
)

// register makes the Node object, or adopts the one there is: this machine's from before, or made by hand.
func (n *Node) register(ctx context.Context, node *corev1.Node, f facts) (*corev1.Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var reported time.Time // an adopted node's status is not ours yet
	if node == nil {
		var created bool
		var err error
		if node, created, err = n.createOrGet(ctx, f); err != nil {
			return nil, err
		}
		if created {
			n.config.Log.Info("node registered", "node", n.config.Name)
			reported = f.now
		}
	}
	node, err := ensureLabels(ctx, n.config.Client, node, n.labels())
	if err != nil {
		return nil, err
	}
	if n.config.Privileged != nil {
		if node, err = ensureLabels(ctx, n.config.Privileged, node, n.config.RoleLabels); err != nil {
			return nil, err
		}
	}
	n.remember(node, reported)
	return node, nil
}

func (n *Node) createOrGet(ctx context.Context, f facts) (node *corev1.Node, created bool, err error) {
	nodes := n.config.Client.CoreV1().Nodes()
	wanted := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.config.Name, Labels: n.labels()},
		Status:     judge(corev1.NodeStatus{}, f),
	}
	if n.config.External {
		awaitCloud(wanted, f)
	}
	node, err = nodes.Create(ctx, wanted, metav1.CreateOptions{})
	switch {
	case err == nil:
		return node, true, nil
	case apierrors.IsForbidden(err):
		return nil, false, fmt.Errorf("register node %s: %w; the certificate must be of user system:node:%s in group system:nodes", n.config.Name, err, n.config.Name)
	case !apierrors.IsAlreadyExists(err):
		return nil, false, fmt.Errorf("register node %s: %w", n.config.Name, err)
	}
	if node, err = nodes.Get(ctx, n.config.Name, metav1.GetOptions{}); err != nil {
		return nil, false, fmt.Errorf("read node %s: %w", n.config.Name, err)
	}
	return node, false, nil
}

// awaitCloud keeps pods from a new node until a cloud controller manager has looked at it (KEP-2392), and tells that the
// address to look for.
func awaitCloud(node *corev1.Node, f facts) {
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: cloudproviderapi.TaintExternalCloudProvider, Value: "true", Effect: corev1.TaintEffectNoSchedule})
	if len(f.addresses) > 0 {
		metav1.SetMetaDataAnnotation(&node.ObjectMeta, cloudproviderapi.AnnotationAlphaProvidedIPAddr, f.addresses[0].String())
	}
}

// labels every node has, and those of this one.
func (n *Node) labels() map[string]string {
	labels := map[string]string{
		corev1.LabelHostname:             n.config.Name,
		corev1.LabelOSStable:             goruntime.GOOS,
		corev1.LabelArchStable:           goruntime.GOARCH,
		"beta." + corev1.LabelOSStable:   goruntime.GOOS, // deprecated, and still selected on
		"beta." + corev1.LabelArchStable: goruntime.GOARCH,
	}
	for key, value := range n.config.Labels {
		labels[key] = value
	}
	return labels
}

// ensureLabels adds what is missing; labels users gave the node stay.
func ensureLabels(ctx context.Context, client kubernetes.Interface, node *corev1.Node, want map[string]string) (*corev1.Node, error) {
	missing := map[string]string{}
	for key, value := range want {
		if has, found := node.Labels[key]; !found || has != value {
			missing[key] = value
		}
	}
	if len(missing) == 0 {
		return node, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": missing}})
	if err != nil {
		return nil, fmt.Errorf("encode labels of node %s: %w", node.Name, err)
	}
	labelled, err := client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return nil, fmt.Errorf("label node %s: %w", node.Name, err)
	}
	return labelled, nil
}

// patchStatus writes the difference between two statuses, so that conditions and fields others own are not touched.
func (n *Node) patchStatus(ctx context.Context, node *corev1.Node, next corev1.NodeStatus) (*corev1.Node, error) {
	patch, err := statusPatch(node.Status, next)
	if err != nil {
		return nil, fmt.Errorf("compare statuses of node %s: %w", node.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	written, err := n.config.Client.CoreV1().Nodes().PatchStatus(ctx, node.Name, patch)
	if apierrors.IsNotFound(err) {
		n.mu.Lock()
		if n.current != nil && n.current.UID == node.UID {
			n.current = nil // deleted; the next pass registers it again
		}
		n.mu.Unlock()
	}
	if err != nil {
		return nil, fmt.Errorf("write status of node %s: %w", node.Name, err)
	}
	return written, nil
}

// statusPatch is the strategic merge patch from one status to the next.
func statusPatch(old, next corev1.NodeStatus) ([]byte, error) {
	before, err := json.Marshal(corev1.Node{Status: old})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(corev1.Node{Status: next})
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Node{})
	if err != nil || slices.Equal(old.Addresses, next.Addresses) {
		return patch, err
	}
	// Addresses merge by type, which would fold a node's IPv4 and IPv6 addresses into one: the list is replaced whole.
	var edited map[string]any
	if err := json.Unmarshal(patch, &edited); err != nil {
		return nil, err
	}
	status, _ := edited["status"].(map[string]any)
	if status == nil {
		status = map[string]any{}
		edited["status"] = status
	}
	list := make([]any, 0, len(next.Addresses)+1)
	for _, address := range next.Addresses {
		list = append(list, address)
	}
	status["addresses"] = append(list, map[string]string{"$patch": "replace"})
	delete(status, "$setElementOrder/addresses")
	return json.Marshal(edited)
}

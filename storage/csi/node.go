package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// Mount publishes a volume for a pod and returns where: a folder, or the device of a block volume. It may be called again at
// any time. own is called with the folder when its files are to be handed to the pod's fsGroup.
func (n *Node) Mount(ctx context.Context, pod *corev1.Pod, v Volume, own func(folder string) error) (string, error) {
	if err := v.check(); err != nil {
		return "", err
	}
	about, err := n.about(ctx, v.driver())
	if err != nil {
		return "", err
	}
	if err := v.allowed(about); err != nil {
		return "", err
	}
	u := v.use(pod, v.attach(about))
	target := n.held.target(u)
	defer n.keys.lock(u.key())()
	if n.done(u) { // by an earlier process; the pod may be running
		return target, nil
	}
	d, err := n.driver(ctx, u.Driver, driverPatience)
	if err != nil {
		return "", err
	}
	c := newCall(n, d, v, u, about, pod)
	if err := c.publish(ctx); err != nil {
		return "", err
	}
	if fsGroup(pod) != nil && c.group == nil && v.ownedByGroup(about) {
		if err := own(target); err != nil {
			return "", err
		}
	}
	return target, n.held.finish(u)
}

// newCall: group is set for drivers that hand files to a pod's fsGroup themselves.
func newCall(n *Node, d *driver, v Volume, u use, about *storagev1.CSIDriver, pod *corev1.Pod) call {
	c := call{Node: n, driver: d, volume: v, use: u, about: about, pod: pod}
	if d.can[csiv1.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP] {
		c.group = fsGroup(pod)
	}
	return c
}

// call is one mount.
type call struct {
	*Node
	driver *driver
	volume Volume
	use    use
	about  *storagev1.CSIDriver
	pod    *corev1.Pod
	group  *int64
}

// publish attaches, stages and publishes; each step is noted before it begins.
func (c call) publish(ctx context.Context) error {
	if err := c.held.begin(c.use); err != nil {
		return err
	}
	var attached map[string]string
	if c.use.Attached {
		c.config.Changed()
		var err error
		if attached, err = c.awaitAttached(ctx, c.use); err != nil {
			return err
		}
	}
	stage := ""
	if !c.use.Ephemeral && c.driver.can[csiv1.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		stage = filepath.Join(c.held.stage(c.use.Driver, c.use.Handle), "globalmount")
		if err := c.stage(ctx, stage, attached); err != nil {
			return err
		}
	}
	if err := c.grow(ctx, stage); err != nil {
		return err
	}
	target := c.held.target(c.use)
	if err := makeParent(target); err != nil {
		return err
	}
	secrets, err := c.secrets(ctx, c.publishSecret())
	if err != nil {
		return err
	}
	volumeContext, err := c.withTokens(ctx)
	if err != nil {
		return err
	}
	q := &csiv1.NodePublishVolumeRequest{
		VolumeId: c.use.Handle, PublishContext: attached, TargetPath: c.told(target), VolumeCapability: c.capability(),
		Readonly: c.volume.readOnly(), Secrets: secrets, VolumeContext: volumeContext,
	}
	if stage != "" {
		q.StagingTargetPath = c.told(stage)
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	if _, err := c.driver.node.NodePublishVolume(ctx, q); err != nil {
		return fmt.Errorf("rpc NodePublishVolume of driver %s: %w", c.use.Driver, err)
	}
	return nil
}

// stage makes the volume available on the machine, once for all its pods.
func (c call) stage(ctx context.Context, stage string, attached map[string]string) error {
	if err := os.MkdirAll(stage, 0o750); err != nil {
		return fmt.Errorf("make the folder to stage the volume in: %w", err)
	}
	if err := writeUse(filepath.Dir(stage), c.use); err != nil {
		return err
	}
	secrets, err := c.secrets(ctx, c.volume.PV.Spec.CSI.NodeStageSecretRef)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	_, err = c.driver.node.NodeStageVolume(ctx, &csiv1.NodeStageVolumeRequest{
		VolumeId: c.use.Handle, PublishContext: attached, StagingTargetPath: c.told(stage), VolumeCapability: c.capability(),
		Secrets: secrets, VolumeContext: c.volume.PV.Spec.CSI.VolumeAttributes,
	})
	if err != nil {
		return fmt.Errorf("rpc NodeStageVolume of driver %s: %w", c.use.Driver, err)
	}
	return nil
}

func (c call) capability() *csiv1.VolumeCapability {
	return c.volume.capability(c.driver.can[csiv1.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER], c.group)
}

// makeParent makes what the driver may expect to be there; the target itself is the driver's to make.
func makeParent(target string) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("make the volume's folder: %w", err)
	}
	return nil
}

// publishSecret names the Secret a driver wants with each pod. That of an inline volume is in the pod's namespace.
func (c call) publishSecret() *corev1.SecretReference {
	if c.volume.Inline == nil {
		return c.volume.PV.Spec.CSI.NodePublishSecretRef
	}
	if ref := c.volume.Inline.NodePublishSecretRef; ref != nil {
		return &corev1.SecretReference{Name: ref.Name, Namespace: c.pod.Namespace}
	}
	return nil
}

func (n *Node) secrets(ctx context.Context, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	secret, err := n.config.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read secret %s/%s for the volume: %w", ref.Namespace, ref.Name, err)
	}
	out := map[string]string{}
	for key, value := range secret.Data {
		out[key] = string(value)
	}
	return out, nil
}

// withTokens is the volume's context, with tokens of the pod's service account for a driver that asks for them.
func (c call) withTokens(ctx context.Context) (map[string]string, error) {
	out := c.volume.context(c.pod, c.about)
	if c.about == nil || len(c.about.Spec.TokenRequests) == 0 {
		return out, nil
	}
	type token struct {
		Token string    `json:"token"`
		Ends  time.Time `json:"expirationTimestamp"`
	}
	tokens := map[string]token{}
	for _, want := range c.about.Spec.TokenRequests {
		text, ends, err := c.config.Token(ctx, c.pod, want.Audience, ptr.Deref(want.ExpirationSeconds, 3600))
		if err != nil {
			return nil, err
		}
		tokens[want.Audience] = token{Token: text, Ends: ends.UTC()}
	}
	text, err := json.Marshal(tokens)
	if err != nil {
		return nil, err
	}
	out["csi.storage.k8s.io/serviceAccount.tokens"] = string(text)
	return out, nil
}

// Republish calls drivers again that want to hear of a pod's volume now and then, for instance with newer tokens, and
// lets filesystems grow to what their claims have become.
func (n *Node) Republish(ctx context.Context, pod *corev1.Pod, v Volume) error {
	about, err := n.about(ctx, v.driver())
	if err != nil {
		return err
	}
	u := v.use(pod, v.attach(about))
	again := about != nil && ptr.Deref(about.Spec.RequiresRepublish, false)
	if !again && !larger(v) {
		return nil
	}
	defer n.keys.lock(u.key())()
	if !n.done(u) {
		return nil // not mounted yet
	}
	d, err := n.driver(ctx, u.Driver, 0)
	if err != nil {
		return err
	}
	c := newCall(n, d, v, u, about, pod)
	if again {
		return c.publish(ctx)
	}
	stage := ""
	if d.can[csiv1.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		stage = filepath.Join(n.held.stage(u.Driver, u.Handle), "globalmount")
	}
	return c.grow(ctx, stage)
}

// Unmount takes down all volumes of a pod whose containers have ended.
func (n *Node) Unmount(ctx context.Context, pod types.UID) error {
	var errs []error
	for _, u := range n.held.of(pod) {
		if err := n.unmount(ctx, u); err != nil {
			errs = append(errs, fmt.Errorf("UnmountVolume.TearDown failed for volume %q : %w", u.Spec, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Node) unmount(ctx context.Context, u use) error {
	defer n.keys.lock(u.key())()
	d, err := n.driver(ctx, u.Driver, 0)
	if err != nil {
		return err
	}
	asked, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	_, err = d.node.NodeUnpublishVolume(asked, &csiv1.NodeUnpublishVolumeRequest{VolumeId: u.Handle, TargetPath: n.told(n.held.target(u))})
	if err != nil {
		return fmt.Errorf("rpc NodeUnpublishVolume of driver %s: %w", u.Driver, err)
	}
	if err := n.held.end(u); err != nil {
		return err
	}
	if n.held.used(u.key()) {
		return nil
	}
	defer n.config.Changed()
	// The pod is done with it. If this fails, the next one to use the volume, or the driver's next start, does it.
	if err := n.unstage(ctx, d, u); err != nil {
		n.config.Log.Warn("unstage volume; it is tried again when its driver registers", "driver", u.Driver, "volume", u.Handle, "error", err)
	}
	return nil
}

// unstage takes a volume off the machine that no pod uses.
func (n *Node) unstage(ctx context.Context, d *driver, u use) error {
	folder := n.held.stage(u.Driver, u.Handle)
	if _, err := os.Lstat(folder); u.Ephemeral || os.IsNotExist(err) {
		return nil
	}
	if d.can[csiv1.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME] {
		ctx, cancel := context.WithTimeout(ctx, askFor)
		defer cancel()
		_, err := d.node.NodeUnstageVolume(ctx, &csiv1.NodeUnstageVolumeRequest{VolumeId: u.Handle, StagingTargetPath: n.told(filepath.Join(folder, "globalmount"))})
		if err != nil {
			return fmt.Errorf("rpc NodeUnstageVolume of driver %s: %w", u.Driver, err)
		}
	}
	for _, path := range []string{filepath.Join(folder, "globalmount"), filepath.Join(folder, dataFile), folder} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("remove the folder the volume was staged in: %w", err)
		}
	}
	return nil
}

// unstageLeft takes volumes of a driver off the machine that were staged when a process died, and that no pod uses.
func (n *Node) unstageLeft(ctx context.Context, d *driver) {
	files, err := filepath.Glob(filepath.Join(n.held.stages(), d.name, "*", dataFile))
	if err != nil {
		return // d.name is a pattern that cannot be read: no driver of that name was ever used
	}
	for _, file := range files {
		u, err := readUse(file)
		if err == nil && n.held.stage(u.Driver, u.Handle) != filepath.Dir(file) {
			err = errors.New("it is not of the volume whose folder it is in")
		}
		if err != nil {
			n.config.Log.Warn("a volume that is staged cannot be identified; unmount it by hand", "folder", filepath.Dir(file), "error", err)
			continue
		}
		unlock := n.keys.lock(u.key())
		if !n.held.used(u.key()) {
			if err := n.unstage(ctx, d, u); err != nil {
				n.config.Log.Warn("unstage a volume nobody uses", "driver", d.name, "volume", u.Handle, "error", err)
			}
		}
		unlock()
	}
}

// done says whether the volume is where the pod expects it, and as it expects it.
func (n *Node) done(u use) bool {
	if !n.held.finished(u) {
		return false
	}
	there, err := mounted(n.held.target(u))
	return err == nil && there
}

// about is a driver's CSIDriver object, nil if it has none.
func (n *Node) about(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	about, err := n.config.Client.StorageV1().CSIDrivers().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read CSIDriver %s: %w", name, err)
	}
	return about, nil
}

// told is a path as drivers know it.
func (n *Node) told(path string) string {
	if rest, ok := strings.CutPrefix(path, n.config.Folder+"/"); ok {
		return filepath.Join(n.config.Told, rest)
	}
	return path
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

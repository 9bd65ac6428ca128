// Package volume makes the volumes of this node's pods available as paths on the host.
//
// In:       a pod, and the objects its volumes name (ConfigMaps, Secrets, tokens, claims), read with the node's identity.
// Out:      one path a volume under <root>/<pod uid>/volumes, or the path a hostPath or a bound claim already has.
// Promise:  files change all at once; secrets stay off disks; an end never waits, and removes nothing outside <root>.
// Not here: which container mounts what, and which part of a volume (workloads/agent); making volumes for claims.
package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/storage/csi"
	"knarr.dev/knarr/storage/tree"
)

// refreshEvery is how old the files of a mutable ConfigMap or Secret may be. One conditional read a minute and object
// costs less than a watch held open for each: most never change.
const refreshEvery = time.Minute

// Config is what the manager is told.
type Config struct {
	Root     string               // holds one folder a pod: <root>/<uid>/volumes/<plugin>/<name>
	NodeName string               // for claims whose volume lives on certain nodes only
	Client   kubernetes.Interface // with the node's identity
	Told     string               // the folder above Root, as drivers of storage know it; "": by the same path
	Changed  func()               // InUse of Drivers is another; nil: nobody wants to know
	// Allocatable is what an unset limit means to the downward API and to memory-backed emptyDirs; nil means unknown.
	Allocatable func() corev1.ResourceList
	Log         *slog.Logger
}

// Manager keeps the volumes of the pods on this node. It is safe for use by one goroutine a pod.
type Manager struct {
	config       Config
	objects      objects
	tokens       tokens
	certificates certificates
	drivers      *csi.Node

	mu   sync.Mutex
	pods map[types.UID]*podVolumes
}

// podVolumes is one pod's share. Its lock is held while its files are written, so that a refresh and a sync of the
// same pod never interleave, and a refresh never brings back what a teardown removed.
type podVolumes struct {
	mu   sync.Mutex
	pod  *corev1.Pod
	gone bool
}

// New prepares a manager; nothing is touched before the first Mount or Run.
func New(config Config) *Manager {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	config.Log = config.Log.With("component", "volumes")
	if config.Allocatable == nil {
		config.Allocatable = func() corev1.ResourceList { return nil }
	}
	m := &Manager{
		config:  config,
		objects: objects{client: config.Client},
		tokens:  tokens{client: config.Client, held: map[tokenKey]heldToken{}},
		certificates: certificates{
			client: config.Client, node: config.NodeName, log: config.Log, now: time.Now,
			held: map[certificateKey]*heldCertificate{},
		},
		pods: map[types.UID]*podVolumes{},
	}
	m.drivers = csi.NewNode(csi.Config{
		NodeName: config.NodeName, Folder: filepath.Dir(config.Root), Told: config.Told, Client: config.Client, Token: m.tokens.forDriver, Changed: config.Changed, Log: config.Log,
	})
	return m
}

// Drivers are where drivers of storage register.
func (m *Manager) Drivers() *csi.Node { return m.drivers }

// Name of the component.
func (m *Manager) Name() string { return "volumes" }

// Run keeps the files of mutable objects and tokens fresh until ctx ends.
func (m *Manager) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(m.config.Root, 0o750); err != nil {
		return fmt.Errorf("make the pods' folder %s: %w; check that the data directory is writable", m.config.Root, err)
	}
	ready()
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			m.refresh(ctx)
		}
	}
}

// Mount makes every volume of the pod available and returns their paths by volume name. It is idempotent: called
// again it repairs what is missing and leaves the rest. Image volumes are the runtime's and have no path. The error
// names the first volume that failed, worded as the event users know.
func (m *Manager) Mount(ctx context.Context, pod *corev1.Pod) (map[string]string, error) {
	state := m.track(pod)
	state.mu.Lock()
	defer state.mu.Unlock()
	if state.gone {
		return nil, fmt.Errorf("set up volumes of pod %s/%s: its volumes were taken down", pod.Namespace, pod.Name)
	}
	state.pod = pod

	paths := make([]string, len(pod.Spec.Volumes))
	failures := make([]error, len(pod.Spec.Volumes))
	var group errgroup.Group
	group.SetLimit(8) // most volumes wait for one API read; few pods have more
	for i := range pod.Spec.Volumes {
		group.Go(func() error {
			paths[i], failures[i] = m.setUpVolume(ctx, pod, &pod.Spec.Volumes[i])
			return nil
		})
	}
	_ = group.Wait()

	byName := make(map[string]string, len(paths))
	for i := range pod.Spec.Volumes {
		if failures[i] != nil {
			return nil, fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", pod.Spec.Volumes[i].Name, failures[i])
		}
		if paths[i] != "" {
			byName[pod.Spec.Volumes[i].Name] = paths[i]
		}
	}
	return byName, nil
}

// setUpVolume returns the path of one volume, "" for a kind that has none.
func (m *Manager) setUpVolume(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (string, error) {
	switch {
	case v.EmptyDir != nil:
		return m.setUpEmptyDir(pod, v)
	case v.HostPath != nil:
		return v.HostPath.Path, checkHostPath(v.HostPath)
	case v.PersistentVolumeClaim != nil:
		return m.setUpClaim(ctx, pod, v, v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly)
	case v.Ephemeral != nil:
		return m.setUpClaim(ctx, pod, v, pod.Name+"-"+v.Name, false)
	case v.CSI != nil:
		return m.drivers.Mount(ctx, pod, csi.Volume{Name: v.Name, Inline: v.CSI}, ownFor(pod))
	case v.NFS != nil:
		return m.setUpNFS(ctx, pod, v.Name, v.NFS, nil, v.NFS.ReadOnly)
	case v.ConfigMap != nil, v.Secret != nil, v.Projected != nil, v.DownwardAPI != nil:
		return m.setUpFiles(ctx, pod, v)
	case v.Image != nil:
		return "", nil
	}
	return "", errors.New("this kind of volume is not supported on this node: use a persistentVolumeClaim, hostPath, " +
		"emptyDir, configMap, secret, downwardAPI, projected, csi or nfs volume")
}

// Update brings the files of the downward API in line with a pod whose labels or annotations changed. For any other
// change, and for a pod that is not mounted, it does nothing.
func (m *Manager) Update(ctx context.Context, pod *corev1.Pod) error {
	m.mu.Lock()
	state := m.pods[pod.UID]
	m.mu.Unlock()
	if state == nil {
		return nil
	}
	state.mu.Lock()
	defer state.mu.Unlock()
	old := state.pod
	if state.gone || (maps.Equal(old.Labels, pod.Labels) && maps.Equal(old.Annotations, pod.Annotations)) {
		return nil
	}
	state.pod = pod
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !showsMetadata(v) {
			continue
		}
		if err := m.refreshFiles(ctx, pod, v); err != nil {
			state.pod = old // so that the next call tries again
			return fmt.Errorf("update volume %q: %w", v.Name, err)
		}
	}
	return nil
}

// Unmount takes the pod's volumes down. A pod that has none is no error, and what a hostPath or a claim points to is
// left alone.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	state := m.pods[uid]
	delete(m.pods, uid)
	m.mu.Unlock()
	if state != nil {
		state.mu.Lock()
		defer state.mu.Unlock()
		state.gone = true
		m.tokens.forget(uid)
		m.certificates.forget(uid)
	}
	if err := m.drivers.Unmount(ctx, uid); err != nil {
		return err // what drivers mounted is theirs to take down
	}
	return m.remove(uid)
}

// Pods lists the pods that have volumes here, from the disk: it knows those that ended while the node was down.
func (m *Manager) Pods() ([]types.UID, error) {
	folders, err := os.ReadDir(m.config.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the pods' folder: %w", err)
	}
	var uids []types.UID
	for _, folder := range folders {
		if _, err := os.Lstat(filepath.Join(m.config.Root, folder.Name(), "volumes")); err == nil {
			uids = append(uids, types.UID(folder.Name()))
		}
	}
	return uids, nil
}

// track finds or begins the record of a pod.
func (m *Manager) track(pod *corev1.Pod) *podVolumes {
	m.mu.Lock()
	defer m.mu.Unlock()
	state := m.pods[pod.UID]
	if state == nil {
		state = &podVolumes{pod: pod}
		m.pods[pod.UID] = state
	}
	return state
}

// folder is where a pod's volumes live.
func (m *Manager) folder(uid types.UID) string { return filepath.Join(m.config.Root, string(uid)) }

// path of one volume. The plugin names are the ones every tool that reads a node's disk knows.
func (m *Manager) path(uid types.UID, plugin, volume string) string {
	return filepath.Join(m.folder(uid), "volumes", "kubernetes.io~"+plugin, volume)
}

// remove unmounts everything below a pod's folder, then deletes what is left of it.
func (m *Manager) remove(uid types.UID) error {
	folder := m.folder(uid)
	if uid == "" || filepath.Dir(folder) != filepath.Clean(m.config.Root) {
		return fmt.Errorf("remove volumes of pod %q: not a pod's uid", uid)
	}
	volumes := filepath.Join(folder, "volumes")
	if err := tree.Detach(volumes); err != nil {
		return fmt.Errorf("detach volumes of pod %s: %w", uid, err)
	}
	if err := tree.Remove(volumes); err != nil {
		return fmt.Errorf("remove volumes of pod %s: %w", uid, err)
	}
	// The folder itself goes with its last content; what the agent keeps in it (messages, sub-paths) is the agent's.
	if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) && !notEmpty(err) {
		return fmt.Errorf("remove folder of pod %s: %w", uid, err)
	}
	return nil
}

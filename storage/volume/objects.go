package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// objectRef names a ConfigMap or a Secret. A node may read exactly those its pods refer to, one by one.
type objectRef struct{ kind, namespace, name string }

// objects reads ConfigMaps and Secrets. Only during one refresh are answers kept, so that fifty pods using one object
// cost one read; between refreshes no secret stays in memory.
type objects struct {
	client kubernetes.Interface

	mu     sync.Mutex
	recent map[objectRef]recentObject // nil outside a refresh
}

type recentObject struct {
	data map[string][]byte
	err  error
}

// get reads an object. Aged answers may come from the API server's cache and from this refresh's earlier reads; a pod
// that starts gets a read that sees everything written before it.
func (o *objects) get(ctx context.Context, ref objectRef, aged bool) (map[string][]byte, error) {
	if !aged {
		return o.read(ctx, ref, "")
	}
	o.mu.Lock()
	known, found := o.recent[ref]
	o.mu.Unlock()
	if found {
		return known.data, known.err
	}
	read, err := o.read(ctx, ref, "0")
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.recent != nil {
		o.recent[ref] = recentObject{read, err}
	}
	return read, err
}

// remember starts keeping answers; the returned function drops them.
func (o *objects) remember() (forget func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.recent = map[objectRef]recentObject{}
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.recent = nil
	}
}

func (o *objects) read(ctx context.Context, ref objectRef, version string) (map[string][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	options := metav1.GetOptions{ResourceVersion: version}
	if ref.kind == "secret" {
		secret, err := o.client.CoreV1().Secrets(ref.namespace).Get(ctx, ref.name, options)
		if err != nil {
			return nil, err
		}
		return secret.Data, nil
	}
	configMap, err := o.client.CoreV1().ConfigMaps(ref.namespace).Get(ctx, ref.name, options)
	if err != nil {
		return nil, err
	}
	return configMapData(configMap), nil
}

func configMapData(configMap *corev1.ConfigMap) map[string][]byte {
	data := make(map[string][]byte, len(configMap.Data)+len(configMap.BinaryData))
	for key, value := range configMap.Data {
		data[key] = []byte(value)
	}
	for key, value := range configMap.BinaryData {
		data[key] = value
	}
	return data
}

// refresh brings the files of every pod in line with objects and tokens as they are now.
func (m *Manager) refresh(ctx context.Context) {
	m.mu.Lock()
	states := make([]*podVolumes, 0, len(m.pods))
	for _, state := range m.pods {
		states = append(states, state)
	}
	m.mu.Unlock()
	if len(states) == 0 {
		return
	}
	defer m.objects.remember()()
	for _, state := range states {
		if ctx.Err() != nil {
			return
		}
		m.refreshPod(ctx, state)
	}
}

func (m *Manager) refreshPod(ctx context.Context, state *podVolumes) {
	state.mu.Lock()
	defer state.mu.Unlock()
	if state.gone {
		return
	}
	pod := state.pod
	if err := m.republish(ctx, pod); err != nil && ctx.Err() == nil {
		m.config.Log.Warn("volumes of drivers not refreshed", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.ConfigMap == nil && v.Secret == nil && v.Projected == nil {
			continue // the downward API changes with the pod, and a changed pod is set up again
		}
		if err := m.refreshFiles(ctx, pod, v); err != nil {
			// The files stay as they are: a container that runs is better off with old content than with none.
			level := m.config.Log.Warn
			if errors.Is(err, errMissing) || ctx.Err() != nil {
				level = m.config.Log.Debug
			}
			level("volume not refreshed", "pod", pod.Namespace+"/"+pod.Name, "volume", v.Name, "err", err)
		}
	}
}

func (m *Manager) refreshFiles(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) error {
	folder := m.path(pod.UID, plugin(v), v.Name)
	if _, err := os.Lstat(filepath.Join(folder, dataLink)); err != nil {
		return nil // not set up yet: the pod's own sync does that, and reports why it cannot
	}
	want, err := m.content(ctx, pod, v, true)
	if err != nil {
		return err
	}
	changed, err := writeFiles(folder, want)
	if err != nil {
		return fmt.Errorf("write volume: %w", err)
	}
	if changed {
		m.config.Log.Debug("volume refreshed", "pod", pod.Namespace+"/"+pod.Name, "volume", v.Name)
	}
	return nil
}

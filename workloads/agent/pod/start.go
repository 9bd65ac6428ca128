package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/cgroup"
	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/translate"
)

// startError is why a container did not start, in the words the API has for it.
type startError struct {
	Reason, Message     string
	Later, LaterMessage string        // what it turns into while the next try is due
	Retry               time.Duration // first delay; 0 means the usual
}

func (e startError) Error() string { return e.Reason + ": " + e.Message }

func asStartError(err error) (startError, bool) {
	var e startError
	ok := errors.As(err, &e)
	return e, ok
}

const (
	reasonConfig = "CreateContainerConfigError"
	reasonCreate = "CreateContainerError"
	reasonRun    = "RunContainerError"
	reasonHook   = "PostStartHookError"
)

func (m *Manager) startContainer(ctx context.Context, a *actor, pod *corev1.Pod, s Step) error {
	c := translate.Find(pod, s.Container)
	if c == nil {
		return fmt.Errorf("start container %q: the pod has none of this name", s.Container)
	}
	a.mu.Lock()
	sandbox, latest := a.runtime.Sandbox(), a.runtime.Latest(c.Name)
	a.mu.Unlock()
	if sandbox == nil {
		return errors.New("start container: its sandbox is gone")
	}
	if s.ID != "" { // made by an earlier try and never started
		if err := m.removeContainer(ctx, pod, s.ID, c.Name, s.Attempt); err != nil {
			return err
		}
	}
	if s.Attempt > 0 { // what died before it may have been hastened
		if _, err := m.conf.Cgroups.EnsurePod(pod); err != nil {
			return err
		}
	}
	in := translate.ContainerInput{Attempt: s.Attempt, Round: s.Round}
	if err := m.images(ctx, pod, c, &in); err != nil {
		return err
	}
	if err := m.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	id, err := m.createContainer(ctx, a, pod, c, sandbox, in)
	if err == nil && latest != nil && latest.State == observed.Exited {
		a.mu.Lock()
		a.backoff[c.Name] = a.backoff[c.Name].next(latest.Ended, m.now(), m.conf.MaxDelay)
		a.mu.Unlock()
	}
	if err == nil {
		err = m.runContainer(ctx, pod, c, id)
	}
	m.slots.Release(1)
	if err != nil {
		return m.startFailed(ctx, pod, err)
	}
	return m.afterStart(ctx, a, pod, c, id)
}

// images has the container's image, and those it mounts as volumes.
func (m *Manager) images(ctx context.Context, pod *corev1.Pod, c *corev1.Container, in *translate.ContainerInput) error {
	image, err := m.image(ctx, pod, c.Image, c.ImagePullPolicy)
	if err != nil {
		return err
	}
	in.ImageRef, in.Image.Username = image.Id, image.Username
	if image.Uid != nil {
		in.Image.UID = &image.Uid.Value
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image == nil || !mounts(c, v.Name) {
			continue
		}
		image, err := m.image(ctx, pod, v.Image.Reference, v.Image.PullPolicy)
		if err != nil {
			return err
		}
		if in.ImageVolumes == nil {
			in.ImageVolumes = map[string]*runtimeapi.ImageSpec{}
		}
		in.ImageVolumes[v.Name] = &runtimeapi.ImageSpec{Image: image.Id, UserSpecifiedImage: v.Image.Reference}
	}
	return nil
}

func mounts(c *corev1.Container, volume string) bool {
	return slices.ContainsFunc(c.VolumeMounts, func(vm corev1.VolumeMount) bool { return vm.Name == volume })
}

// startFailed turns an error into a reason and an event.
func (m *Manager) startFailed(ctx context.Context, pod *corev1.Pod, err error) error {
	if ctx.Err() != nil {
		return err
	}
	var bad translate.ConfigError
	failed, ok := asStartError(err)
	switch {
	case ok:
	case errors.As(err, &bad):
		failed = startError{Reason: reasonConfig, Message: bad.Message}
	default:
		failed = startError{Reason: reasonConfig, Message: err.Error()}
	}
	m.event(pod, corev1.EventTypeWarning, "Failed", "Error: %s", failed.Message)
	return failed
}

func (m *Manager) createContainer(ctx context.Context, a *actor, pod *corev1.Pod, c *corev1.Container, sandbox *observed.Sandbox, in translate.ContainerInput) (string, error) {
	a.mu.Lock()
	volumes, ips := a.volumes, sandbox.IPs
	if pod.Spec.HostNetwork {
		ips = m.conf.Node.IPs
	}
	if target := targetOf(pod, c.Name); target != "" {
		if t := a.runtime.Latest(target); t != nil {
			in.TargetID = t.ID
		}
	}
	a.mu.Unlock()
	var err error
	if in.Env, err = m.environment(ctx, pod, c, ips, volumes); err != nil {
		return "", err
	}
	if in.VolumePaths, err = m.mountPaths(pod, c, volumes, in.Env); err != nil {
		return "", err
	}
	if in.Shared, err = m.shared(pod, ips); err != nil {
		return "", err
	}
	if c.TerminationMessagePath != "" {
		if in.MessageFile, err = m.makeMessageFile(pod, c.Name, in.Attempt); err != nil {
			return "", err
		}
	}
	if in.Users, err = m.usersOf(pod); err != nil {
		return "", err
	}
	in.Place = m.placeOf(pod.UID, c.Name)
	for _, e := range m.conf.Equipment {
		extras, err := e.Equip(ctx, pod, c)
		if err != nil {
			return "", err
		}
		in.Extras.Add(extras)
	}
	if len(in.Extras.CDI) > 0 {
		if err := m.conf.Runtime.ReadDevices(); err != nil {
			return "", err
		}
	}
	conf, err := translate.Container(pod, c, m.conf.Node, in)
	if err != nil {
		return "", err
	}
	sandboxConf, err := translate.Sandbox(pod, m.conf.Node, sandbox.Attempt, m.conf.Cgroups.Pod(cgroup.QOS(pod), pod.UID), in.Users)
	if err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil { // the pod must go: no more is made of it
		return "", err
	}
	ctx, cancel := uncut(ctx)
	defer cancel()
	answer, err := m.conf.Runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox.ID, Config: conf, SandboxConfig: sandboxConf})
	if err != nil {
		return "", startError{Reason: reasonCreate, Message: err.Error()}
	}
	m.event(pod, corev1.EventTypeNormal, "Created", "Container created")
	return answer.ContainerId, nil
}

func targetOf(pod *corev1.Pod, name string) string {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return pod.Spec.EphemeralContainers[i].TargetContainerName
		}
	}
	return ""
}

func (m *Manager) runContainer(ctx context.Context, pod *corev1.Pod, c *corev1.Container, id string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := uncut(ctx)
	defer cancel()
	if _, err := m.conf.Runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		return startError{Reason: reasonRun, Message: fmt.Sprintf("failed to start container %q: %v", id, err)}
	}
	m.event(pod, corev1.EventTypeNormal, "Started", "Container started")
	return nil
}

func (m *Manager) afterStart(ctx context.Context, a *actor, pod *corev1.Pod, c *corev1.Container, id string) error {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	err := m.runHook(ctx, a, pod, c.Name, id, c.Lifecycle.PostStart)
	if err == nil || ctx.Err() != nil {
		return err
	}
	m.event(pod, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed: %v", err)
	m.event(pod, corev1.EventTypeNormal, "Killing", "FailedPostStartHook")
	_, stopErr := m.conf.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: translate.Grace(pod)})
	if stopErr != nil && !errdefs.IsNotFound(stopErr) {
		err = errors.Join(err, stopErr)
	}
	return startError{Reason: reasonHook, Message: err.Error()}
}

func (m *Manager) environment(ctx context.Context, pod *corev1.Pod, c *corev1.Container, ips []string, volumes map[string]string) ([]*runtimeapi.KeyValue, error) {
	services, err := m.services(ctx, pod)
	if err != nil {
		return nil, err
	}
	return translate.Environment(pod, c, m.conf.Node, translate.References{
		Services: services,
		ConfigMap: func(name string) (*corev1.ConfigMap, error) {
			return m.conf.Objects.ConfigMap(ctx, pod.Namespace, name)
		},
		Secret:  func(name string) (*corev1.Secret, error) { return m.conf.Objects.Secret(ctx, pod.Namespace, name) },
		FileKey: func(ref *corev1.FileKeySelector) (string, bool, error) { return fileKey(volumes[ref.VolumeName], ref) },
		PodIPs:  ips,
	})
}

// services waits for the cache, unless the API is away: then the pod starts without their variables rather than not at
// all, and finds services by name.
func (m *Manager) services(ctx context.Context, pod *corev1.Pod) ([]corev1.Service, error) {
	m.mu.Lock()
	synced := m.synced
	m.mu.Unlock()
	if !synced {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, servicesPatience)
		defer cancel()
	}
	services, err := m.conf.Objects.Services(ctx, pod.Namespace)
	if err != nil && !synced {
		m.log.Warn("start container without variables for services, because the API is away", "pod", pod.Namespace+"/"+pod.Name)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	return services, nil
}

const servicesPatience = 2 * time.Second

// mountPaths says where each mount of the container lies on this machine.
func (m *Manager) mountPaths(pod *corev1.Pod, c *corev1.Container, volumes map[string]string, env []*runtimeapi.KeyValue) (map[string]string, error) {
	paths := make(map[string]string, len(c.VolumeMounts)+len(c.VolumeDevices))
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		path, ok := volumes[vm.Name]
		if !ok {
			continue // reported with the mount's name when the configuration is made
		}
		sub := vm.SubPath
		if vm.SubPathExpr != "" {
			var err error
			if sub, err = translate.SubPath(vm.SubPathExpr, env); err != nil {
				return nil, err
			}
		}
		if sub != "" {
			bound, err := m.bindSubpath(pod, c.Name, i, path, sub)
			if err != nil {
				return nil, fmt.Errorf("prepare subPath of volume %q: %w", vm.Name, err)
			}
			path = bound
		}
		paths[translate.MountKey(i)] = path
	}
	for _, d := range c.VolumeDevices {
		if path, ok := volumes[d.Name]; ok {
			paths[d.Name] = path
		}
	}
	return paths, nil
}

package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/translate"
)

// step carries out one decision. It may be cut short by ctx at any point; the next pass sees how far it came.
func (m *Manager) step(ctx context.Context, a *actor, pod *corev1.Pod, s Step) error {
	switch s.Do {
	case Mount:
		return m.mount(ctx, a, pod)
	case Refresh:
		return m.refresh(ctx, a, pod)
	case Resize:
		return m.resize(ctx, a, pod)
	case Move:
		return m.move(ctx, a)
	case CreateSandbox:
		return m.createSandbox(ctx, a, pod, s)
	case StartContainer:
		return m.startContainer(ctx, a, pod, s)
	case KillContainer:
		return m.killContainer(ctx, a, pod, s)
	case RemoveContainer:
		return m.removeContainer(ctx, pod, s.ID, s.Container, s.Attempt)
	case StopSandbox:
		return m.stopSandbox(ctx, a, s.ID)
	case RemoveSandbox:
		return m.removeSandbox(ctx, s.ID)
	case Clean:
		return m.clean(ctx, a, pod)
	case Finish:
		return m.finish(ctx, a, pod)
	}
	return fmt.Errorf("unknown step %q", s.Do)
}

func (m *Manager) mount(ctx context.Context, a *actor, pod *corev1.Pod) error {
	if err := m.remember(a, pod); err != nil { // before anything of the pod exists
		m.log.Warn("note pod on disk; it will not be started after a reboot without the API", "pod", pod.Namespace+"/"+pod.Name, "error", err)
	}
	paths, err := m.conf.Volumes.Mount(ctx, pod)
	if err != nil {
		if ctx.Err() == nil {
			m.event(pod, corev1.EventTypeWarning, "FailedMount", "%v", err)
		}
		return fmt.Errorf("mount volumes: %w", err)
	}
	a.mu.Lock()
	a.volumes, a.mounted, a.cleaned = paths, true, false
	a.mu.Unlock()
	return nil
}

// remember what the API wants. A static pod's file is memory enough.
func (m *Manager) remember(a *actor, pod *corev1.Pod) error {
	if a.mirrored != nil {
		return nil
	}
	return m.store.save(pod)
}

func (m *Manager) refresh(ctx context.Context, a *actor, pod *corev1.Pod) error {
	if err := m.conf.Volumes.Update(ctx, pod); err != nil {
		return fmt.Errorf("refresh volumes: %w", err)
	}
	a.mu.Lock()
	a.relabeled = relabeled(pod, a.pod) // again, if it changed meanwhile
	a.mu.Unlock()
	return nil
}

func (m *Manager) createSandbox(ctx context.Context, a *actor, pod *corev1.Pod, s Step) error {
	if err := m.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	defer m.slots.Release(1)
	a.mu.Lock()
	older := a.runtime.Sandboxes
	a.mu.Unlock()
	for i := range older { // their addresses must be free before the pod gets a new one
		if err := m.stopSandbox(ctx, a, older[i].ID); err != nil {
			return err
		}
	}
	if err := m.removeShm(pod); err != nil {
		return err
	}
	err := m.runSandbox(ctx, pod, s.Attempt)
	if err != nil && ctx.Err() == nil {
		m.event(pod, corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
	}
	return err
}

// makingPatience is far beyond what making a sandbox or a container takes on a machine that works at all.
const makingPatience = time.Minute

// uncut is for calls to the runtime that make something. They are not to be cut short when the pod must go meanwhile: a
// shim, a runc or a task that is interrupted half-way is known to nobody, and stays for ever.
func uncut(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), makingPatience)
}

func (m *Manager) runSandbox(ctx context.Context, pod *corev1.Pod, attempt uint32) error {
	parent, err := m.conf.Cgroups.EnsurePod(pod)
	if err != nil {
		return err
	}
	users, err := m.usersOf(pod)
	if err != nil {
		return err
	}
	conf, err := translate.Sandbox(pod, m.conf.Node, attempt, parent, users)
	if err != nil {
		return err
	}
	handler, err := m.handler(ctx, pod)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(conf.LogDirectory, 0o755); err != nil {
		return fmt.Errorf("make the pod's log folder: %w", err)
	}
	ctx, cancel := uncut(ctx)
	defer cancel()
	if _, err := m.conf.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: conf, RuntimeHandler: handler}); err != nil {
		return err
	}
	return nil
}

// handler is what the runtime is to run a pod by: what its RuntimeClass says, "" for the usual
// (https://kubernetes.io/docs/concepts/containers/runtime-class/). One that the runtime does not have is its own refusal, never another
// in its place: a pod may name it for being kept apart.
func (m *Manager) handler(ctx context.Context, pod *corev1.Pod) (string, error) {
	name := ptr.Deref(pod.Spec.RuntimeClassName, "")
	if name == "" {
		return "", nil
	}
	class, err := m.conf.Objects.RuntimeClass(ctx, name)
	if err != nil {
		return "", fmt.Errorf("look up RuntimeClass %q: %w", name, err)
	}
	return class.Handler, nil
}

// dyingPatience is how long a process may take to die of SIGKILL. One that does not was frozen meanwhile, or waits for a
// disk; it is tried again.
const dyingPatience = 10 * time.Second

// hasteAfter is how long a container may take to die of SIGKILL before its CPU quota is taken for what holds it up. All but fork
// bombs are long gone by then.
const hasteAfter = time.Second

func (m *Manager) killContainer(ctx context.Context, a *actor, pod *corev1.Pod, s Step) error {
	m.event(pod, corev1.EventTypeNormal, "Killing", "%s", s.Message)
	m.thaw(pod)
	m.conf.Prober.Stop(pod.UID, s.Container)
	grace := time.Duration(s.Grace) * time.Second
	end := m.now().Add(grace)
	if hook := preStop(pod, s.Container); hook != nil && grace > 0 {
		hookCtx, cancel := context.WithTimeout(ctx, grace)
		if err := m.runHook(hookCtx, a, pod, s.Container, s.ID, hook); err != nil && ctx.Err() == nil {
			m.event(pod, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed: %v", err)
		}
		cancel()
	}
	left := int64(0)
	if s.Grace > 0 {
		// A hook that used the time up still leaves the process a moment to end by itself.
		left = max(int64(end.Sub(m.now()).Round(time.Second)/time.Second), 2)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(left)*time.Second+dyingPatience)
	defer cancel()
	defer time.AfterFunc(time.Duration(left)*time.Second+hasteAfter, func() { m.hasten(a, pod, s) }).Stop()
	_, err := m.conf.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: s.ID, Timeout: left})
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("stop container %s: %w", s.Container, err)
	}
	return nil
}

// thaw a pod that must go: whatever froze it, its processes are to hear of it.
func (m *Manager) thaw(pod *corev1.Pod) {
	if err := m.conf.Cgroups.Thaw(pod); err != nil {
		m.log.Warn("what is frozen of the pod may not end", "pod", pod.Namespace+"/"+pod.Name, "error", err)
	}
}

// hasten what has its SIGKILL. Where nothing else runs in the pod, its own quota goes too: it is back when something starts in it.
func (m *Manager) hasten(a *actor, pod *corev1.Pod, s Step) {
	a.mu.Lock()
	alone := !slices.ContainsFunc(a.runtime.Alive(), func(c observed.Container) bool { return c.ID != s.ID })
	a.mu.Unlock()
	if err := m.conf.Cgroups.Hasten(pod, s.ID, s.Last || alone); err != nil {
		m.log.Warn("container dies only as fast as its CPU quota lets it", "pod", pod.Namespace+"/"+pod.Name, "container", s.Container, "error", err)
	}
}

func (m *Manager) removeContainer(ctx context.Context, pod *corev1.Pod, id, name string, attempt uint32) error {
	if _, err := m.conf.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove container %s: %w", name, err)
	}
	removeLogs(filepath.Join(m.conf.Node.LogRoot, translate.LogFolder(pod), translate.LogFile(name, attempt)))
	return ignoreMissing(os.Remove(m.messageFile(pod, name, attempt)))
}

func (m *Manager) stopSandbox(ctx context.Context, a *actor, id string) error {
	if _, err := m.conf.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	a.mu.Lock()
	a.stopped[id] = true
	a.mu.Unlock()
	return nil
}

func (m *Manager) removeSandbox(ctx context.Context, id string) error {
	if _, err := m.conf.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	return nil
}

// clean gives back what a pod holds of the machine once its containers have stopped. Their messages and logs stay.
func (m *Manager) clean(ctx context.Context, a *actor, pod *corev1.Pod) error {
	m.conf.Prober.Stop(pod.UID, "")
	if err := m.unmountSubpaths(pod); err != nil {
		return err
	}
	if err := m.conf.Volumes.Unmount(ctx, pod.UID); err != nil {
		return fmt.Errorf("unmount volumes: %w", err)
	}
	for _, e := range m.conf.Equipment {
		if err := e.Release(ctx, pod.UID); err != nil {
			return fmt.Errorf("release devices: %w", err)
		}
	}
	if err := m.conf.Cgroups.Remove(pod.UID); err != nil {
		return err
	}
	if err := m.removeShared(pod); err != nil {
		return err
	}
	if err := m.users.Release(pod.UID); err != nil {
		return err
	}
	a.mu.Lock()
	a.mounted, a.volumes, a.cleaned = false, nil, true
	a.mu.Unlock()
	m.retryResizes()
	return nil
}

// finish lets the API object go, then removes the last traces. A crash in between leaves traces of a pod nobody wants,
// which the next start removes.
func (m *Manager) finish(ctx context.Context, a *actor, pod *corev1.Pod) error {
	a.mu.Lock()
	gone, rt := a.gone, a.runtime
	a.mu.Unlock()
	if !gone {
		err := m.conf.Client.Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64),
			Preconditions:      &metav1.Preconditions{UID: &pod.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete the pod's API object: %w", err)
		}
	}
	for name, runs := range rt.Containers {
		for _, c := range runs {
			if err := m.removeContainer(ctx, pod, c.ID, name, c.Attempt); err != nil {
				return err
			}
		}
	}
	for _, sandbox := range rt.Sandboxes {
		if err := m.removeSandbox(ctx, sandbox.ID); err != nil {
			return err
		}
	}
	err := errors.Join(
		removeLogFolder(m.conf.Node.LogRoot, pod),
		m.removeFiles(pod),
		m.store.remove(pod.UID),
	)
	if err != nil {
		return fmt.Errorf("remove the pod's files: %w", err)
	}
	m.forget(a)
	return nil
}

func removeLogFolder(root string, pod *corev1.Pod) error {
	if pod.Name == "" || pod.UID == "" {
		return nil // an orphan whose sandbox did not say whose it was
	}
	return os.RemoveAll(filepath.Join(root, translate.LogFolder(pod)))
}

// removeLogs removes a run's log and its rotated parts.
func removeLogs(path string) {
	parts, err := filepath.Glob(path + ".*")
	if err != nil {
		return
	}
	for _, p := range append(parts, path) {
		_ = os.Remove(p) // the folder goes with the pod anyway
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

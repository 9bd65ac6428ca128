package pod

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/credentials"
	"knarr.dev/knarr/workloads/agent/translate"
)

const (
	errPull     = "ErrImagePull"
	pullBackOff = "ImagePullBackOff"
)

// image makes sure that a container's or a volume's image is on this machine, as its pull policy wants.
func (m *Manager) image(ctx context.Context, pod *corev1.Pod, name string, policy corev1.PullPolicy) (*runtimeapi.Image, error) {
	if strings.TrimSpace(name) == "" {
		return nil, startError{Reason: "InvalidImageName", Message: "container has no image"}
	}
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		m.event(pod, corev1.EventTypeWarning, "InspectFailed", "Failed to apply default image tag %q: %v", name, err)
		return nil, startError{Reason: "InvalidImageName", Message: fmt.Sprintf("Failed to apply default image tag %q: %v", name, err)}
	}
	present, err := m.imageStatus(ctx, name)
	if err != nil {
		return nil, startError{Reason: "ImageInspectError", Message: fmt.Sprintf("Failed to inspect image %q: %v", name, err)}
	}
	if present == nil {
		m.conf.Runtime.WaitForImports() // it may be in an archive that is being read right now
		if present, err = m.imageStatus(ctx, name); err != nil {
			return nil, startError{Reason: "ImageInspectError", Message: err.Error()}
		}
	}
	if policy == "" {
		policy = corev1.PullIfNotPresent
	}
	switch {
	case policy == corev1.PullAlways:
	case present != nil && m.mayHave(ctx, pod, present.Id, ref):
		m.event(pod, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine", name)
		return present, nil
	case policy == corev1.PullNever:
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", name)
		if present != nil {
			msg = fmt.Sprintf("Container image %q was pulled with credentials this pod does not have, and its pull policy is Never", name)
		}
		m.event(pod, corev1.EventTypeWarning, "ErrImageNeverPull", "%s", msg)
		return nil, startError{Reason: "ErrImageNeverPull", Message: msg, Retry: 10 * time.Second}
	}
	if err := m.pull(ctx, pod, name, ref); err != nil {
		return nil, err
	}
	present, err = m.imageStatus(ctx, name)
	if err == nil && present == nil {
		err = fmt.Errorf("image %q is not there after its pull; it may have been removed to free space", name)
	}
	if err != nil {
		return nil, startError{Reason: "ImageInspectError", Message: err.Error()}
	}
	return present, nil
}

func (m *Manager) imageStatus(ctx context.Context, name string) (*runtimeapi.Image, error) {
	answer, err := m.conf.Runtime.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	if err != nil {
		return nil, err
	}
	return answer.Image, nil
}

func (m *Manager) pull(ctx context.Context, pod *corev1.Pod, name string, ref reference.Named) error {
	if err := m.pulls.Acquire(ctx, 1); err != nil {
		return err
	}
	defer m.pulls.Release(1)
	m.event(pod, corev1.EventTypeNormal, "Pulling", "Pulling image %q", name)
	began := m.now()
	conf, err := translate.Sandbox(pod, m.conf.Node, 0, "", nil)
	if err != nil {
		return err
	}
	if err := m.pulled.Pulling(ref.Name()); err != nil {
		return err
	}
	var used *credentials.Login
	var answer *runtimeapi.PullImageResponse
	for _, login := range append(pointers(m.logins(ctx, pod, ref)), nil) {
		used = login
		answer, err = m.conf.Runtime.PullImage(ctx, &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: ref.String(), UserSpecifiedImage: name}, Auth: authOf(login, ref), SandboxConfig: conf,
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = m.pulled.Pulled(answer.ImageRef, ref.Name(), used)
	} else if forgot := m.pulled.Failed(ref.Name()); forgot != nil {
		m.log.Warn("note that a pull failed", "image", name, "error", forgot)
	}
	if err != nil {
		m.event(pod, corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", name, err)
		m.event(pod, corev1.EventTypeWarning, "Failed", "Error: %s", errPull)
		return startError{
			Reason: errPull, Message: err.Error(), Retry: firstDelay,
			Later: pullBackOff, LaterMessage: fmt.Sprintf("Back-off pulling image %q: %s: %v", name, errPull, err),
		}
	}
	m.event(pod, corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %s", name, m.now().Sub(began).Truncate(time.Millisecond))
	return nil
}

// mayHave says whether the pod may have an image that is here: it was not pulled with a login, or the pod has it, too.
func (m *Manager) mayHave(ctx context.Context, pod *corev1.Pod, image string, ref reference.Named) bool {
	needs, err := m.pulled.NeedsLogin(image, ref.Name())
	if err == nil && !needs {
		return true
	}
	allowed := false
	if err == nil {
		allowed, err = m.pulled.Allows(image, ref.Name(), m.logins(ctx, pod, ref))
	}
	if err != nil {
		m.log.Warn("who may have an image cannot be read; it is pulled again", "image", ref.String(), "error", err)
	}
	return allowed
}

// logins are what the pod's pull secrets and this machine's providers have for the image. A secret that is missing is
// skipped: the image may well be public.
func (m *Manager) logins(ctx context.Context, pod *corev1.Pod, ref reference.Named) []credentials.Login {
	var out []credentials.Login
	for _, s := range pod.Spec.ImagePullSecrets {
		secret, err := m.conf.Objects.Secret(ctx, pod.Namespace, s.Name)
		if err != nil {
			m.event(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", s.Name)
			continue
		}
		out = append(out, credentials.FromSecret(secret, ref)...)
	}
	return append(out, m.conf.Providers.Logins(ctx, pod, ref)...)
}

// authOf is a login in the runtime's words, for the image's registry alone.
func authOf(login *credentials.Login, ref reference.Named) *runtimeapi.AuthConfig {
	if login == nil {
		return nil
	}
	return &runtimeapi.AuthConfig{
		Username: login.Username, Password: login.Password, IdentityToken: login.IdentityToken, ServerAddress: reference.Domain(ref),
	}
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// rememberImages forgets who might have images that are not here any more.
func (m *Manager) rememberImages(ctx context.Context) error {
	list, err := m.conf.Runtime.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return err
	}
	here := make([]string, len(list.Images))
	for i, image := range list.Images {
		here[i] = image.Id
	}
	return m.pulled.Keep(here)
}

package pod

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	case present != nil:
		m.event(pod, corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine", name)
		return present, nil
	case policy == corev1.PullNever:
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", name)
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
	conf, err := translate.Sandbox(pod, m.conf.Node, 0, "")
	if err != nil {
		return err
	}
	err = nil
	for _, auth := range append(m.credentials(ctx, pod, ref), nil) {
		_, err = m.conf.Runtime.PullImage(ctx, &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: ref.String(), UserSpecifiedImage: name}, Auth: auth, SandboxConfig: conf,
		})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
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

// credentials are what the pod's pull secrets say about the image's registry. A secret that is missing is skipped: the
// image may well be public.
func (m *Manager) credentials(ctx context.Context, pod *corev1.Pod, ref reference.Named) []*runtimeapi.AuthConfig {
	var out []*runtimeapi.AuthConfig
	for _, s := range pod.Spec.ImagePullSecrets {
		secret, err := m.conf.Objects.Secret(ctx, pod.Namespace, s.Name)
		if err != nil {
			m.event(pod, corev1.EventTypeWarning, "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", s.Name)
			continue
		}
		out = append(out, registryAuth(secret, ref)...)
	}
	return out
}

type dockerAuth struct {
	Username, Password, Auth, IdentityToken string
}

// registryAuth finds the entries of a docker configuration that match an image's registry and path.
func registryAuth(secret *corev1.Secret, ref reference.Named) []*runtimeapi.AuthConfig {
	entries := map[string]dockerAuth{}
	var err error
	if data, ok := secret.Data[corev1.DockerConfigJsonKey]; ok {
		var file struct{ Auths map[string]dockerAuth }
		err = json.Unmarshal(data, &file)
		entries = file.Auths
	} else if data, ok := secret.Data[corev1.DockerConfigKey]; ok {
		err = json.Unmarshal(data, &entries)
	}
	if err != nil {
		return nil
	}
	var out []*runtimeapi.AuthConfig
	for key, e := range entries {
		if !authMatches(key, ref) {
			continue
		}
		if e.Username == "" && e.Auth != "" {
			if plain, err := base64.StdEncoding.DecodeString(e.Auth); err == nil {
				e.Username, e.Password, _ = strings.Cut(string(plain), ":")
			}
		}
		out = append(out, &runtimeapi.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, ServerAddress: reference.Domain(ref)})
	}
	return out
}

// authMatches compares a key such as https://registry.example/v1/, *.example or registry.example/team with an image.
func authMatches(key string, ref reference.Named) bool {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(key, "/"), "/v1"), "/v2")
	host, path, _ := strings.Cut(key, "/")
	domain := reference.Domain(ref)
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		_, parent, found := strings.Cut(domain, ".")
		if !found || parent != rest {
			return false
		}
	} else if host != domain {
		return false
	}
	return path == "" || reference.Path(ref) == path || strings.HasPrefix(reference.Path(ref), path+"/")
}

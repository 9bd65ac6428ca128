package runtime

import (
	"context"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PullImage is CRI's, but a login goes to the registry it names (ServerAddress, as images name it) and to nobody else:
// mirrors and other registries get this machine's own.
func (r *Runtime) PullImage(ctx context.Context, q *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if r.remote != nil {
		return r.remote.PullImage(ctx, withAddress(q))
	}
	login := func(host string) (user, secret string, err error) {
		user, secret = chooseLogin(q.Auth, host, r.login)
		return user, secret, nil
	}
	ref, err := r.handle.images.PullImage(in(ctx), q.GetImage().GetImage(), login, q.SandboxConfig, q.GetImage().GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: ref}, nil
}

// withAddress names the registry a login is for as CRI has it, which is a URL: whoever runs the containers gives it to nobody
// else then.
func withAddress(q *runtimeapi.PullImageRequest) *runtimeapi.PullImageRequest {
	if q.Auth.GetServerAddress() == "" {
		return q
	}
	q = proto.CloneOf(q)
	q.Auth.ServerAddress = "https://" + hostOf(q.Auth.ServerAddress)
	return q
}

// hostOf is who answers for a registry.
func hostOf(registry string) string {
	if registry == "docker.io" {
		return "registry-1.docker.io"
	}
	return registry
}

// chooseLogin is the login for one of the hosts a pull asks.
func chooseLogin(given *runtimeapi.AuthConfig, host string, own func(host string) (user, secret string)) (user, secret string) {
	if given == nil {
		return own(host)
	}
	switch {
	case hostOf(given.ServerAddress) != host:
		return own(host)
	case given.Username == "" && given.IdentityToken != "":
		return "", given.IdentityToken // containerd trades a secret without a user for a token
	}
	return given.Username, given.Password
}

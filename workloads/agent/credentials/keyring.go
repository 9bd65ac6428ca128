// Package credentials knows with which logins an image may be pulled.
//
// In:       pull secrets of pods, and the credential provider programs of this machine (CredentialProviderConfig, as
// https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/ has it).
// Out:      the logins for one image, the most fitting first, each with where it comes from.
// Promise:  no login is in an error or a log; a provider that fails or hangs costs its own logins only.
// Not here: logins of this machine's own for registries and their mirrors (workloads/agent/registries), pulling.
package credentials

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
)

// Login proves to a registry who asks.
type Login struct {
	Username, Password, IdentityToken string
	From                              Source
}

// Source is where a login comes from, and so which pods may have what was pulled with it.
type Source struct {
	Kind                 Kind
	UID, Namespace, Name string // of the Secret or the ServiceAccount
}

// Kind of a source.
type Kind string

const (
	Secret  Kind = "Secret"         // the pods that name it
	Account Kind = "ServiceAccount" // the pods that run as it: a provider was told which
	Machine Kind = "Machine"        // every pod here: a provider was not told for whom
)

// Hash tells two logins apart without showing them.
func (l Login) Hash() string {
	text, _ := json.Marshal([]string{l.Username, l.Password, l.IdentityToken}) // strings cannot fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// dockerEntry is one login of a docker configuration.
type dockerEntry struct {
	Username, Password, Auth, IdentityToken string
}

// FromSecret finds the logins of a pull secret that fit an image. A secret that cannot be read has none.
func FromSecret(secret *corev1.Secret, image reference.Named) []Login {
	entries := map[string]dockerEntry{}
	var err error
	if data, ok := secret.Data[corev1.DockerConfigJsonKey]; ok {
		var file struct{ Auths map[string]dockerEntry }
		err = json.Unmarshal(data, &file)
		entries = file.Auths
	} else if data, ok := secret.Data[corev1.DockerConfigKey]; ok {
		err = json.Unmarshal(data, &entries)
	}
	if err != nil {
		return nil
	}
	from := Source{Kind: Secret, UID: string(secret.UID), Namespace: secret.Namespace, Name: secret.Name}
	var out []Login
	for _, key := range fitting(entries, image) {
		e := entries[key]
		if e.Username == "" && e.Auth != "" {
			if plain, err := base64.StdEncoding.DecodeString(e.Auth); err == nil {
				e.Username, e.Password, _ = strings.Cut(string(plain), ":")
			}
		}
		out = append(out, Login{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, From: from})
	}
	return out
}

// fitting are the keys that match an image: longer ones before shorter ones, names before patterns.
func fitting[T any](entries map[string]T, image reference.Named) []string {
	var keys []string
	for key := range entries {
		if Match(key, image) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	slices.Reverse(keys)
	return keys
}

// Match compares a key such as https://registry.example/v1/, *.example or registry.example:5000/team with an image. A *
// stands for any part of one label of the host, not in the port nor in the path.
func Match(key string, image reference.Named) bool {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(key, "/"), "/v1"), "/v2")
	host, folder, _ := strings.Cut(key, "/")
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if !matchHost(host, reference.Domain(image)) {
		return false
	}
	return folder == "" || reference.Path(image) == folder || strings.HasPrefix(reference.Path(image), folder+"/")
}

func matchHost(pattern, host string) bool {
	pattern, wantPort, hasPort := strings.Cut(pattern, ":")
	host, port, _ := strings.Cut(host, ":")
	if hasPort && wantPort != port {
		return false
	}
	want, have := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

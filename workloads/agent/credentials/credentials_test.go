package credentials

import (
	"encoding/base64"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func named(t *testing.T, image string) reference.Named {
	t.Helper()
	ref, err := reference.ParseDockerRef(image)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestMatch(t *testing.T) {
	tests := map[string]struct {
		key, image string
		want       bool
	}{
		"a registry matches its images":                   {"registry.example", "registry.example/team/app:1", true},
		"a port that is not asked for does not matter":    {"registry.example", "registry.example:5000/app", true},
		"another port is another registry":                {"registry.example:5000", "registry.example:5001/app", false},
		"the old address of Docker Hub is Docker Hub":     {"https://index.docker.io/v1/", "busybox", true},
		"a folder matches what is in it":                  {"registry.example/team", "registry.example/team/app", true},
		"a folder does not match one that begins like it": {"registry.example/team", "registry.example/teams/app", false},
		"a star is one label":                             {"*.example", "registry.example/app", true},
		"a star is not two labels":                        {"*.example", "a.registry.example/app", false},
		"a star may be a part of a label":                 {"reg*.*.example", "registry.eu.example/app", true},
		"another registry does not match":                 {"registry.example", "registry.other/app", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Match(tc.key, named(t, tc.image)); got != tc.want {
				t.Errorf("Match(%q, %q) = %v", tc.key, tc.image, got)
			}
		})
	}
}

func TestFromSecret(t *testing.T) {
	both := base64.StdEncoding.EncodeToString([]byte("hub:pass:word"))
	tests := map[string]struct {
		data  map[string][]byte
		image string
		want  []string
	}{
		"the longest key comes first": {
			data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths": {
				"registry.example": {"username": "all", "password": "a"},
				"registry.example/team": {"username": "team", "password": "b"},
				"registry.other": {"username": "other", "password": "c"}}}`)},
			image: "registry.example/team/app",
			want:  []string{"team:b", "all:a"},
		},
		"name and password may be one text": {
			data:  map[string][]byte{corev1.DockerConfigKey: []byte(`{"https://index.docker.io/v1/": {"auth": "` + both + `"}}`)},
			image: "busybox",
			want:  []string{"hub:pass:word"},
		},
		"what cannot be read is nothing": {data: map[string][]byte{corev1.DockerConfigJsonKey: []byte("{")}, image: "busybox"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, login := range FromSecret(&corev1.Secret{Data: tc.data}, named(t, tc.image)) {
				got = append(got, login.Username+":"+login.Password)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("logins (-want +got):\n%s", diff)
			}
		})
	}
}

// provider writes a program that notes each run and what it was asked, and its configuration.
func provider(t *testing.T, script, more string) (file, folder, runs string) {
	t.Helper()
	folder = t.TempDir()
	runs = filepath.Join(folder, "runs")
	text := "#!/bin/sh\ncat >> " + runs + "\necho >> " + runs + "\n" + script
	if err := os.WriteFile(filepath.Join(folder, "keys"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(folder, "config.yaml")
	config := `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: keys
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.example"]
  defaultCacheDuration: 5m
  args: [get]
  env: [{name: GREETING, value: hello}]
` + more
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, folder, runs
}

const answered = `cat <<END
{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderResponse", "cacheKeyType": "Registry",
 "auth": {"registry.example": {"username": "$GREETING", "password": "$1"}, "other.example": {"username": "no", "password": "no"}}}
END
`

func asked(t *testing.T, runs string) []string {
	t.Helper()
	text, err := os.ReadFile(runs)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' })
}

func TestProviders(t *testing.T) {
	file, folder, runs := provider(t, answered, "")
	providers, err := Load(file, folder, fake.NewClientset().CoreV1(), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	providers.now = func() time.Time { return now }
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}}
	want := []Login{{Username: "hello", Password: "get", From: Source{Kind: Machine}}}
	for range 2 {
		if diff := cmp.Diff(want, providers.Logins(t.Context(), pod, named(t, "registry.example/app:1"))); diff != "" {
			t.Errorf("logins (-want +got):\n%s", diff)
		}
	}
	if got := asked(t, runs); len(got) != 1 || !strings.Contains(got[0], `"image":"registry.example/app:1"`) {
		t.Errorf("the provider was asked %q; want once, for the image", got)
	}
	now = now.Add(5 * time.Minute)
	providers.Logins(t.Context(), pod, named(t, "registry.example/second"))
	if got := asked(t, runs); len(got) != 2 {
		t.Errorf("an answer of five minutes ago was used again: asked %q", got)
	}
	if got := providers.Logins(t.Context(), pod, named(t, "busybox")); got != nil || len(asked(t, runs)) != 2 {
		t.Errorf("an image nobody knows has logins: %v", got)
	}
}

func TestProviderIsToldTheServiceAccount(t *testing.T) {
	file, folder, runs := provider(t, answered, `  tokenAttributes:
    serviceAccountTokenAudience: registry
    cacheType: ServiceAccount
    requireServiceAccount: true
    requiredServiceAccountAnnotationKeys: [team]
`)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app", UID: types.UID("u"), Annotations: map[string]string{"team": "blue", "more": "x"}}}
	api := fake.NewClientset(account)
	api.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{Token: "of-the-account"}}, nil
	})
	providers, err := Load(file, folder, api.CoreV1(), slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "app"}, Spec: corev1.PodSpec{ServiceAccountName: "app"}}
	logins := providers.Logins(t.Context(), pod, named(t, "registry.example/app"))
	if len(logins) != 1 || logins[0].From != (Source{Kind: Account, UID: "u", Namespace: "default", Name: "app"}) {
		t.Errorf("logins %+v; want one of the service account", logins)
	}
	if got := asked(t, runs); len(got) != 1 || !strings.Contains(got[0], `"serviceAccountToken":"of-the-account","serviceAccountAnnotations":{"team":"blue"}`) {
		t.Errorf("the provider was asked %q; want the annotation team", got)
	}
	pod.Spec.ServiceAccountName = ""
	if logins := providers.Logins(t.Context(), pod, named(t, "registry.example/app")); logins != nil {
		t.Errorf("a pod without a service account got %+v", logins)
	}
}

func TestProviderThatFails(t *testing.T) {
	for name, script := range map[string]string{
		"it ends with an error":      "echo no >&2; exit 1\n",
		"it answers something else":  "echo secret\n",
		"it answers an unknown kind": `echo '{"apiVersion": "v2", "kind": "x", "cacheKeyType": "Image"}'` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			file, folder, _ := provider(t, script, "")
			var log strings.Builder
			providers, err := Load(file, folder, fake.NewClientset().CoreV1(), slog.New(slog.NewTextHandler(&log, nil)))
			if err != nil {
				t.Fatal(err)
			}
			if logins := providers.Logins(t.Context(), &corev1.Pod{}, named(t, "registry.example/app")); logins != nil {
				t.Errorf("logins %+v", logins)
			}
			if !strings.Contains(log.String(), "provider=keys") || strings.Contains(log.String(), "secret") {
				t.Errorf("log: %s", log.String())
			}
		})
	}
}

func TestLoadSaysAllThatIsWrong(t *testing.T) {
	file, folder, _ := provider(t, answered, "- name: ../keys\n  matchImages: []\n")
	_, err := Load(file, folder, nil, slog.Default())
	for _, words := range []string{"../keys", "matchImages", "apiVersion", "defaultCacheDuration"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q is not said in: %v", words, err)
		}
	}
}

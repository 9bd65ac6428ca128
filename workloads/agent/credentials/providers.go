package credentials

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	configv1 "k8s.io/kubelet/config/v1"
	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/yaml"
)

const (
	configVersion  = "kubelet.config.k8s.io/v1"
	requestVersion = "credentialprovider.kubelet.k8s.io/v1"
	// runFor bounds one run of a provider, as upstream does.
	runFor = time.Minute
)

// Providers are the credential provider programs of this machine. None is run before an image it knows is pulled.
type Providers struct {
	folder   string
	list     []configv1.CredentialProvider
	accounts corev1client.ServiceAccountsGetter
	log      *slog.Logger
	now      func() time.Time

	mu     sync.Mutex
	recent map[cacheKey]answer
	asking map[string]*sync.Mutex // by provider: a burst of pods asks once
}

type cacheKey struct{ provider, image, account string }

type answer struct {
	logins map[string]providerv1.AuthConfig
	until  time.Time
}

// Load reads the providers' configuration; the programs lie in folder.
func Load(file, folder string, accounts corev1client.ServiceAccountsGetter, log *slog.Logger) (*Providers, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read image-credential-provider-config: %w", err)
	}
	config := &configv1.CredentialProviderConfig{}
	if err := yaml.UnmarshalStrict(text, config); err != nil {
		return nil, fmt.Errorf("read image-credential-provider-config %s: %w", file, err)
	}
	if err := check(config, folder); err != nil {
		return nil, fmt.Errorf("image-credential-provider-config %s: %w", file, err)
	}
	return &Providers{
		folder: folder, list: config.Providers, accounts: accounts, log: log.With("component", "credentials"), now: time.Now,
		recent: map[cacheKey]answer{}, asking: map[string]*sync.Mutex{},
	}, nil
}

// check says everything that is wrong with a configuration at once.
func check(config *configv1.CredentialProviderConfig, folder string) error {
	var problems []error
	report := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if config.APIVersion != configVersion || config.Kind != "CredentialProviderConfig" {
		report("is %s %q: write apiVersion: %s and kind: CredentialProviderConfig", config.APIVersion, config.Kind, configVersion)
	}
	if len(config.Providers) == 0 {
		report("names no provider: add one, or remove the setting")
	}
	seen := map[string]bool{}
	for i := range config.Providers {
		p := &config.Providers[i]
		switch {
		case p.Name == "" || p.Name != filepath.Base(p.Name) || p.Name == "." || p.Name == "..":
			report("provider %d: name %q is not the name of a program in image-credential-provider-bin-dir", i, p.Name)
		case seen[p.Name]:
			report("provider %q is there twice", p.Name)
		default:
			if _, err := os.Stat(filepath.Join(folder, p.Name)); err != nil {
				report("provider %q: %w; set image-credential-provider-bin-dir to the folder it is in", p.Name, err)
			}
		}
		seen[p.Name] = true
		if len(p.MatchImages) == 0 {
			report("provider %q: matchImages is empty: say for which images it is asked", p.Name)
		}
		if p.APIVersion != requestVersion {
			report("provider %q: apiVersion is %q: it must be %s", p.Name, p.APIVersion, requestVersion)
		}
		if p.DefaultCacheDuration == nil || p.DefaultCacheDuration.Duration < 0 {
			report("provider %q: defaultCacheDuration is missing or negative: write one such as 5m", p.Name)
		}
		if t := p.TokenAttributes; t != nil {
			if t.ServiceAccountTokenAudience == "" || t.RequireServiceAccount == nil {
				report("provider %q: tokenAttributes needs serviceAccountTokenAudience and requireServiceAccount", p.Name)
			}
			if t.CacheType != configv1.TokenServiceAccountTokenCacheType && t.CacheType != configv1.ServiceAccountServiceAccountTokenCacheType {
				report("provider %q: tokenAttributes.cacheType is %q: use Token or ServiceAccount", p.Name, t.CacheType)
			}
		}
	}
	return errors.Join(problems...)
}

// Logins asks every provider that knows the image. A provider that fails is told of in the log.
func (p *Providers) Logins(ctx context.Context, pod *corev1.Pod, image reference.Named) []Login {
	if p == nil {
		return nil
	}
	var out []Login
	for i := range p.list {
		provider := &p.list[i]
		if !slices.ContainsFunc(provider.MatchImages, func(key string) bool { return Match(key, image) }) {
			continue
		}
		logins, err := p.ask(ctx, provider, pod, image)
		if err != nil && ctx.Err() == nil {
			p.log.Warn("no credentials from a provider", "provider", provider.Name, "image", image.Name(), "pod", pod.Namespace+"/"+pod.Name, "error", err)
		}
		out = append(out, logins...)
	}
	return out
}

// asker is the service account a provider is told of.
type asker struct {
	from        Source
	token       string
	annotations map[string]string
	key         string // tells apart what may be remembered separately
}

func (p *Providers) ask(ctx context.Context, provider *configv1.CredentialProvider, pod *corev1.Pod, image reference.Named) ([]Login, error) {
	who := asker{from: Source{Kind: Machine}}
	if provider.TokenAttributes != nil {
		var err error
		var skip bool
		if who, skip, err = p.account(ctx, provider.TokenAttributes, pod); err != nil || skip {
			return nil, err
		}
	}
	p.mu.Lock()
	one := p.asking[provider.Name]
	if one == nil {
		one = &sync.Mutex{}
		p.asking[provider.Name] = one
	}
	p.mu.Unlock()
	one.Lock()
	defer one.Unlock()
	entries, known := p.remembered(provider.Name, who.key, image)
	if !known {
		response, err := p.run(ctx, provider, who, image)
		if err != nil {
			return nil, err
		}
		entries = response.Auth
		p.remember(provider, who.key, image, response)
	}
	var out []Login
	for _, key := range fitting(entries, image) {
		out = append(out, Login{Username: entries[key].Username, Password: entries[key].Password, From: who.from})
	}
	return out, nil
}

// account is who a provider is told the image is for. Skip: it does not want to be asked for this pod.
func (p *Providers) account(ctx context.Context, want *configv1.ServiceAccountTokenAttributes, pod *corev1.Pod) (who asker, skip bool, err error) {
	name := pod.Spec.ServiceAccountName
	if name == "" {
		return asker{from: Source{Kind: Machine}}, *want.RequireServiceAccount, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	accounts := p.accounts.ServiceAccounts(pod.Namespace)
	account, err := accounts.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return asker{}, false, fmt.Errorf("read serviceaccount %s/%s: %w", pod.Namespace, name, err)
	}
	notes := map[string]string{}
	for _, key := range want.RequiredServiceAccountAnnotationKeys {
		value, ok := account.Annotations[key]
		if !ok {
			return asker{}, false, fmt.Errorf("serviceaccount %s/%s lacks annotation %s, which the provider needs: add it", pod.Namespace, name, key)
		}
		notes[key] = value
	}
	for _, key := range want.OptionalServiceAccountAnnotationKeys {
		if value, ok := account.Annotations[key]; ok {
			notes[key] = value
		}
	}
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences:      []string{want.ServiceAccountTokenAudience},
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}, metav1.CreateOptions{})
	if err != nil {
		return asker{}, false, fmt.Errorf("ask for a token of serviceaccount %s/%s: %w", pod.Namespace, name, err)
	}
	who = asker{
		from:  Source{Kind: Account, UID: string(account.UID), Namespace: account.Namespace, Name: account.Name},
		token: token.Status.Token, annotations: notes,
	}
	key := []string{string(account.UID)}
	for _, note := range slices.Sorted(maps.Keys(notes)) {
		key = append(key, note, notes[note])
	}
	if want.CacheType == configv1.TokenServiceAccountTokenCacheType {
		key = append(key, string(pod.UID)) // a token is of one pod, and a pod asks for one a pull
	}
	who.key = strings.Join(key, "\x00")
	return who, false, nil
}

// run runs a provider once. What it says on its standard error is shown; it must not hold secrets.
func (p *Providers) run(ctx context.Context, provider *configv1.CredentialProvider, who asker, image reference.Named) (*providerv1.CredentialProviderResponse, error) {
	request, err := json.Marshal(&providerv1.CredentialProviderRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: requestVersion, Kind: "CredentialProviderRequest"},
		Image:    image.String(), ServiceAccountToken: who.token, ServiceAccountAnnotations: who.annotations,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, runFor)
	defer cancel()
	var stdout, stderr bytes.Buffer
	program := exec.CommandContext(ctx, filepath.Join(p.folder, provider.Name), provider.Args...)
	program.Stdin, program.Stdout, program.Stderr = bytes.NewReader(request), &stdout, &stderr
	program.WaitDelay = time.Second // for children of its own that hold its output open
	program.Env = os.Environ()
	for _, e := range provider.Env {
		program.Env = append(program.Env, e.Name+"="+e.Value)
	}
	if err := program.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, fmt.Errorf("run it: %w: %.300s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	response := &providerv1.CredentialProviderResponse{}
	if err := json.Unmarshal(stdout.Bytes(), response); err != nil {
		return nil, errors.New("it did not answer with JSON") // the reason may quote a secret
	}
	switch response.CacheKeyType {
	case providerv1.ImagePluginCacheKeyType, providerv1.RegistryPluginCacheKeyType, providerv1.GlobalPluginCacheKeyType:
	default:
		return nil, fmt.Errorf("it answered with cacheKeyType %q: it must be Image, Registry or Global", response.CacheKeyType)
	}
	if response.APIVersion != requestVersion || response.Kind != "CredentialProviderResponse" {
		return nil, fmt.Errorf("it answered with %s %q: it must be %s CredentialProviderResponse", response.APIVersion, response.Kind, requestVersion)
	}
	return response, nil
}

// keyed is what an answer is remembered under, by the kind of key the provider asked for.
func keyed(kind providerv1.PluginCacheKeyType, provider, account string, image reference.Named) cacheKey {
	key := cacheKey{provider: provider, account: account}
	switch kind {
	case providerv1.ImagePluginCacheKeyType:
		key.image = image.Name()
	case providerv1.RegistryPluginCacheKeyType:
		key.image = reference.Domain(image)
	}
	return key
}

func (p *Providers) remembered(provider, account string, image reference.Named) (map[string]providerv1.AuthConfig, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	maps.DeleteFunc(p.recent, func(_ cacheKey, a answer) bool { return !now.Before(a.until) })
	for _, kind := range []providerv1.PluginCacheKeyType{providerv1.ImagePluginCacheKeyType, providerv1.RegistryPluginCacheKeyType, providerv1.GlobalPluginCacheKeyType} {
		if a, ok := p.recent[keyed(kind, provider, account, image)]; ok {
			return a.logins, true
		}
	}
	return nil, false
}

func (p *Providers) remember(provider *configv1.CredentialProvider, account string, image reference.Named, response *providerv1.CredentialProviderResponse) {
	keep := cmp.Or(response.CacheDuration, provider.DefaultCacheDuration).Duration
	if keep <= 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent[keyed(response.CacheKeyType, provider.Name, account, image)] = answer{logins: response.Auth, until: p.now().Add(keep)}
}

// Package keyring keeps the keys that Secrets are encrypted with in the datastore.
//
// In:       a file of its own; the wish for another key.
// Out:      the same file, an EncryptionConfiguration as Kubernetes documents it, so that other tools can use it too.
// Promise:  every state of the file is one in which all Secrets can be read, and from which a rotation can go on; two
// processes never change it at the same moment.
// Not here: encrypting (appliance/apiserver/atrest), which also moves a rotation on.
package keyring

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/bootstrap/durable"
)

// KeyPrefix begins the name of every key. A number follows, which only grows: clocks go wrong.
const KeyPrefix = "knarr-"

// keyBytes is what secretbox (XSalsa20-Poly1305) takes. Its nonces are long enough to be drawn at random for as many
// writes as a cluster ever makes; AES-GCM would have to change keys after some 200,000.
const keyBytes = 32

// Ring is the keys in use. The first encrypts, all decrypt.
type Ring struct{ keys []apiserverv1.Key }

// Phase is how far a rotation is.
type Phase int

const (
	// Settled is a single key: no rotation is under way.
	Settled Phase = iota
	// Announced is a new key that is not used for writing yet: whoever reads has to know it first.
	Announced
	// Rewriting is a new key that encrypts what is written, while what was written before still needs an old one.
	Rewriting
)

// Names of the keys; the first encrypts.
func (r Ring) Names() []string {
	names := make([]string, 0, len(r.keys))
	for _, key := range r.keys {
		names = append(names, key.Name)
	}
	return names
}

// Phase says what a rotation does next.
func (r Ring) Phase() Phase {
	switch {
	case len(r.keys) == 1:
		return Settled
	case number(r.keys[0]) == r.newest():
		return Rewriting
	default:
		return Announced
	}
}

func (r Ring) newest() int {
	newest := 0
	for _, key := range r.keys {
		newest = max(newest, number(key))
	}
	return newest
}

// number is 0 for a key somebody else named.
func number(key apiserverv1.Key) int {
	n, err := strconv.Atoi(strings.TrimPrefix(key.Name, KeyPrefix))
	if err != nil || !strings.HasPrefix(key.Name, KeyPrefix) {
		return 0
	}
	return n
}

// Announce adds a new key, which only reads.
func (r Ring) Announce() (Ring, error) {
	if r.Phase() != Settled {
		return r, errors.New("the last rotation is still under way: `knarr secrets status` shows how far it is")
	}
	key, err := newKey(r.newest() + 1)
	if err != nil {
		return r, err
	}
	return Ring{append(slices.Clone(r.keys), key)}, nil
}

// Promote lets the newest key encrypt.
func (r Ring) Promote() Ring {
	newest := r.newest()
	keys := slices.Clone(r.keys)
	slices.SortStableFunc(keys, func(a, b apiserverv1.Key) int {
		switch {
		case number(a) == newest && number(b) != newest:
			return -1
		case number(b) == newest && number(a) != newest:
			return 1
		}
		return 0
	})
	return Ring{keys}
}

// Drop forgets all keys but the one that encrypts.
func (r Ring) Drop() Ring { return Ring{slices.Clone(r.keys[:1])} }

func newKey(n int) (apiserverv1.Key, error) {
	raw := make([]byte, keyBytes)
	if _, err := rand.Read(raw); err != nil {
		return apiserverv1.Key{}, fmt.Errorf("make an encryption key: %w", err)
	}
	return apiserverv1.Key{Name: KeyPrefix + strconv.Itoa(n), Secret: base64.StdEncoding.EncodeToString(raw)}, nil
}

// Ensure makes the file with a first key unless it is there.
func Ensure(path string) (made bool, err error) {
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	first, err := newKey(1)
	if err != nil {
		return false, err
	}
	return true, Ring{[]apiserverv1.Key{first}}.store(path)
}

// Load reads the file.
func Load(path string) (Ring, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Ring{}, fmt.Errorf("read the encryption keys: %w", err)
	}
	damaged := func(why string) error {
		// Not what the parser says, which may quote a key.
		return fmt.Errorf("encryption keys in %s: %s; restore the file from a backup, Secrets cannot be read without it", path, why)
	}
	var config apiserverv1.EncryptionConfiguration
	if err := yaml.UnmarshalStrict(content, &config); err != nil {
		return Ring{}, damaged("the file is damaged")
	}
	for _, resource := range config.Resources {
		for _, provider := range resource.Providers {
			if provider.Secretbox != nil && len(provider.Secretbox.Keys) > 0 {
				return Ring{provider.Secretbox.Keys}, nil
			}
		}
	}
	return Ring{}, damaged("there is none of kind secretbox")
}

// Update changes the file while nobody else does.
func Update(path string, change func(Ring) (Ring, error)) (Ring, error) {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return Ring{}, fmt.Errorf("open the folder of the encryption keys: %w", err)
	}
	defer folder.Close() // unlocks
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX); err != nil {
		return Ring{}, fmt.Errorf("lock the encryption keys: %w", err)
	}
	ring, err := Load(path)
	if err != nil {
		return ring, err
	}
	changed, err := change(ring)
	if err != nil || slices.Equal(changed.keys, ring.keys) {
		return ring, err
	}
	return changed, changed.store(path)
}

func (r Ring) store(path string) error {
	content, err := yaml.Marshal(apiserverv1.EncryptionConfiguration{
		TypeMeta: metav1.TypeMeta{APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "EncryptionConfiguration"},
		Resources: []apiserverv1.ResourceConfiguration{{
			Resources: []string{"secrets"},
			Providers: []apiserverv1.ProviderConfiguration{
				{Secretbox: &apiserverv1.SecretboxConfiguration{Keys: r.keys}},
				{Identity: &apiserverv1.IdentityConfiguration{}}, // reads what was written before there was a key
			},
		}},
	})
	if err != nil {
		return fmt.Errorf("encode the encryption keys: %w", err)
	}
	return durable.Write(path, content, 0o600)
}

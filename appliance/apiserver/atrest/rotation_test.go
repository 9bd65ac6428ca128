package atrest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage/value"

	"knarr.dev/knarr/bootstrap/keyring"
)

// shelf is a datastore of values as they are stored.
type shelf struct {
	stored map[string][]byte
	err    error
}

func (s *shelf) put(t *testing.T, e *Encryption, key, text string) {
	t.Helper()
	sealed, err := e.TransformerForResource(secrets).TransformToStorage(t.Context(), []byte(text), value.DefaultContext(key))
	if err != nil {
		t.Fatal(err)
	}
	s.stored[key] = sealed
}

func (s *shelf) Reseal(ctx context.Context, _ string, t value.Transformer) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	rewritten := 0
	for key, sealed := range s.stored {
		plain, stale, err := t.TransformFromStorage(ctx, sealed, value.DefaultContext(key))
		if err != nil {
			return rewritten, err
		}
		if !stale {
			continue
		}
		rewritten++
		if s.stored[key], err = t.TransformToStorage(ctx, plain, value.DefaultContext(key)); err != nil {
			return rewritten, err
		}
	}
	return rewritten, nil
}

func (s *shelf) keys() map[string]string {
	used := map[string]string{}
	for key, sealed := range s.stored {
		used[key] = "plain"
		if rest, ok := bytes.CutPrefix(sealed, []byte("k8s:enc:secretbox:v1:")); ok {
			name, _, _ := strings.Cut(string(rest), ":")
			used[key] = name
		}
	}
	return used
}

// cluster is a server that can be restarted.
type cluster struct {
	t      *testing.T
	path   string
	store  *shelf
	clock  time.Time
	before *Encryption // a reader and writer that has not heard of any change
	*rotation
}

func (c *cluster) restart() {
	c.t.Helper()
	e, err := Open(c.t.Context(), Files{Keys: c.path})
	if err != nil {
		c.t.Fatal(err)
	}
	c.rotation = &rotation{encryption: e, store: c.store, log: slog.New(slog.DiscardHandler), now: func() time.Time { return c.clock }}
}

func (c *cluster) mustStep() {
	c.t.Helper()
	if err := c.step(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) ring() []string {
	c.t.Helper()
	ring, err := keyring.Load(c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	return ring.Names()
}

// read fails the test unless every value can be read by what a server knows now.
func (c *cluster) read(when string) {
	c.t.Helper()
	for key, sealed := range c.store.stored {
		plain, _, err := c.encryption.TransformerForResource(secrets).TransformFromStorage(c.t.Context(), sealed, value.DefaultContext(key))
		if err != nil || string(plain) != "swordfish" {
			c.t.Errorf("%s: read %s: %q, %v", when, key, plain, err)
		}
	}
}

func begin(t *testing.T) *cluster {
	c := &cluster{
		t: t, path: filepath.Join(t.TempDir(), "encryption.yaml"), clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		store: &shelf{stored: map[string][]byte{SecretsPrefix + "old/plain": []byte("swordfish")}},
	}
	if _, err := keyring.Ensure(c.path); err != nil {
		t.Fatal(err)
	}
	c.restart()
	c.before = c.encryption
	c.restart()
	c.store.put(t, c.encryption, SecretsPrefix+"a/one", "swordfish")
	return c
}

func TestRotation(t *testing.T) {
	// Each is run once with a server that goes on and once with one that is killed after every step.
	for name, killed := range map[string]bool{"in one go": false, "with a restart after each step": true} {
		t.Run(name, func(t *testing.T) {
			c := begin(t)
			pass := func(does string, ring []string, used map[string]string) {
				t.Helper()
				if err := c.step(t.Context()); err != nil {
					t.Fatalf("%s: %v", does, err)
				}
				c.read(does)
				if diff := cmp.Diff(ring, c.ring()); diff != "" {
					t.Errorf("%s: keys (-want +got):\n%s", does, diff)
				}
				if diff := cmp.Diff(used, c.store.keys()); diff != "" {
					t.Errorf("%s: encrypted with (-want +got):\n%s", does, diff)
				}
				if killed {
					clean, writes := c.clean, c.writes
					c.restart()
					c.read(does + ", after a restart")
					c.clean, c.writes = clean, writes // how long it waits is another test
				}
			}
			one, old := SecretsPrefix+"a/one", SecretsPrefix+"old/plain"
			pass("nothing to do", []string{"knarr-1"}, map[string]string{one: "knarr-1", old: "plain"})
			if _, err := keyring.Update(c.path, keyring.Ring.Announce); err != nil {
				t.Fatal(err)
			}
			pass("the new key takes over and everything follows", []string{"knarr-2", "knarr-1"}, map[string]string{one: "knarr-2", old: "knarr-2"})
			pass("a pass finds nothing left", []string{"knarr-2", "knarr-1"}, map[string]string{one: "knarr-2", old: "knarr-2"})
			c.clock = c.clock.Add(history - time.Second)
			pass("history still needs the old key", []string{"knarr-2", "knarr-1"}, map[string]string{one: "knarr-2", old: "knarr-2"})
			c.clock = c.clock.Add(2 * time.Second)
			pass("the old key goes", []string{"knarr-2"}, map[string]string{one: "knarr-2", old: "knarr-2"})
		})
	}
}

func TestAnOldKeyStays(t *testing.T) {
	const long = history + time.Second
	tests := map[string]func(t *testing.T, c *cluster){
		"when a request that had encrypted with it writes late": func(t *testing.T, c *cluster) {
			c.store.put(t, c.before, SecretsPrefix+"a/late", "swordfish")
			c.clock = c.clock.Add(long)
			c.mustStep()
		},
		"while the datastore cannot be read": func(t *testing.T, c *cluster) {
			c.store.err = errors.New("no leader")
			c.clock = c.clock.Add(long)
			if err := c.step(t.Context()); err == nil {
				t.Error("no error from a datastore that cannot be read")
			}
		},
		"while a Secret cannot be decrypted": func(t *testing.T, c *cluster) {
			c.store.stored[SecretsPrefix+"a/lost"] = []byte("k8s:enc:secretbox:v1:knarr-0:nonsense")
			c.clock = c.clock.Add(long)
			if err := c.step(t.Context()); err == nil || strings.Contains(err.Error(), "nonsense") {
				t.Errorf("error %v; want one that does not show the Secret", err)
			}
			delete(c.store.stored, SecretsPrefix+"a/lost")
		},
		"after a restart, until it is clear again that nothing needs it": func(_ *testing.T, c *cluster) {
			c.clock = c.clock.Add(long)
			c.restart()
			c.mustStep()
		},
	}
	for name, disturb := range tests {
		t.Run(name, func(t *testing.T) {
			c := begin(t)
			if _, err := keyring.Update(c.path, keyring.Ring.Announce); err != nil {
				t.Fatal(err)
			}
			c.mustStep() // the new key takes over
			c.mustStep() // nothing is left to rewrite
			disturb(t, c)
			if diff := cmp.Diff([]string{"knarr-2", "knarr-1"}, c.ring()); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			c.read("afterwards")
		})
	}
}

func (s *shelf) Sample(context.Context, string, int64) (map[string][]byte, error) {
	return s.stored, s.err
}

func TestCheck(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, c *cluster)
		err    string
	}{
		"the right keys":         {change: func(*testing.T, *cluster) {}},
		"a datastore with none":  {change: func(_ *testing.T, c *cluster) { c.store.stored = nil }},
		"no answer":              {change: func(_ *testing.T, c *cluster) { c.store.err = errors.New("no leader") }},
		"one that is damaged":    {change: func(_ *testing.T, c *cluster) { c.store.stored["x"] = []byte("k8s:enc:secretbox:v1:knarr-1:x") }},
		"none that is encrypted": {change: func(_ *testing.T, c *cluster) { delete(c.store.stored, SecretsPrefix+"a/one") }},
		"a file that was lost and made anew": {
			change: func(t *testing.T, c *cluster) {
				if err := os.Remove(c.path); err != nil {
					t.Fatal(err)
				}
				if _, err := keyring.Ensure(c.path); err != nil {
					t.Fatal(err)
				}
				c.restart()
			},
			err: "restore that file",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := begin(t)
			tc.change(t, c)
			err := c.encryption.Check(t.Context(), c.store)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Check() = %v; want %q", err, tc.err)
			}
		})
	}
}

func TestOverride(t *testing.T) {
	const theirs = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets, configmaps]
  providers:
  - aesgcm: {keys: [{name: theirs, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}
`
	c := begin(t)
	file := filepath.Join(t.TempDir(), "encryption.yaml")
	if err := os.WriteFile(file, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := Open(t.Context(), Files{Keys: c.path, Override: file})
	if err != nil {
		t.Fatal(err)
	}
	transformer := e.TransformerForResource(secrets)
	at := SecretsPrefix + "a/one"
	plain, stale, err := transformer.TransformFromStorage(t.Context(), c.store.stored[at], value.DefaultContext(at))
	if string(plain) != "swordfish" || !stale || err != nil {
		t.Errorf("a Secret of our own key: %q, stale %v, %v; want it readable and due to be rewritten", plain, stale, err)
	}
	for _, resource := range []schema.GroupResource{secrets, {Resource: "configmaps"}} {
		sealed, err := e.TransformerForResource(resource).TransformToStorage(t.Context(), []byte("swordfish"), value.DefaultContext("x"))
		if err != nil || !bytes.HasPrefix(sealed, []byte("k8s:enc:aesgcm:v1:theirs:")) {
			t.Errorf("%s written as %.30q, %v", resource, sealed, err)
		}
	}
}

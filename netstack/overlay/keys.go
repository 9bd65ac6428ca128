package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"knarr.dev/knarr/bootstrap/durable"
)

// KeyAnnotation is where a node says its public key for WireGuard. It is the node's own to write, and everybody's to read.
const KeyAnnotation = "knarr.dev/wireguard-public-key"

// rotation is how old a key gets. What it protects is replaced every two minutes by WireGuard itself; a key that was stolen
// lets somebody pose as this node until there is another. A day of that is bearable, and costs each node one write a day and
// one handshake with each other.
const rotation = 24 * time.Hour

// secret is a private key: it prints as a placeholder.
type secret wgtypes.Key

// String hides the key.
func (s secret) String() string { return "(hidden)" }

// GoString hides the key from %#v as well.
func (s secret) GoString() string { return s.String() }

// MarshalText is for the file of keys.
func (s secret) MarshalText() ([]byte, error) { return []byte(wgtypes.Key(s).String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (s *secret) UnmarshalText(text []byte) error {
	key, err := wgtypes.ParseKey(string(text))
	if err != nil {
		return errors.New("a key is damaged") // not the library's error, which may quote it
	}
	*s = secret(key)
	return nil
}

func (s secret) public() string { return wgtypes.Key(s).PublicKey().String() }

// keys are this node's own. A successor is made and published before it is used: from then on others know this node by it
// alone, so that both sides change within the time that news of a node takes, and no packet is lost for longer. Whatever
// happens between two steps, the file knows both keys and the node object says which one counts.
type keys struct {
	file string
	life time.Duration
	now  struct {
		Current secret    `json:"current"`
		Since   time.Time `json:"since"`
		Next    *secret   `json:"next,omitempty"`
	}
}

// load reads the keys of the last run. A file that cannot be read is as good as none: the next keys are published anew.
func (k *keys) load() error {
	data, err := os.ReadFile(k.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read this node's keys: %w", err)
	}
	if json.Unmarshal(data, &k.now) != nil {
		*k = keys{file: k.file, life: k.life}
	}
	return nil
}

func (k *keys) save() error {
	data, err := json.Marshal(k.now)
	if err != nil {
		return fmt.Errorf("encode this node's keys: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(k.file), 0o700); err != nil {
		return fmt.Errorf("make the network folder: %w", err)
	}
	if err := durable.Write(k.file, data, 0o600); err != nil {
		return fmt.Errorf("keep this node's keys: %w", err)
	}
	return nil
}

// due is how long the current key has. A clock that went back must not keep it for ever.
func (k *keys) due(now time.Time) time.Duration {
	age := now.Sub(k.now.Since)
	if age < 0 {
		return 0
	}
	return max(0, k.life-age)
}

// ensure makes the first key.
func (k *keys) ensure(now time.Time) error {
	if k.now.Current != (secret{}) {
		return nil
	}
	made, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		return fmt.Errorf("make this node's key: %w", err)
	}
	k.now.Current, k.now.Since = secret(made), now
	return k.save()
}

// settle brings what others know this node by in line with its keys, and begins to use a successor when they do. published is
// what the node object says.
func (k *keys) settle(ctx context.Context, published string, now time.Time, publish func(context.Context, string) error) error {
	if k.now.Next == nil && k.due(now) == 0 {
		made, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			return fmt.Errorf("make this node's next key: %w", err)
		}
		next := secret(made)
		k.now.Next = &next
		if err := k.save(); err != nil {
			return err
		}
	}
	newest := k.now.Current
	if k.now.Next != nil {
		newest = *k.now.Next
	}
	if published != newest.public() {
		if err := publish(ctx, newest.public()); err != nil {
			return fmt.Errorf("publish this node's key: %w", err)
		}
	}
	if k.now.Next == nil {
		return nil
	}
	k.now.Current, k.now.Since, k.now.Next = newest, now, nil
	return k.save()
}

package atrest

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/value"

	"knarr.dev/knarr/bootstrap/keyring"
)

// SecretsPrefix is where Secrets are in the datastore.
const SecretsPrefix = "/registry/secrets/"

const (
	// every is how often the file is looked at: `knarr secrets rotate` adds a key to it, and waits.
	every = 10 * time.Second
	// history is how long an old key stays after the last Secret was written with a new one. Until then old states of
	// Secrets can be asked for (the datastore forgets them within two compactions), and a request that had encrypted
	// with the old key when the new one took over may still write: requests end after a minute.
	history = 2*storagebackend.DefaultCompactInterval + time.Minute
)

// Sealer writes everything below a key of the datastore again that a transformer would encrypt otherwise now.
type Sealer interface {
	Reseal(ctx context.Context, prefix string, t value.Transformer) (int, error)
}

// Run keeps to the files until ctx ends: the operator's is read again when it changes, and a key that was added to ours
// takes over. There is one server that does so in a cluster: several would need to agree on when all know a key.
func (e *Encryption) Run(ctx context.Context, store Sealer) {
	if e.files.Override != "" {
		e.follow(ctx)
		return
	}
	r := &rotation{encryption: e, store: store, log: slog.With("component", "encryption"), now: time.Now}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := r.step(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("the rotation of encryption keys does not go on; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// rotation moves keys on, a step at a time. All that has to survive a restart is in the file.
type rotation struct {
	encryption *Encryption
	store      Sealer
	log        *slog.Logger
	now        func() time.Time

	ring   keyring.Ring // what the file said last, if known
	known  bool
	writes string    // the key of the last pass
	clean  time.Time // when a pass over the datastore first found nothing left to rewrite; zero: none did yet
}

// step does what the file asks for, up to where something has to be waited for.
func (r *rotation) step(ctx context.Context) error {
	ring, err := r.adopt(ctx)
	if err != nil || ring.Phase() == keyring.Settled {
		r.clean = time.Time{}
		return err
	}
	if ring.Phase() == keyring.Announced {
		// The new key has been adopted, so all that reads here knows it.
		if ring, err = r.change(ctx, func(ring keyring.Ring) (keyring.Ring, error) { return ring.Promote(), nil }); err != nil {
			return err
		}
		r.log.Info("a new key encrypts Secrets; those there are follow", "key", ring.Names()[0])
	}
	if writes := ring.Names()[0]; writes != r.writes {
		r.writes, r.clean = writes, time.Time{}
	}
	if !r.clean.IsZero() && r.now().Sub(r.clean) < history {
		return nil
	}
	rewritten, err := r.store.Reseal(ctx, SecretsPrefix, r.encryption.TransformerForResource(secrets))
	switch {
	case err != nil:
		r.clean = time.Time{}
		return fmt.Errorf("encrypt Secrets with %s: %w; Secrets that cannot be decrypted have to be deleted", r.writes, err)
	case rewritten > 0:
		r.log.Info("Secrets encrypted with the new key", "key", r.writes, "secrets", rewritten)
		r.clean = time.Time{}
		return nil // the next pass sees whether that was all
	case r.clean.IsZero():
		r.clean = r.now()
		return nil
	}
	if _, err := r.change(ctx, func(ring keyring.Ring) (keyring.Ring, error) { return ring.Drop(), nil }); err != nil {
		return err
	}
	r.log.Info("old encryption keys forgotten", "key", r.writes)
	return nil
}

// change stores another state of the keys and adopts it. A server that ends between the two adopts it when it starts.
func (r *rotation) change(ctx context.Context, how func(keyring.Ring) (keyring.Ring, error)) (keyring.Ring, error) {
	if _, err := keyring.Update(r.encryption.files.Keys, how); err != nil {
		return keyring.Ring{}, err
	}
	return r.adopt(ctx)
}

// adopt uses the keys of the file from now on. A file that changes while it is read is read again by the next pass.
func (r *rotation) adopt(ctx context.Context) (keyring.Ring, error) {
	e := r.encryption
	hash, err := encryptionconfig.GetEncryptionConfigHash(e.files.Keys)
	if err != nil {
		return r.ring, fmt.Errorf("read the encryption keys: %w", err)
	}
	if hash == e.loaded && r.known {
		return r.ring, nil
	}
	ring, err := keyring.Load(e.files.Keys)
	if err != nil {
		return r.ring, err
	}
	if hash != e.loaded {
		config, err := load(ctx, e.files.Keys)
		if err != nil {
			return r.ring, err
		}
		e.dynamic.Set(config.Transformers, func() {}, config.HealthChecks[0], config.KMSCloseGracePeriod)
	}
	r.ring, r.known, e.loaded = ring, true, hash
	return ring, nil
}

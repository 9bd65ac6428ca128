// Package atrest encrypts what is in the datastore.
//
// In:       this cluster's keys (bootstrap/keyring), or an EncryptionConfiguration of the operator.
// Out:      what the storage of each resource passes its values through; Secrets encrypted anew when a key was added.
// Promise:  Secrets are never written readable; what was written before, in the open or with an older key, stays
// readable. A rotation that was interrupted anywhere goes on at the next start.
// Not here: making keys (bootstrap/keyring), reading and writing (appliance/apiserver/persistence).
package atrest

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig"
	"k8s.io/apiserver/pkg/server/options/encryptionconfig/controller"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"

	"knarr.dev/knarr/bootstrap/keyring"
)

// serverID is what the library's metrics call this server.
const serverID = "knarr"

var secrets = schema.GroupResource{Resource: "secrets"}

// Files say what is encrypted with which keys.
type Files struct {
	Keys     string // this cluster's own (bootstrap/keyring); they encrypt Secrets
	Override string // the operator's EncryptionConfiguration, for KMS and the like; rules instead when given
}

// Encryption of one API server.
type Encryption struct {
	files   Files
	dynamic *encryptionconfig.DynamicTransformers
	loaded  string // hash of the file the transformers were made from
	own     value.Transformer
}

// Open reads the files. What they start (connections to KMS plugins) ends with ctx.
func Open(ctx context.Context, files Files) (*Encryption, error) {
	e := &Encryption{files: files}
	path := files.Keys
	if files.Override != "" {
		path = files.Override
		// The Secrets there are were written with our keys.
		kept, err := load(ctx, files.Keys)
		if err != nil {
			return nil, err
		}
		e.own = kept.Transformers[secrets]
	}
	// The library lets go of KMS plugins when it reads the file again.
	ctx, closeTransformers := context.WithCancel(ctx)
	config, err := load(ctx, path)
	if err != nil {
		closeTransformers()
		return nil, err
	}
	e.dynamic = encryptionconfig.NewDynamicTransformers(config.Transformers, config.HealthChecks[0], closeTransformers, config.KMSCloseGracePeriod)
	e.loaded = config.EncryptionFileContentHash
	return e, nil
}

func load(ctx context.Context, path string) (*encryptionconfig.EncryptionConfiguration, error) {
	config, err := encryptionconfig.LoadEncryptionConfig(ctx, path, true, serverID)
	if err != nil {
		return nil, fmt.Errorf("read the encryption configuration %s: %w", path, err)
	}
	return config, nil
}

// sampled is how many Secrets are tried, and probing how long a datastore may take that has no leader yet.
const (
	sampled = 10
	probing = 2 * time.Second
)

// Sampler reads the first few values below a key of the datastore.
type Sampler interface {
	Sample(ctx context.Context, prefix string, n int64) (map[string][]byte, error)
}

// Check refuses keys that are not the ones Secrets were encrypted with: a server that starts with keys made anew after
// the file was lost would go on to write Secrets that the right file cannot read.
func (e *Encryption) Check(ctx context.Context, store Sampler) error {
	ctx, cancel := context.WithTimeout(ctx, probing)
	defer cancel()
	stored, err := store.Sample(ctx, SecretsPrefix, sampled)
	if err != nil {
		return nil //nolint:nilerr // no answer is no sign of wrong keys; requests will say what is wrong
	}
	readable, failed := 0, 0
	transformer := e.TransformerForResource(secrets)
	for key, sealed := range stored {
		if !bytes.HasPrefix(sealed, sealedByUs) {
			continue
		}
		if _, _, err := transformer.TransformFromStorage(ctx, sealed, value.DefaultContext(key)); err != nil {
			failed++
		} else {
			readable++
		}
	}
	if failed > 0 && readable == 0 {
		return fmt.Errorf("the Secrets in the datastore were not encrypted with the keys in %s: restore that file from a backup", e.files.Keys)
	}
	return nil
}

// HealthChecks are of KMS plugins.
func (e *Encryption) HealthChecks() []healthz.HealthChecker {
	if e.files.Override == "" {
		return nil // there is nothing but keys in memory
	}
	return []healthz.HealthChecker{e.dynamic}
}

// TransformerForResource implements value.ResourceTransformers.
func (e *Encryption) TransformerForResource(resource schema.GroupResource) value.Transformer {
	switch {
	case e.files.Override == "" && resource != secrets:
		return identity.NewEncryptCheckTransformer() // the other would look at each value which transformer it needs
	case e.own != nil && resource == secrets:
		return keepsReading{Transformer: e.dynamic.TransformerForResource(resource), own: e.own}
	}
	return e.dynamic.TransformerForResource(resource)
}

// keepsReading reads what our keys encrypted before the operator's took over, and has it encrypted anew when written.
type keepsReading struct {
	value.Transformer
	own value.Transformer
}

var sealedByUs = []byte("k8s:enc:secretbox:v1:" + keyring.KeyPrefix)

func (k keepsReading) TransformFromStorage(ctx context.Context, data []byte, where value.Context) ([]byte, bool, error) {
	plain, stale, err := k.Transformer.TransformFromStorage(ctx, data, where)
	if err != nil && bytes.HasPrefix(data, sealedByUs) {
		plain, _, err = k.own.TransformFromStorage(ctx, data, where)
		stale = true
	}
	return plain, stale, err
}

// follow reads the operator's file again when it changes.
func (e *Encryption) follow(ctx context.Context) {
	controller.NewDynamicEncryptionConfiguration("encryption configuration", e.files.Override, e.dynamic, e.loaded, serverID).Run(ctx)
}

package runtime

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pauseImage is the image of the process that holds a pod's namespaces. It is made on the spot from our own program,
// so a machine without a registry starts pods.
type pauseImage struct{ program []byte }

// loadPause reads the program: pause in the helpers' folder, knarr-pause or pause on PATH.
func loadPause(helpers string) (pauseImage, error) {
	candidates := []string{filepath.Join(helpers, "pause")}
	if helpers == "" {
		candidates = nil
		for _, name := range []string{"knarr-pause", "pause"} {
			if path, err := exec.LookPath(name); err == nil {
				candidates = append(candidates, path)
			}
		}
	}
	for _, path := range candidates {
		program, err := os.ReadFile(path)
		if err == nil {
			return pauseImage{program: program}, nil
		}
		if !os.IsNotExist(err) {
			return pauseImage{}, fmt.Errorf("read the pause program: %w", err)
		}
	}
	return pauseImage{}, fmt.Errorf("find the pause program in %q: not there; build knarr with its bundle (make bundle) or put pause on PATH", helpers)
}

// reference names the image by its program, so an upgrade makes a new image and running pods keep theirs.
func (p pauseImage) reference() string {
	sum := sha256.Sum256(p.program)
	return "knarr.dev/pause:" + hex.EncodeToString(sum[:6])
}

// ensure makes the image and unpacks it, unless that was done before.
func (p pauseImage) ensure(ctx context.Context, client *containerd.Client, snapshotter string) error {
	image, err := client.GetImage(ctx, p.reference())
	if errdefs.IsNotFound(err) {
		image, err = p.create(ctx, client)
	}
	if err != nil {
		return err
	}
	unpacked, err := image.IsUnpacked(ctx, snapshotter)
	if err != nil || unpacked {
		return err
	}
	return image.Unpack(ctx, snapshotter)
}

func (p pauseImage) create(ctx context.Context, client *containerd.Client) (containerd.Image, error) {
	// The lease keeps the collector away from blobs nothing refers to yet.
	ctx, done, err := client.WithLease(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = done(ctx) }() // a lease that stays expires by itself
	layer, err := p.layer()
	if err != nil {
		return nil, err
	}
	config := ocispec.Image{
		Platform: platforms.DefaultSpec(),
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/pause"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	store := client.ContentStore()
	layerAt, err := writeBlob(ctx, store, ocispec.MediaTypeImageLayer, layer, nil)
	if err != nil {
		return nil, err
	}
	manifest.Layers = []ocispec.Descriptor{layerAt}
	if manifest.Config, err = writeJSON(ctx, store, ocispec.MediaTypeImageConfig, config, nil); err != nil {
		return nil, err
	}
	target, err := writeJSON(ctx, store, ocispec.MediaTypeImageManifest, manifest, map[string]string{
		"containerd.io/gc.ref.content.config": manifest.Config.Digest.String(),
		"containerd.io/gc.ref.content.l.0":    layerAt.Digest.String(),
	})
	if err != nil {
		return nil, err
	}
	image := images.Image{Name: p.reference(), Target: target, CreatedAt: time.Now()}
	created, err := client.ImageService().Create(ctx, image)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("create image %s: %w", image.Name, err)
	}
	if err != nil {
		created = image
	}
	return containerd.NewImage(client, created), nil
}

// layer is a tar of one file. Times are left out: the same program is the same layer.
func (p pauseImage) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "pause", Mode: 0o755, Size: int64(len(p.program)), Typeflag: tar.TypeReg}); err != nil {
		return nil, err
	}
	if _, err := w.Write(p.program); err != nil {
		return nil, err
	}
	return out.Bytes(), w.Close()
}

func writeJSON(ctx context.Context, store content.Store, mediaType string, v any, labels map[string]string) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return writeBlob(ctx, store, mediaType, data, labels)
}

func writeBlob(ctx context.Context, store content.Store, mediaType string, data []byte, labels map[string]string) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	err := content.WriteBlob(ctx, store, "pause-"+d.Digest.Encoded(), bytes.NewReader(data), d, content.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return d, fmt.Errorf("write blob %s: %w", d.Digest, err)
	}
	return d, nil
}

// Package images makes the container images the tests and the demo run, with no registry.
//
// In:       app/, a small program of ours.
// Out:      OCI archives, as `knarr image import` reads them.
// Promise:  the same program gives the same digest.
// Not here: importing (workloads/agent/runtime).
package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// App is the reference of the image of app/; AppV2 is the same with another environment, for rollouts.
const (
	appName = "knarr.dev/test/app:"
	App     = appName + "v1"
	AppV2   = appName + "v2"
)

// Image is one file at one path of an otherwise empty root, and how to run it.
type Image struct {
	Ref    string
	Files  map[string]string // path in the image -> path on this machine
	Config ocispec.ImageConfig
}

// WriteApp compiles app/ and writes one archive with both of its images into dir. It returns the archive's path.
func WriteApp(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "app")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", program, "knarr.dev/knarr/test/images/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test application: %w\n%s", err, out)
	}
	defer os.Remove(program)
	var list []Image
	for _, version := range []string{"v1", "v2"} {
		list = append(list, Image{
			Ref:   appName + version,
			Files: map[string]string{"app": program},
			Config: ocispec.ImageConfig{
				Entrypoint: []string{"/app"}, Cmd: []string{"serve"},
				Env:        []string{"PATH=/", "APP_VERSION=" + version},
				WorkingDir: "/",
			},
		})
	}
	archive := filepath.Join(dir, "app.tar")
	return archive, Write(archive, list...)
}

// Write images into one OCI archive.
func Write(archive string, list ...Image) error {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &writer{tar: tar.NewWriter(f), have: map[digest.Digest]bool{}}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, image := range list {
		manifest, err := w.image(image)
		if err != nil {
			return fmt.Errorf("write image %s: %w", image.Ref, err)
		}
		index.Manifests = append(index.Manifests, manifest)
	}
	for name, content := range map[string]any{ocispec.ImageIndexFile: index, ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}} {
		encoded, err := json.Marshal(content)
		if err != nil {
			return err
		}
		if err := w.file(name, encoded); err != nil {
			return err
		}
	}
	if err := w.tar.Close(); err != nil {
		return err
	}
	return f.Close()
}

type writer struct {
	tar  *tar.Writer
	have map[digest.Digest]bool
}

func (w *writer) image(image Image) (ocispec.Descriptor, error) {
	layer, err := layerOf(image.Files)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layerAt, err := w.blob(ocispec.MediaTypeImageLayer, layer)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	configAt, err := w.json(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   image.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerAt.Digest}},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := w.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configAt, Layers: []ocispec.Descriptor{layerAt},
	})
	manifest.Annotations = map[string]string{"io.containerd.image.name": image.Ref, ocispec.AnnotationRefName: image.Ref}
	return manifest, err
}

func layerOf(files map[string]string) ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, dir := range []string{"etc/", "proc/", "sys/", "dev/", "tmp/"} {
		mode := int64(0o755)
		if dir == "tmp/" {
			mode = 0o1777
		}
		if err := w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: mode, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
	}
	for _, to := range slices.Sorted(maps.Keys(files)) {
		content, err := os.ReadFile(files[to])
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: to, Mode: 0o755, Size: int64(len(content)), ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return layer.Bytes(), w.Close()
}

func (w *writer) json(mediaType string, v any) (ocispec.Descriptor, error) {
	encoded, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return w.blob(mediaType, encoded)
}

func (w *writer) blob(mediaType string, content []byte) (ocispec.Descriptor, error) {
	sum := sha256.Sum256(content)
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum[:])), Size: int64(len(content))}
	if w.have[d.Digest] {
		return d, nil
	}
	w.have[d.Digest] = true
	return d, w.file(path.Join(ocispec.ImageBlobsDir, "sha256", d.Digest.Encoded()), content)
}

func (w *writer) file(name string, content []byte) error {
	if err := w.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(0, 0)}); err != nil {
		return err
	}
	_, err := w.tar.Write(content)
	return err
}

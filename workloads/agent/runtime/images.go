package runtime

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/klauspost/compress/zstd"
)

// ImportFile imports an OCI or docker archive and makes its images visible to CRI before it returns.
func (r *Runtime) ImportFile(ctx context.Context, path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image archive: %w", err)
	}
	defer f.Close()
	names, err := Import(ctx, r.handle.client, f)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", path, err)
	}
	for _, name := range names {
		if err := r.handle.images.UpdateImage(in(ctx), name); err != nil {
			return nil, fmt.Errorf("show image %s to CRI: %w", name, err)
		}
	}
	return names, nil
}

// Import reads an OCI or docker archive, plain or compressed with gzip or zstd, into any containerd client's store and
// unpacks its images for this platform. CRI notices images imported from another process by containerd's events.
func Import(ctx context.Context, client *containerd.Client, archive io.Reader) ([]string, error) {
	ctx = in(ctx)
	plain, err := decompress(archive)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	imported, err := client.Import(ctx, plain,
		containerd.WithImageRefTranslator(fullReference),
		containerd.WithImportPlatform(platforms.Default()),
		containerd.WithSkipMissing(), // archives of one platform often list the others
	)
	if err != nil {
		return nil, err
	}
	if len(imported) == 0 {
		return nil, errors.New("it names no image; make the archive with a full reference such as docker.io/library/app:1.0")
	}
	names := make([]string, 0, len(imported))
	for _, img := range imported {
		// "" is the namespace's default snapshotter, which the runtime has set.
		if err := containerd.NewImage(client, img).Unpack(ctx, ""); err != nil {
			return nil, fmt.Errorf("unpack %s: %w", img.Name, err)
		}
		names = append(names, img.Name)
	}
	return names, nil
}

// fullReference turns an archive's name into a complete reference; a bare tag names nothing.
func fullReference(name string) string {
	if !strings.ContainsAny(name, "/:") {
		return ""
	}
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return ""
	}
	return ref.String()
}

func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	head, err := buffered.Peek(4)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	switch {
	case head[0] == 0x1f && head[1] == 0x8b:
		return gzip.NewReader(buffered)
	case string(head) == "\x28\xb5\x2f\xfd":
		d, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// Image is one line of `knarr image list`.
type Image struct {
	Name   string
	Digest string
	Size   int64 // compressed, as stored
}

// List names the images of a containerd client's store, without the ids CRI keeps beside the names.
func List(ctx context.Context, client *containerd.Client) ([]Image, error) {
	ctx = in(ctx)
	all, err := client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	for _, img := range all {
		if strings.HasPrefix(img.Name, "sha256:") {
			continue
		}
		size, err := img.Size(ctx, client.ContentStore(), platforms.Default())
		if err != nil {
			size = 0 // a part of it is missing, as with an image still being pulled
		}
		out = append(out, Image{Name: img.Name, Digest: img.Target.Digest.String(), Size: size})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// importedFile remembers, in the image folder, which archives need no second import.
const importedFile = ".imported.json"

func stamp(info fs.FileInfo) string {
	return fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
}

func loadImported(dir string) map[string]string {
	seen := map[string]string{}
	data, err := os.ReadFile(filepath.Join(dir, importedFile))
	if err != nil || json.Unmarshal(data, &seen) != nil {
		return map[string]string{} // at worst an archive is imported again, which changes nothing
	}
	return seen
}

func saveImported(dir string, seen map[string]string) error {
	data, err := json.Marshal(seen)
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, importedFile+".tmp")
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, importedFile))
}

// ImageTimes says when each image came or was pulled again, by name and by id.
func (r *Runtime) ImageTimes(ctx context.Context) (map[string]time.Time, error) {
	if r.remote != nil {
		return r.firstSeen(ctx)
	}
	all, err := r.handle.client.ImageService().List(in(ctx))
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	out := make(map[string]time.Time, len(all))
	for _, img := range all {
		out[img.Name] = img.UpdatedAt
	}
	return out, nil
}

package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Registry serves the images of one archive, each under every name: only its tag counts. It is for tests on loopback.
type Registry struct {
	// Private are the names (private/app) that need a login, as user:password.
	Private map[string]string

	tags  map[string]ocispec.Descriptor
	blobs map[digest.Digest][]byte

	mu     sync.Mutex
	served []string // names whose manifests were given away
}

// NewRegistry reads an archive of Write's.
func NewRegistry(archive string) (*Registry, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &Registry{tags: map[string]ocispec.Descriptor{}, blobs: map[digest.Digest][]byte{}}
	var index ocispec.Index
	for files := tar.NewReader(f); ; {
		head, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", archive, err)
		}
		content, err := io.ReadAll(files)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", archive, err)
		}
		if head.Name == ocispec.ImageIndexFile {
			if err := json.Unmarshal(content, &index); err != nil {
				return nil, fmt.Errorf("read %s: %w", archive, err)
			}
		}
		if sum, ok := strings.CutPrefix(head.Name, "blobs/sha256/"); ok {
			r.blobs[digest.NewDigestFromEncoded(digest.SHA256, sum)] = content
		}
	}
	for _, manifest := range index.Manifests {
		name := manifest.Annotations[ocispec.AnnotationRefName]
		manifest.Annotations = nil
		r.tags[name[strings.LastIndex(name, ":")+1:]] = manifest
	}
	return r, nil
}

// Served lists the names whose manifests were given away, one entry each time.
func (r *Registry) Served() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.served...)
}

// ServeHTTP implements the part of the distribution specification that pulls need.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	path := strings.TrimPrefix(strings.TrimPrefix(q.URL.Path, "/v2"), "/")
	for _, kind := range []string{"/manifests/", "/blobs/"} {
		at := strings.LastIndex(path, kind)
		if at < 0 {
			continue
		}
		name, ref := path[:at], path[at+len(kind):]
		if login, private := r.Private[name]; private {
			if user, password, ok := q.BasicAuth(); !ok || user+":"+password != login {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
				return
			}
		}
		r.give(w, q, name, kind, ref)
		return
	}
	if path != "" {
		http.NotFound(w, q)
	}
}

func (r *Registry) give(w http.ResponseWriter, q *http.Request, name, kind, ref string) {
	sum, media := digest.Digest(ref), "application/octet-stream"
	if kind == "/manifests/" {
		media = ocispec.MediaTypeImageManifest
		if tagged, ok := r.tags[ref]; ok {
			sum = tagged.Digest
		}
	}
	content, ok := r.blobs[sum]
	if !ok {
		http.NotFound(w, q)
		return
	}
	if kind == "/manifests/" && q.Method == http.MethodGet {
		r.mu.Lock()
		r.served = append(r.served, name)
		r.mu.Unlock()
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("Docker-Content-Digest", sum.String())
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	if q.Method == http.MethodGet {
		_, _ = w.Write(content)
	}
}

package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What is otherwise where a runtime of the operator's own is used instead of containerd in this process: knarr speaks CRI
// with it and nothing else, so whatever CRI has no words for is its own affair.

// mayBeRemote refuses what would be lost without a word.
func (r *Runtime) mayBeRemote() error {
	if r.conf.Registries != nil {
		return fmt.Errorf("the file given as registries means nothing to the container runtime at %s, which fetches images its own way: "+
			"say there what it says (for containerd, in hosts.toml files below its config_path), and remove it", r.conf.Socket)
	}
	bundles, err := filepath.Glob(filepath.Join(r.conf.Paths.ContainerdState(), "*", Namespace, "*"))
	if err != nil {
		return err
	}
	for _, bundle := range bundles {
		if criID.MatchString(filepath.Base(bundle)) {
			return fmt.Errorf("pods of knarr's own containerd are still on this machine, which the runtime at %s knows nothing of: "+
				"start once more without container-runtime-endpoint, drain the node, and reboot the machine before setting it again", r.conf.Socket)
		}
	}
	entries, err := os.ReadDir(r.conf.Paths.Images())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the image folder: %w", err)
	}
	if len(entries) > 0 {
		r.log.Warn("archives of images are not imported: CRI has no words for that; import them with the runtime's own tool (containerd: ctr -n k8s.io images import)",
			"dir", r.conf.Paths.Images(), "socket", r.conf.Socket)
	}
	return nil
}

// Await returns when containers can be made, or says why they cannot be.
func (r *Runtime) Await(ctx context.Context) error {
	if r.remote == nil {
		return nil // it is ready, or Run would not have said so
	}
	return r.remote.Await(ctx)
}

// Kind is what the containers' ids begin with in the API; it may be asked once Await has returned.
func (r *Runtime) Kind() string {
	if r.remote == nil {
		return "containerd"
	}
	return r.remote.Name()
}

// ImageFolder lies on the filesystem of the images; "" while that is not known.
func (r *Runtime) ImageFolder() string {
	if r.remote == nil {
		return r.conf.Paths.Containerd()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	info, err := r.remote.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.GetImageFilesystems()) == 0 {
		return ""
	}
	return info.ImageFilesystems[0].GetFsId().GetMountpoint()
}

// firstSeen says since when images are known: CRI does not say when one came.
type firstSeen struct {
	mu    sync.Mutex
	since map[string]time.Time // by id
}

func (r *Runtime) firstSeen(ctx context.Context) (map[string]time.Time, error) {
	list, err := r.remote.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	r.seen.mu.Lock()
	defer r.seen.mu.Unlock()
	next := make(map[string]time.Time, len(list.Images))
	for _, image := range list.Images {
		if next[image.Id] = r.seen.since[image.Id]; next[image.Id].IsZero() {
			next[image.Id] = time.Now()
		}
	}
	r.seen.since = next
	return next, nil
}

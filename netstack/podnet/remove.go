package podnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/cni"
	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// resultCache is where containerd's CNI library keeps the answers to ADD; the place cannot be configured.
const resultCache = "/var/lib/cni/results"

// Remove takes everything of the pod network off this machine, also from the folders where whoever runs containers looks.
// It goes on after a failure, so that a second call has less to do. Kernel settings stay: others may have come to rely on
// them.
func Remove(paths config.Paths, configDir, clientDir string) error {
	errs := []error{removeLinks(), removeNftables(), xt.Remove(ownerName), removeResults()}
	placed := []string{paths.Network(), paths.CNIConfig(), paths.CNISocket(), filepath.Join(configDir, configName)}
	if clientDir != "" {
		placed = append(placed, filepath.Join(clientDir, cni.PluginType))
	}
	for _, path := range placed {
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("remove pod network state: %w", err))
		}
	}
	return errors.Join(errs...)
}

func removeNftables() error {
	return errors.Join(nft.Remove(nftables.TableFamilyIPv4, Table), nft.Remove(nftables.TableFamilyIPv6, Table))
}

// Retire answers whoever runs containers, while he gives pods up, that their network is gone; Remove makes it true after that.
// It ends with ctx, and done then.
func Retire(ctx context.Context, paths config.Paths) (done <-chan error, err error) {
	listener, err := cni.Listen(paths.CNISocket())
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cni.Serve(ctx, listener, retired{}) }()
	return ended, nil
}

type retired struct{}

var errRetired = cni.Errorf(cni.CodeNotAvailable, "knarr is being removed from this machine")

func (retired) Add(context.Context, cni.Request, cni.NetConf) (*cni.Result, error) {
	return nil, errRetired
}
func (retired) Del(context.Context, cni.Request, cni.NetConf) error   { return nil }
func (retired) Check(context.Context, cni.Request, cni.NetConf) error { return errRetired }
func (retired) Status(context.Context) error                          { return errRetired }
func (retired) GC(context.Context, []cni.Attachment) error            { return nil }

func removeLinks() error {
	links, err := dump.Links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, link := range links {
		if name := link.Attrs().Name; strings.HasPrefix(name, linkPrefix) || strings.HasPrefix(name, shaperPrefix) || name == Bridge {
			errs = append(errs, removeLink(name))
		}
	}
	return errors.Join(errs...)
}

func removeResults() error {
	files, err := filepath.Glob(filepath.Join(resultCache, networkName+"-*"))
	if err != nil {
		return fmt.Errorf("list cached CNI results: %w", err)
	}
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove cached CNI result: %w", err)
		}
	}
	// The folders go when nobody else uses them.
	for _, dir := range []string{resultCache, filepath.Dir(resultCache)} {
		if os.Remove(dir) != nil {
			break
		}
	}
	return nil
}

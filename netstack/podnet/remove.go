package podnet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// resultCache is where containerd's CNI library keeps the answers to ADD; the place cannot be configured.
const resultCache = "/var/lib/cni/results"

// Remove takes everything of the pod network off this machine. It goes on after a failure, so that a second call has
// less to do. Kernel settings stay: others may have come to rely on them.
func Remove(paths config.Paths) error {
	errs := []error{removeLinks(), removeNftables(), xt.Remove(ownerName), removeResults()}
	for _, path := range []string{paths.Network(), paths.CNIConfig(), paths.CNISocket()} {
		if err := os.RemoveAll(path); err != nil {
			errs = append(errs, fmt.Errorf("remove pod network state: %w", err))
		}
	}
	return errors.Join(errs...)
}

func removeNftables() error {
	return errors.Join(nft.Remove(nftables.TableFamilyIPv4, Table), nft.Remove(nftables.TableFamilyIPv6, Table))
}

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

package machine

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/proxy"
	"knarr.dev/knarr/netstack/xt"
)

const (
	// minFree is what a first start needs to unpack helpers, open a datastore and write certificates, with room to spare.
	minFree = 256 << 20
	// minFreeAgain is what etcd needs to open its next file. To ask more of a machine that has all the rest would keep a
	// cluster down that could run.
	minFreeAgain = 96 << 20
)

// spaceNeeded to start from a data directory.
func spaceNeeded(dataDir string) uint64 {
	if _, err := os.Stat(config.Paths{Data: dataDir}.PKI()); err == nil {
		return minFreeAgain
	}
	return minFree
}

func checkRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, to run containers and to set up networks; run it with sudo or as a system service")
	}
	return nil
}

// preflight finds what would stop the machine later with an error that is harder to understand. It changes nothing.
func preflight(dataDir string, node bool, ports ...int) error {
	var errs []error
	errs = append(errs, checkSpace(dataDir))
	for _, port := range ports {
		errs = append(errs, checkPort(port))
	}
	if node {
		errs = append(errs, checkCgroups("/proc/self/cgroup", "/sys/fs/cgroup"))
	}
	return errors.Join(errs...)
}

func checkSpace(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at the disk of %s: %w", dir, err)
	}
	if free, need := fs.Bavail*uint64(fs.Bsize), spaceNeeded(dir); free < need {
		return fmt.Errorf("disk of %s has %d MiB free, %d MiB are needed to start; nothing was changed, free some space", dir, free>>20, need>>20)
	}
	return nil
}

func checkPort(port int) error {
	l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(port)))
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("listen on port %d: %w", port, err)
	}
	return fmt.Errorf("port %d is in use%s; stop what uses it (for the API server's own port, --https-port chooses another)", port, usedBy(port))
}

// usedBy names the process that listens on a port, as far as /proc tells.
func usedBy(port int) string {
	inodes := map[string]bool{}
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		content, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for _, inode := range listening(content, port) {
			inodes["socket:["+inode+"]"] = true
		}
	}
	links, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && inodes[to] {
			pid := strings.Split(link, "/")[2]
			name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			return fmt.Sprintf(" by %s (pid %s)", strings.TrimSpace(string(name)), pid)
		}
	}
	return ""
}

// listening finds the socket inodes that listen on port in the text of /proc/net/tcp.
func listening(table []byte, port int) []string {
	const listen = "0A"
	suffix := fmt.Sprintf(":%04X", port)
	var inodes []string
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) > 9 && strings.HasSuffix(f[1], suffix) && f[3] == listen {
			inodes = append(inodes, f[9])
		}
	}
	return inodes
}

// checkCgroups wants the controllers pods are limited by, in either version of the hierarchy.
func checkCgroups(self, root string) error {
	have := map[string]bool{}
	if content, err := os.ReadFile(filepath.Join(root, "cgroup.controllers")); err == nil {
		for _, c := range strings.Fields(string(content)) {
			have[c] = true
		}
	} else {
		content, err := os.ReadFile(self)
		if err != nil {
			return fmt.Errorf("look at cgroups: %w", err)
		}
		for line := range strings.Lines(string(content)) {
			if f := strings.SplitN(line, ":", 3); len(f) == 3 {
				for _, c := range strings.Split(f[1], ",") {
					have[c] = true
				}
			}
		}
	}
	var missing []string
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !have[c] {
			missing = append(missing, c)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("kernel offers no %s cgroup controller, which limits pods; enable it (on some boards: cgroup_enable=memory on the kernel's command line) and reboot",
			strings.Join(missing, ", "))
	}
	return nil
}

// ipTables decides whether packets are filtered by ip_tables rather than nftables. Nftables are what is meant for it: ip_tables
// are for kernels that have none, or none that do.
func ipTables(setting string, log *slog.Logger) (bool, error) {
	switch setting {
	case config.FilterNFTables:
		return false, proxy.Probe()
	case config.FilterIPTables:
		return true, xt.Probe(false)
	}
	refused := proxy.Probe()
	if refused == nil {
		return false, nil
	}
	if err := xt.Probe(false); err != nil {
		return false, fmt.Errorf("packets can be filtered neither by nftables nor by ip_tables: %w; %w", refused, err)
	}
	log.Warn("packets are filtered by ip_tables, at a higher cost: this kernel's nftables do not do", "error", refused)
	return true, nil
}

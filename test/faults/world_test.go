package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/google/nftables"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/test/lab/lab"
)

// world is everything on the machine that belongs to some pod, whoever keeps it.
type world struct {
	Sandboxes  map[string]sandbox   // by id, as CRI has them
	Containers map[string]container // by id, as CRI has them

	// Whose they are is in the name: an id of the runtime's or a pod's uid.
	Shims     map[string][]int    // processes by the sandbox they serve
	Runs      map[string][]int    // processes by the container they are in
	Pauses    map[string][]int    // pause processes by the pod they hold
	Strays    map[int]string      // processes that belong to none of these
	ByID      map[string][]string // by kind: the ids it keeps something for
	ByUID     map[string][]string // by kind: the pods it keeps something for
	Leases    []lease
	Links     []string
	Netns     []string
	Addresses map[netip.Addr]string // of pods, in rules
	Mounts    []string
}

type sandbox struct {
	UID     string
	Ready   bool
	Attempt uint32
}

type container struct {
	UID, Name, Sandbox string
	Attempt            uint32
	State              runtimeapi.ContainerState
}

// lease is a file of the pod network.
type lease struct {
	Address     netip.Addr
	ContainerID string
	IfName      string
	Netns       string
}

// link is the name the pod network gives the host's end.
func (l lease) link() string {
	sum := sha256.Sum256([]byte(l.ContainerID + "/" + l.IfName))
	return "knp" + hex.EncodeToString(sum[:])[:12]
}

const criDir = "io.containerd.grpc.v1.cri"

// kindsByID are folders with an entry for each container or sandbox.
func kindsByID(p config.Paths, results string) map[string]string {
	const bundles = "*/k8s.io/*" // several of containerd's plugins have some
	return map[string]string{
		"bundle":           filepath.Join(p.ContainerdState(), bundles),
		"work folder":      filepath.Join(p.Containerd(), bundles),
		"runc folder":      filepath.Join(p.Run, "runc/k8s.io/*"),
		"container folder": filepath.Join(p.Containerd(), criDir, "containers/*"),
		"container pipes":  filepath.Join(p.ContainerdState(), criDir, "containers/*"),
		"sandbox folder":   filepath.Join(p.Containerd(), criDir, "sandboxes/*"),
		"CNI result":       filepath.Join(results, "cni/results/*"),
	}
}

// kindsByUID are files and folders with an entry for each pod.
func kindsByUID(m *lab.Machine, p config.Paths) map[string][]string {
	return map[string][]string{
		"remembered pod": {filepath.Join(p.Agent(), "desired/*")},
		"pod folder":     {filepath.Join(p.Agent(), "pods/*")},
		"volumes":        {filepath.Join(p.Volumes(), "*")},
		"log folder":     {filepath.Join(p.PodLogs(), "*")},
		"cgroup": {
			filepath.Join("/sys/fs/cgroup/*", m.CgroupRoot(), "kubepods/pod*"), filepath.Join("/sys/fs/cgroup/*", m.CgroupRoot(), "kubepods/*/pod*"),
			filepath.Join("/sys/fs/cgroup", m.CgroupRoot(), "kubepods/pod*"), filepath.Join("/sys/fs/cgroup", m.CgroupRoot(), "kubepods/*/pod*"),
		},
	}
}

var (
	idIn  = regexp.MustCompile(`[0-9a-f]{64}`)
	uidIn = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
)

// look reads the machine. Things come and go meanwhile; who wants peace looks again.
func look(ctx context.Context, m *lab.Machine) (*world, error) {
	paths := config.Paths{Data: m.DataDir(), Run: m.RunDir()}
	w := &world{
		Sandboxes: map[string]sandbox{}, Containers: map[string]container{}, ByID: map[string][]string{}, ByUID: map[string][]string{},
		Shims: map[string][]int{}, Runs: map[string][]int{}, Pauses: map[string][]int{}, Strays: map[int]string{}, Addresses: map[netip.Addr]string{},
	}
	for _, read := range []func() error{
		func() error { return w.askRuntime(ctx, paths.ContainerdSocket()) },
		func() error { return w.readFiles(m, paths) },
		func() error { return w.readLeases(paths) },
		func() error { return m.Do(w.readNetwork) },
		func() error { return w.readMounts(m) },
		func() error { return w.readProcesses(m) },
	} {
		if err := read(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// askRuntime asks CRI and, below it, containerd itself.
func (w *world) askRuntime(ctx context.Context, socket string) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	cri := runtimeapi.NewRuntimeServiceClient(conn)
	sandboxes, err := cri.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes.Items {
		w.Sandboxes[s.Id] = sandbox{UID: s.Metadata.GetUid(), Ready: s.State == runtimeapi.PodSandboxState_SANDBOX_READY, Attempt: s.Metadata.GetAttempt()}
	}
	containers, err := cri.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers.Containers {
		w.Containers[c.Id] = container{
			UID: w.Sandboxes[c.PodSandboxId].UID, Name: c.Metadata.GetName(), Sandbox: c.PodSandboxId, Attempt: c.Metadata.GetAttempt(), State: c.State,
		}
	}
	client, err := containerd.NewWithConn(conn)
	if err != nil {
		return err
	}
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	stored, err := client.SandboxStore().List(ctx)
	if err != nil {
		return fmt.Errorf("list stored sandboxes: %w", err)
	}
	for _, s := range stored {
		w.ByID["stored sandbox"] = append(w.ByID["stored sandbox"], s.ID)
	}
	records, err := client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list stored containers: %w", err)
	}
	for _, c := range records {
		w.ByID["stored container"] = append(w.ByID["stored container"], c.ID)
	}
	leases, err := client.LeasesService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containerd's leases: %w", err)
	}
	for _, l := range leases {
		if idIn.MatchString(l.ID) {
			w.ByID["containerd lease"] = append(w.ByID["containerd lease"], l.ID)
		}
	}
	return nil
}

func (w *world) readFiles(m *lab.Machine, paths config.Paths) error {
	for kind, pattern := range kindsByID(paths, filepath.Join(m.Dir(), "var/lib")) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, path := range found {
			if id := idIn.FindString(filepath.Base(path)); id != "" {
				w.ByID[kind] = append(w.ByID[kind], id)
			}
		}
	}
	for kind, patterns := range kindsByUID(m, paths) {
		for _, pattern := range patterns {
			found, err := filepath.Glob(pattern)
			if err != nil {
				return err
			}
			for _, path := range found {
				if uid := uidIn.FindString(filepath.Base(path)); uid != "" {
					w.ByUID[kind] = append(w.ByUID[kind], uid)
				}
			}
		}
	}
	var err error
	w.Netns, err = filepath.Glob(filepath.Join(paths.ContainerdState(), criDir, "netns/*"))
	return err
}

func (w *world) readLeases(paths config.Paths) error {
	files, err := filepath.Glob(filepath.Join(paths.Network(), "leases/*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		var l lease
		if err := json.Unmarshal(data, &l); err != nil {
			return fmt.Errorf("read address lease %s: %w", file, err)
		}
		w.Leases = append(w.Leases, l)
	}
	return nil
}

// readNetwork runs on the machine.
func (w *world) readNetwork() error {
	links, err := dump.Links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if l.Type() == "veth" && l.Attrs().Name != "eth0" {
			w.Links = append(w.Links, l.Attrs().Name)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	for _, table := range tables {
		sets, err := conn.GetSets(table)
		if err != nil {
			return fmt.Errorf("list sets of table %s: %w", table.Name, err)
		}
		for _, set := range sets {
			elements, err := conn.GetSetElements(set)
			if err != nil {
				return fmt.Errorf("list set %s of table %s: %w", set.Name, table.Name, err)
			}
			for _, e := range elements {
				for _, address := range append(podAddresses(e.Key), podAddresses(e.Val)...) {
					w.Addresses[address] = table.Name + " " + set.Name
				}
			}
		}
	}
	return nil
}

// podRange is where the pods of the only node have their addresses; its first is the node's own.
var podRange = netip.MustParsePrefix("10.42.0.0/24")

// podAddresses are those of pods in the data of a rule, where every part begins at a multiple of four.
func podAddresses(data []byte) []netip.Addr {
	var found []netip.Addr
	for ; len(data) >= 4; data = data[4:] {
		if a := netip.AddrFrom4([4]byte(data[:4])); podRange.Contains(a) && a != podRange.Addr() && a != podRange.Addr().Next() && data[3] != 255 {
			found = append(found, a)
		}
	}
	return found
}

func (w *world) readMounts(m *lab.Machine) error {
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.Holder.PID))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], m.DataDir()+"/") || strings.HasPrefix(f[4], m.RunDir()+"/")) {
			w.Mounts = append(w.Mounts, f[4])
		}
	}
	return nil
}

// readProcesses sorts the machine's processes by what they serve.
func (w *world) readProcesses(m *lab.Machine) error {
	pids, err := m.Pids()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(arguments) == 0 {
			continue // it ended meanwhile
		}
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			continue
		}
		args := strings.Split(string(bytes.TrimRight(arguments, "\x00")), "\x00")
		switch name := filepath.Base(args[0]); {
		case name == "containerd-shim-runc-v2":
			id := after(args, "-id")
			w.Shims[id] = append(w.Shims[id], pid)
		case name == "pause":
			uid := uidIn.FindString(string(groups))
			w.Pauses[uid] = append(w.Pauses[uid], pid)
		case idIn.Match(groups):
			id := string(idIn.Find(groups))
			w.Runs[id] = append(w.Runs[id], pid)
		case name != filepath.Base(binary()):
			w.Strays[pid] = strings.Join(args, " ")
		}
	}
	return nil
}

func binary() string {
	path, err := lab.Binary()
	if err != nil {
		return ""
	}
	return path
}

func after(args []string, flag string) string {
	for i, a := range args[:len(args)-1] {
		if a == flag {
			return args[i+1]
		}
	}
	return "pid " + strconv.Itoa(len(args))
}

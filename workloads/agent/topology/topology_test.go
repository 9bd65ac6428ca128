package topology

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// tree writes files below a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// twoSockets is a machine of two sockets with a node of two cores each, two threads a core, of which the last is off.
func twoSockets() map[string]string {
	const cpu, node = "sys/devices/system/cpu/", "sys/devices/system/node/"
	files := map[string]string{cpu + "online": "0-6", node + "online": "0-1", "proc/meminfo": "MemTotal: 1 kB"}
	for id := range 7 {
		at := fmt.Sprintf("%scpu%d/", cpu, id)
		core, socket := id%4, id%4/2
		siblings := fmt.Sprintf("%d,%d", core, core+4)
		if core == 3 {
			siblings = "3"
		}
		files[at+"topology/physical_package_id"] = fmt.Sprint(socket)
		files[at+"topology/thread_siblings_list"] = siblings
		files[at+"cache/index0/level"], files[at+"cache/index0/shared_cpu_list"] = "1", siblings
		files[at+"cache/index3/level"], files[at+"cache/index3/shared_cpu_list"] = "3", []string{"0-1,4-5", "2-3,6"}[socket]
	}
	for id, cpus := range []string{"0-1,4-5", "2-3,6"} {
		at := fmt.Sprintf("%snode%d/", node, id)
		files[at+"cpulist"], files[at+"distance"] = cpus, []string{"10 21", "21 10"}[id]
		files[at+"meminfo"] = fmt.Sprintf("Node %d MemTotal:       %d kB\nNode %d MemFree:     7 kB", id, 1<<20, id)
		files[at+"hugepages/hugepages-2048kB/nr_hugepages"] = fmt.Sprint(id * 8)
		files[at+"hugepages/hugepages-1048576kB/nr_hugepages"] = "0"
	}
	return files
}

func TestRead(t *testing.T) {
	dir := tree(t, twoSockets())
	m, err := Read(filepath.Join(dir, "sys"), filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	want := Machine{
		CPUs: []CPU{
			{ID: 0, Core: 0, Cache: 0, Node: 0, Socket: 0}, {ID: 1, Core: 1, Cache: 0, Node: 0, Socket: 0},
			{ID: 2, Core: 2, Cache: 2, Node: 1, Socket: 1}, {ID: 3, Core: 3, Cache: 2, Node: 1, Socket: 1},
			{ID: 4, Core: 0, Cache: 0, Node: 0, Socket: 0}, {ID: 5, Core: 1, Cache: 0, Node: 0, Socket: 0},
			{ID: 6, Core: 2, Cache: 2, Node: 1, Socket: 1},
		},
		Nodes: []Node{
			{ID: 0, Memory: map[corev1.ResourceName]uint64{"memory": 1 << 30, "hugepages-2Mi": 0, "hugepages-1Gi": 0}, Distances: map[int]int{0: 10, 1: 21}},
			{ID: 1, Memory: map[corev1.ResourceName]uint64{"memory": 1<<30 - 16<<20, "hugepages-2Mi": 16 << 20, "hugepages-1Gi": 0}, Distances: map[int]int{0: 21, 1: 10}},
		},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("Read() (-want +got):\n%s", diff)
	}
	if got := m.All().String() + " " + m.On(2).String() + " " + m.NUMA().String(); got != "0-6 2-3,6 0-1" {
		t.Errorf("its CPUs, those of node 1, its nodes: %s", got)
	}
	if far := m.Far(3); far != 15.5 {
		t.Errorf("its nodes are %v apart, want 15.5", far)
	}
}

func TestReadWithoutNUMA(t *testing.T) {
	files := twoSockets()
	for name := range files {
		if strings.Contains(name, "/node/") || strings.Contains(name, "/cache/") {
			delete(files, name)
		}
	}
	files["proc/meminfo"] = "MemTotal:       2048 kB"
	dir := tree(t, files)
	m, err := Read(filepath.Join(dir, "sys"), filepath.Join(dir, "proc"))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Nodes) != 1 || m.Nodes[0].Memory["memory"] != 2<<20 || m.On(1).Size() != 7 || m.CPUs[6].Cache != 6 {
		t.Errorf("Read() = %+v", m)
	}
}

func TestReadThisMachine(t *testing.T) {
	m, err := Read("/sys", "/proc")
	if err != nil {
		t.Fatal(err)
	}
	if m.All().IsEmpty() || len(m.Nodes) == 0 || m.On(m.NUMA()).Size() != m.All().Size() {
		t.Errorf("Read() = %+v", m)
	}
}

func TestOnlineCountsTheMachinesCPUs(t *testing.T) {
	n, err := Online(filepath.Join(tree(t, map[string]string{"sys/devices/system/cpu/online": "0-2,5"}), "sys"))
	if n != 4 || err != nil {
		t.Errorf("Online() = %d, %v; want 4, whatever CPUs this process may run on", n, err)
	}
	if _, err := Online(t.TempDir()); err == nil || !strings.Contains(err.Error(), "is /sys mounted?") {
		t.Errorf("Online() of nothing = %v, want an error that says what to look at", err)
	}
}

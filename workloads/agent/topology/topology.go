// Package topology is what this machine is made of: CPUs, the cores, caches and sockets they share, NUMA nodes and their
// memory.
//
// In:       /sys/devices/system (sysfs-devices-system-cpu in the kernel's ABI documentation), /proc/meminfo.
// Out:      a Machine, as a value.
// Promise:  only reads, and only when asked; a machine without NUMA is one with one node.
// Not here: who gets what (workloads/agent/exclusive).
package topology

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
)

// CPU is one the kernel can run something on: a thread of a core. Cores and caches are named by the first CPU they have.
type CPU struct {
	ID, Core, Cache, Node, Socket int
}

// Node is a NUMA node.
type Node struct {
	ID int
	// Memory in bytes: hugepages by their resource's name, and memory, which is what is not hugepages.
	Memory    map[corev1.ResourceName]uint64
	Distances map[int]int // to other nodes, as the firmware says: 10 is its own
}

// Machine is all of it, in the order of numbers.
type Machine struct {
	CPUs  []CPU
	Nodes []Node
}

// Set is the CPUs that have something in common.
func (m Machine) Set(common func(CPU) bool) cpuset.CPUSet {
	var ids []int
	for _, c := range m.CPUs {
		if common(c) {
			ids = append(ids, c.ID)
		}
	}
	return cpuset.New(ids...)
}

// All is every CPU that is online.
func (m Machine) All() cpuset.CPUSet { return m.Set(func(CPU) bool { return true }) }

// On is the CPUs of some nodes.
func (m Machine) On(nodes align.Nodes) cpuset.CPUSet {
	return m.Set(func(c CPU) bool { return nodes.Has(c.Node) })
}

// NUMA is the set of all nodes.
func (m Machine) NUMA() align.Nodes {
	var all align.Nodes
	for _, n := range m.Nodes {
		all |= align.Of(n.ID)
	}
	return all
}

// Far is the mean distance of some nodes from each other and themselves.
func (m Machine) Far(nodes align.Nodes) float64 {
	sum, pairs := 0, 0
	for _, n := range m.Nodes {
		for to, distance := range n.Distances {
			if nodes.Has(n.ID) && nodes.Has(to) {
				sum, pairs = sum+distance, pairs+1
			}
		}
	}
	if pairs == 0 {
		return 0
	}
	return float64(sum) / float64(pairs)
}

// Online counts the CPUs the kernel can run something on. Those this process may run on (runtime.NumCPU) can be fewer.
func Online(sys string) (int, error) {
	online, err := list(filepath.Join(sys, "devices/system/cpu/online"))
	if err != nil {
		return 0, fmt.Errorf("count this machine's CPUs: %w; is /sys mounted?", err)
	}
	return online.Size(), nil
}

// Read this machine. sys and proc are where the kernel shows it.
func Read(sys, proc string) (Machine, error) {
	m, err := read(filepath.Join(sys, "devices/system"), filepath.Join(proc, "meminfo"))
	if err != nil {
		return Machine{}, fmt.Errorf("read how this machine is made: %w", err)
	}
	return m, nil
}

func read(system, meminfo string) (Machine, error) {
	var m Machine
	online, err := list(filepath.Join(system, "cpu/online"))
	if err != nil {
		return m, err
	}
	nodes, err := list(filepath.Join(system, "node/online"))
	if errors.Is(err, fs.ErrNotExist) {
		nodes = cpuset.New(0) // a kernel without NUMA
	} else if err != nil {
		return m, err
	}
	nodeOf := map[int]int{}
	for _, id := range nodes.List() {
		if id > align.MaxNode {
			return m, fmt.Errorf("NUMA node %d is more than can be told apart here (%d)", id, align.MaxNode)
		}
		node, cpus, err := readNode(filepath.Join(system, "node/node"+strconv.Itoa(id)), id, nodes.List(), meminfo)
		if err != nil {
			return m, err
		}
		for _, cpu := range cpus.List() {
			nodeOf[cpu] = id
		}
		m.Nodes = append(m.Nodes, node)
	}
	for _, id := range online.List() {
		cpu, err := readCPU(filepath.Join(system, "cpu/cpu"+strconv.Itoa(id)), id)
		if err != nil {
			return m, err
		}
		cpu.Node = nodeOf[id]
		m.CPUs = append(m.CPUs, cpu)
	}
	return m, nil
}

func readCPU(dir string, id int) (CPU, error) {
	c := CPU{ID: id, Core: id, Cache: id}
	text, err := os.ReadFile(filepath.Join(dir, "topology/physical_package_id"))
	if err == nil {
		c.Socket, err = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if err != nil {
		return c, err
	}
	c.Socket = max(c.Socket, 0) // -1 where the firmware does not say
	siblings, err := list(filepath.Join(dir, "topology/thread_siblings_list"))
	if err != nil {
		return c, err
	}
	c.Core = slices.Min(append(siblings.List(), id))
	// The last cache before memory is the one with the highest level. Virtual machines may show none.
	caches, err := filepath.Glob(filepath.Join(dir, "cache/index*"))
	if err != nil {
		return c, err
	}
	last := 0
	for _, cache := range caches {
		text, err := os.ReadFile(filepath.Join(cache, "level"))
		if err != nil {
			return c, err
		}
		level, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return c, fmt.Errorf("level of %s: %w", cache, err)
		}
		if level <= last {
			continue
		}
		sharing, err := list(filepath.Join(cache, "shared_cpu_list"))
		if err != nil {
			return c, err
		}
		last, c.Cache = level, slices.Min(append(sharing.List(), id))
	}
	return c, nil
}

// readNode reads a node and its CPUs. all are the nodes in the order of its distances.
func readNode(dir string, id int, all []int, meminfo string) (Node, cpuset.CPUSet, error) {
	node := Node{ID: id, Memory: map[corev1.ResourceName]uint64{}, Distances: map[int]int{}}
	cpus, err := list(filepath.Join(dir, "cpulist"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return node, cpus, err
	}
	if distances, err := os.ReadFile(filepath.Join(dir, "distance")); err == nil {
		for i, field := range strings.Fields(string(distances)) {
			if distance, err := strconv.Atoi(field); err == nil && i < len(all) {
				node.Distances[all[i]] = distance
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "meminfo"))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(meminfo)
	}
	if err != nil {
		return node, cpus, err
	}
	memory, err := memTotal(text)
	if err != nil {
		return node, cpus, err
	}
	sizes, err := filepath.Glob(filepath.Join(dir, "hugepages/hugepages-*kB"))
	if err != nil {
		return node, cpus, err
	}
	for _, size := range sizes {
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(size), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			return node, cpus, fmt.Errorf("size of %s: %w", size, err)
		}
		count, err := os.ReadFile(filepath.Join(size, "nr_hugepages"))
		if err != nil {
			return node, cpus, err
		}
		pages, err := strconv.ParseUint(strings.TrimSpace(string(count)), 10, 64)
		if err != nil {
			return node, cpus, fmt.Errorf("number of %s: %w", size, err)
		}
		name := corev1.ResourceHugePagesPrefix + resource.NewQuantity(int64(kib<<10), resource.BinarySI).String()
		node.Memory[corev1.ResourceName(name)] = pages * kib << 10
		memory -= min(memory, pages*kib<<10)
	}
	node.Memory[corev1.ResourceMemory] = memory
	return node, cpus, nil
}

// memTotal finds it in the machine's meminfo and in a node's, which has the node's name before it; the answer is in bytes.
func memTotal(text []byte) (uint64, error) {
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if i := slices.Index(fields, "MemTotal:"); i >= 0 && i+1 < len(fields) {
			kib, err := strconv.ParseUint(fields[i+1], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no MemTotal where the kernel tells of memory")
}

// list reads a file such as 0-3,8.
func list(path string) (cpuset.CPUSet, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return cpuset.CPUSet{}, err
	}
	set, err := cpuset.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return set, fmt.Errorf("%s: %w", path, err)
	}
	return set, nil
}

// Package exclusive gives containers CPUs and memory that no other pod's containers use.
//
// In:       what the machine is made of, the operator's policies, pods that are let in.
// Out:      for each container the CPUs it may run on and the NUMA nodes its memory comes from; reasons to refuse pods.
// Promise:  CPUs are one container's at a time, and a container keeps its own until its pod has ended, over restarts and
// crashes of this process: whose they are is on disk before the pod is let in. Nothing runs between changes.
// Not here: telling the kernel (workloads/agent/pod), choosing between nodes' sets (workloads/agent/align), devices
// (workloads/agent/devices), which take part in that choice.
//
// The rules are upstream's: https://kubernetes.io/docs/concepts/workloads/resource-managers/, KEP-3570 (CPU manager), KEP-2625
// and KEP-4540 (its options), KEP-1769 (memory manager), KEP-693 (topology manager).
package exclusive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/remembered"
	"knarr.dev/knarr/workloads/agent/topology"
	"knarr.dev/knarr/workloads/agent/translate"
)

// Policy is what the operator wants.
type Policy struct {
	CPUs          bool          // containers of guaranteed pods that ask for whole CPUs have them to themselves
	ReservedCPUs  cpuset.CPUSet // never to themselves; empty: as many as are reserved of the node's CPU
	KeepReserved  bool          // nobody else runs on the reserved CPUs either
	WholeCores    bool          // who has CPUs to itself has their cores to itself
	BalanceNodes  bool          // who needs several NUMA nodes has as many CPUs of each
	SameCache     bool          // CPUs share their last cache where they can
	Memory        bool          // the memory of guaranteed pods' containers comes from as few NUMA nodes as possible
	ReservedBytes map[int]Amounts
	Align         align.Policy
}

// On says whether there is anything to do.
func (p Policy) On() bool { return p.CPUs || p.Memory || p.Align.On() }

// Devices takes part in the choice of NUMA nodes. workloads/agent/devices implements it.
type Devices interface {
	// Hints are the nodes a container's devices could come from, by resource; those of no node in particular are left out.
	// Without a container they are for all of the pod's together.
	Hints(pod *corev1.Pod, container *corev1.Container, machine align.Nodes) map[string][]align.Hint
	// Allocate chooses a container's devices, of these nodes as far as there are.
	Allocate(pod *corev1.Pod, container *corev1.Container, from align.Nodes) error
}

// Config of a manager.
type Config struct {
	Policy   Policy
	Machine  topology.Machine
	Reserved corev1.ResourceList // what the node keeps from pods, memory with what eviction keeps free
	State    string              // file that remembers whose is what
	Devices  Devices             // nil: none
	Changed  func()              // containers that run are to run on other CPUs now
	Log      *slog.Logger
}

// Manager knows what is whose.
type Manager struct {
	conf     Config
	log      *slog.Logger
	all      cpuset.CPUSet
	reserved cpuset.CPUSet
	chooser  chooser
	memory   memory
	counted  *counted

	admitting sync.Mutex // one change at a time, on disk first

	mu     sync.Mutex
	pods   map[types.UID][]own
	shared cpuset.CPUSet // what is nobody's own
}

// own is what one container has to itself.
type own struct {
	Container string  `json:"container"`
	Passes    bool    `json:"passes,omitempty"` // it ends before later ones begin, which may have what it had
	CPUs      cpus    `json:"cpus,omitzero"`
	Memory    []Block `json:"memory,omitempty"`
}

// cpus are written as the kernel writes them: 0-1,3.
type cpus struct{ cpuset.CPUSet }

func (c cpus) IsZero() bool { return c.IsEmpty() }

func (c cpus) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

func (c *cpus) UnmarshalText(text []byte) (err error) {
	c.CPUSet, err = cpuset.Parse(string(text))
	return err
}

// state is what lies on disk.
type state struct {
	Machine string              `json:"machine"` // the CPUs it had
	Pods    map[types.UID][]own `json:"pods"`
}

// New reads whose is what, and says what of the policy this machine cannot do.
func New(conf Config) (*Manager, error) {
	m := &Manager{conf: conf, log: conf.Log.With("component", "exclusive"), all: conf.Machine.All(), chooser: newChooser(conf.Machine, conf.Policy)}
	sets := conf.Policy.Align.On() || conf.Policy.Memory || conf.Policy.BalanceNodes
	if most := conf.Policy.Align.MaxNodes; sets && len(conf.Machine.Nodes) > most {
		return nil, fmt.Errorf("this machine has %d NUMA nodes, and choosing among more than %d takes long: set topologyManagerPolicyOptions "+
			"max-allowable-numa-nodes, or do without topologyManagerPolicy, memoryManagerPolicy and distribute-cpus-across-numa", len(conf.Machine.Nodes), most)
	}
	var err error
	if conf.Policy.CPUs {
		if m.reserved, err = reservedCPUs(conf); err != nil {
			return nil, err
		}
	}
	if conf.Policy.Memory {
		kept := conf.Reserved[corev1.ResourceMemory]
		if m.memory, err = newMemory(conf.Machine, conf.Policy.ReservedBytes, uint64(kept.Value())); err != nil {
			return nil, err
		}
	}
	from := state{Pods: map[types.UID][]own{}}
	err = remembered.Read(conf.State, &from)
	if err == nil {
		m.pods, err = from.Pods, m.believes(from)
	}
	if err != nil {
		return nil, fmt.Errorf("whose CPUs and memory are: %w; stop the pods that have some to themselves, then delete %s", err, conf.State)
	}
	m.share()
	m.counted = newCounted(m)
	return m, nil
}

// reservedCPUs are never a container's own.
func reservedCPUs(conf Config) (cpuset.CPUSet, error) {
	all, named := conf.Machine.All(), conf.Policy.ReservedCPUs
	amount := conf.Reserved[corev1.ResourceCPU]
	n := int((amount.MilliValue() + 999) / 1000)
	switch {
	case !named.IsSubsetOf(all):
		return named, fmt.Errorf("reservedSystemCPUs: this machine has the CPUs %s, and not %s", all, named.Difference(all))
	case !named.IsEmpty():
		return named, nil
	case n <= 0:
		return named, errors.New("cpuManagerPolicy static needs CPUs for what is not exclusive: " +
			"name them in reservedSystemCPUs, or reserve an amount of cpu in kubeReserved or systemReserved")
	case n > all.Size():
		return named, fmt.Errorf("kubeReserved and systemReserved keep %d CPUs, and this machine has %d", n, all.Size())
	}
	return groups(conf.Machine, false).take(n, all), nil
}

// believes says why what was remembered cannot be true on this machine. It holds for what runs now, so it is not corrected
// behind its back.
func (m *Manager) believes(from state) error {
	given := cpuset.New()
	for _, uid := range slices.Sorted(maps.Keys(from.Pods)) {
		his := cpusOf(from.Pods[uid])
		switch {
		case !his.IsSubsetOf(m.all):
			return fmt.Errorf("pod %s has CPUs %s to itself, and this machine, which had the CPUs %s, has %s now", uid, his, from.Machine, m.all)
		case m.conf.Policy.CPUs && !his.Intersection(m.reserved).IsEmpty():
			return fmt.Errorf("pod %s has CPUs %s to itself, and %s are reserved now", uid, his, m.reserved)
		case !his.Intersection(given).IsEmpty():
			return fmt.Errorf("CPUs %s belong to two pods", his.Intersection(given))
		}
		given = given.Union(his)
		for _, o := range from.Pods[uid] {
			for _, b := range o.Memory {
				if b.Nodes&^m.conf.Machine.NUMA() != 0 {
					return fmt.Errorf("pod %s has memory of NUMA nodes %s, and this machine has the nodes %s", uid, b.Nodes, m.conf.Machine.NUMA())
				}
			}
		}
	}
	return nil
}

func cpusOf(list []own) cpuset.CPUSet {
	all := cpuset.New()
	for _, o := range list {
		all = all.Union(o.CPUs.CPUSet)
	}
	return all
}

// share works out what is nobody's own; m.mu is held, or nobody else has m yet.
func (m *Manager) share() (changed bool) {
	if !m.conf.Policy.CPUs {
		return false
	}
	shared := m.all.Difference(m.given())
	if m.conf.Policy.KeepReserved {
		// Containers have to run somewhere: on the reserved CPUs only when all others are somebody's own.
		if rest := shared.Difference(m.reserved); !rest.IsEmpty() {
			shared = rest
		}
	}
	changed = !shared.Equals(m.shared)
	m.shared = shared
	return changed
}

// given are the CPUs that are somebody's own; m.mu is held, or nobody else has m yet.
func (m *Manager) given() cpuset.CPUSet {
	var all cpuset.CPUSet
	for _, list := range m.pods {
		all = all.Union(cpusOf(list))
	}
	return all
}

// set changes what a pod has, on disk first; m.admitting is held.
func (m *Manager) set(pod types.UID, list []own) error {
	m.mu.Lock()
	next := maps.Clone(m.pods)
	m.mu.Unlock()
	if next[pod] = list; len(list) == 0 {
		delete(next, pod)
	}
	if err := remembered.Write(m.conf.State, state{Machine: m.all.String(), Pods: next}); err != nil {
		return fmt.Errorf("remember whose CPUs and memory are: %w", err)
	}
	m.mu.Lock()
	m.pods = next
	changed := m.share()
	m.mu.Unlock()
	if changed {
		m.log.Info("CPUs that containers share changed", "cpus", m.shared.String())
		m.conf.Changed()
	}
	return nil
}

// Admit sets aside what a new pod's containers are to have to themselves. What it cannot have is an error.
func (m *Manager) Admit(pod *corev1.Pod) error {
	m.admitting.Lock()
	defer m.admitting.Unlock()
	m.mu.Lock()
	_, has := m.pods[pod.UID]
	others := maps.Clone(m.pods)
	m.mu.Unlock()
	if has {
		return nil
	}
	began := time.Now()
	list, err := m.choose(pod, others)
	m.counted.admitted(time.Since(began), err)
	if err != nil || len(list) == 0 {
		return err
	}
	return m.set(pod.UID, list)
}

// choose for each of a pod's containers, in the order they run.
func (m *Manager) choose(pod *corev1.Pod, others map[types.UID][]own) ([]own, error) {
	wanted := m.wants(pod)
	t := turn{manager: m, free: m.all.Difference(m.reserved), taken: held{}, passedMemory: held{}, passedCPUs: cpuset.New()}
	for _, list := range others {
		t.free = t.free.Difference(cpusOf(list))
		for _, b := range blocksOf(list) {
			t.taken.add(b)
		}
	}
	nodes := align.Anywhere
	if m.conf.Policy.Align.On() && m.conf.Policy.Align.Pods {
		var err error
		if nodes, err = m.decide(t.hints(whole(wanted)), pod, nil); err != nil {
			return nil, err
		}
	}
	var list []own
	for i := range wanted {
		w := &wanted[i]
		if m.conf.Policy.Align.On() {
			if !m.conf.Policy.Align.Pods {
				var err error
				if nodes, err = m.decide(t.hints(*w), pod, w.container); err != nil {
					return nil, err
				}
			}
			if m.conf.Devices != nil {
				if err := m.conf.Devices.Allocate(pod, w.container, nodes); err != nil {
					return nil, err
				}
			}
		}
		has, err := t.give(*w, nodes)
		if err != nil {
			return nil, unexpected(err)
		}
		if !has.CPUs.IsEmpty() || len(has.Memory) > 0 {
			list = append(list, has)
		}
	}
	return list, nil
}

// decide from which nodes a container, or without one the whole pod, has what it asks for.
func (m *Manager) decide(hints [][]align.Hint, pod *corev1.Pod, c *corev1.Container) (align.Nodes, error) {
	if m.conf.Devices != nil {
		of := m.conf.Devices.Hints(pod, c, m.conf.Machine.NUMA())
		for _, name := range slices.Sorted(maps.Keys(of)) {
			hints = append(hints, of[name])
		}
	}
	nodes, in := m.conf.Policy.Align.Decide(m.conf.Machine.NUMA(), hints, m.conf.Machine.Far)
	if !in {
		return 0, Refusal{Reason: "TopologyAffinityError", Message: "Resources cannot be allocated with Topology locality"}
	}
	return nodes, nil
}

// turn is one pod's turn to choose: what others have left, and what its own containers pass on.
type turn struct {
	manager      *Manager
	free         cpuset.CPUSet
	passedCPUs   cpuset.CPUSet
	taken        held
	passedMemory held
}

func (t *turn) hints(w want) [][]align.Hint {
	var hints [][]align.Hint
	if w.cpus > 0 {
		hints = append(hints, t.manager.chooser.hints(w.cpus, t.manager.all, t.free, t.passedCPUs))
	}
	if len(w.memory) > 0 {
		hints = append(hints, t.manager.memory.hints(w.memory, t.taken, t.passedMemory))
	}
	return hints
}

// give one container what it asks for, from these nodes as far as it can be.
func (t *turn) give(w want, from align.Nodes) (own, error) {
	has := own{Container: w.container.Name, Passes: w.passes}
	if w.cpus > 0 {
		t.manager.counted.cpus.Inc()
		got, err := t.manager.chooser.choose(w.cpus, t.free, t.passedCPUs, from)
		if err != nil {
			t.manager.counted.cpuErrors.Inc()
			return has, err
		}
		has.CPUs.CPUSet = got
		t.free = t.free.Difference(got)
		if t.passedCPUs = t.passedCPUs.Difference(got); w.passes {
			t.passedCPUs = t.passedCPUs.Union(got)
		}
	}
	if len(w.memory) > 0 {
		t.manager.counted.memories.Inc()
		blocks, err := t.manager.memory.choose(w.memory, t.taken, t.passedMemory, from)
		if err != nil {
			t.manager.counted.memoryErrors.Inc()
			return has, err
		}
		has.Memory = blocks
		for _, b := range carry(blocks, t.passedMemory, w.passes) {
			t.taken.add(b)
		}
	}
	return has, nil
}

// carry is what of some blocks was not passed on by containers before; passed becomes what is left for later ones.
func carry(blocks []Block, passed held, passes bool) []Block {
	var fresh []Block
	for _, b := range blocks {
		if passed[b.Nodes] == nil {
			passed[b.Nodes] = Amounts{}
		}
		again := min(b.Size, passed[b.Nodes][b.Type])
		passed[b.Nodes][b.Type] -= again
		if passes {
			passed[b.Nodes][b.Type] += b.Size
		}
		b.Size -= again
		fresh = append(fresh, b)
	}
	return fresh
}

// blocksOf are the memory a pod's containers have together.
func blocksOf(list []own) []Block {
	var all []Block
	passed := held{}
	for _, o := range list {
		all = append(all, carry(o.Memory, passed, o.Passes)...)
	}
	return all
}

// Of says where a container is to run. Without CPUs of its own it has those that all share.
func (m *Manager) Of(pod types.UID, container string) translate.Place {
	m.mu.Lock()
	defer m.mu.Unlock()
	place := translate.Place{CPUs: m.shared.String()}
	for _, o := range m.pods[pod] {
		if o.Container != container {
			continue
		}
		if !o.CPUs.IsEmpty() {
			place.CPUs, place.Own = o.CPUs.String(), true
		}
		for _, b := range o.Memory {
			place.Mems = b.Nodes.String()
		}
	}
	return place
}

// Equip implements pod.Equipment: a container's CPUs and memory are asked for with Of.
func (m *Manager) Equip(context.Context, *corev1.Pod, *corev1.Container) (translate.Extras, error) {
	return translate.Extras{}, nil
}

// Release gives back what a pod had.
func (m *Manager) Release(_ context.Context, pod types.UID) error {
	m.admitting.Lock()
	defer m.admitting.Unlock()
	m.mu.Lock()
	_, has := m.pods[pod]
	m.mu.Unlock()
	if !has {
		return nil
	}
	return m.set(pod, nil)
}

// Pods are those that have something to themselves.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Keys(m.pods), func(a, b types.UID) int { return cmp.Compare(a, b) })
}

// HasCPUs says whether any of a pod's containers has CPUs to itself.
func (m *Manager) HasCPUs(pod types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !cpusOf(m.pods[pod]).IsEmpty()
}

// Given is what a container has to itself.
func (m *Manager) Given(pod types.UID, container string) (cpuset.CPUSet, []Block) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.pods[pod] {
		if o.Container == container {
			return o.CPUs.CPUSet, o.Memory
		}
	}
	return cpuset.New(), nil
}

// Allocatable is what containers could have to themselves were no pod here.
func (m *Manager) Allocatable() (cpuset.CPUSet, []Block) {
	var free cpuset.CPUSet
	if m.conf.Policy.CPUs {
		free = m.all.Difference(m.reserved)
	}
	var blocks []Block
	for _, id := range slices.Sorted(maps.Keys(m.memory.has)) {
		for _, name := range slices.Sorted(maps.Keys(m.memory.has[id])) {
			if size := m.memory.has[id][name]; size > 0 {
				blocks = append(blocks, Block{Type: name, Size: size, Nodes: align.Of(id)})
			}
		}
	}
	return free, blocks
}

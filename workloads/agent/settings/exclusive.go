package settings

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/exclusive"
)

// exclusivePolicy is what containers may have to themselves, and where from. note takes each mistake with its field.
func exclusivePolicy(from kubeletv1beta1.KubeletConfiguration, note func(field string, err error)) exclusive.Policy {
	var p exclusive.Policy
	switch p.CPUs = from.CPUManagerPolicy == "static"; from.CPUManagerPolicy {
	case "", "none", "static":
	default:
		note("cpuManagerPolicy", fmt.Errorf("%q is not known: use none or static", from.CPUManagerPolicy))
	}
	var err error
	p.ReservedCPUs, err = cpuset.Parse(from.ReservedSystemCPUs)
	if err != nil {
		err = fmt.Errorf("%q is not a list of CPUs: give one such as 0-1,8", from.ReservedSystemCPUs)
	}
	note("reservedSystemCPUs", err)
	note("cpuManagerPolicyOptions", switches(from.CPUManagerPolicyOptions, map[string]*bool{
		"full-pcpus-only": &p.WholeCores, "distribute-cpus-across-numa": &p.BalanceNodes,
		"strict-cpu-reservation": &p.KeepReserved, "prefer-align-cpus-by-uncorecache": &p.SameCache,
	}))
	switch {
	case len(from.CPUManagerPolicyOptions) > 0 && !p.CPUs:
		note("cpuManagerPolicyOptions", errors.New("they are those of cpuManagerPolicy static: set it, or remove them"))
	case p.BalanceNodes && p.SameCache:
		note("cpuManagerPolicyOptions", errors.New("distribute-cpus-across-numa and prefer-align-cpus-by-uncorecache cannot be used together"))
	}
	switch p.Memory = from.MemoryManagerPolicy == kubeletv1beta1.StaticMemoryManagerPolicy; from.MemoryManagerPolicy {
	case "", kubeletv1beta1.NoneMemoryManagerPolicy, kubeletv1beta1.StaticMemoryManagerPolicy:
	default:
		note("memoryManagerPolicy", fmt.Errorf("%q is not known: use None or Static", from.MemoryManagerPolicy))
	}
	if p.ReservedBytes, err = reservedMemory(from.ReservedMemory); err == nil && len(from.ReservedMemory) > 0 && !p.Memory {
		err = errors.New("it is for memoryManagerPolicy Static: set it, or remove this")
	}
	note("reservedMemory", err)
	p.Align = alignment(from, note)
	return p
}

// switches turns options of a policy on and off.
func switches(options map[string]string, known map[string]*bool) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(options)) {
		at, there := known[name]
		on, err := strconv.ParseBool(options[name])
		switch {
		case !there:
			errs = append(errs, fmt.Errorf("%q is not known here: use %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", ")))
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %q is neither true nor false", name, options[name]))
		default:
			*at = on
		}
	}
	return errors.Join(errs...)
}

func reservedMemory(list []kubeletv1beta1.MemoryReservation) (map[int]exclusive.Amounts, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := map[int]exclusive.Amounts{}
	var errs []error
	for _, r := range list {
		id := int(r.NumaNode)
		if out[id] == nil {
			out[id] = exclusive.Amounts{}
		}
		for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
			amount := r.Limits[name]
			_, twice := out[id][name]
			switch {
			case name != corev1.ResourceMemory && !strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
				errs = append(errs, fmt.Errorf("NUMA node %d: %q is no memory: use memory and hugepages-SIZE", id, name))
			case amount.Sign() <= 0:
				errs = append(errs, fmt.Errorf("NUMA node %d: %s of %s cannot be reserved", id, amount.String(), name))
			case twice:
				errs = append(errs, fmt.Errorf("NUMA node %d: %s is there twice", id, name))
			default:
				out[id][name] = uint64(amount.Value())
			}
		}
	}
	return out, errors.Join(errs...)
}

// The sets of n nodes are 2 to the nth: those of eight, upstream's bound, take a millisecond for each pod, those of twelve
// seconds.
const fewNodes, mostNodes = 8, 12

func alignment(from kubeletv1beta1.KubeletConfiguration, note func(field string, err error)) align.Policy {
	p := align.Policy{Name: from.TopologyManagerPolicy, MaxNodes: fewNodes}
	switch p.Name {
	case "", align.None, align.BestEffort, align.Restricted, align.SingleNode:
	default:
		note("topologyManagerPolicy", fmt.Errorf("%q is not known: use %s, %s, %s or %s", p.Name, align.None, align.BestEffort, align.Restricted, align.SingleNode))
	}
	switch p.Pods = from.TopologyManagerScope == kubeletv1beta1.PodTopologyManagerScope; from.TopologyManagerScope {
	case "", kubeletv1beta1.ContainerTopologyManagerScope, kubeletv1beta1.PodTopologyManagerScope:
	default:
		note("topologyManagerScope", fmt.Errorf("%q is not known: use container or pod", from.TopologyManagerScope))
	}
	const most = "max-allowable-numa-nodes"
	options := maps.Clone(from.TopologyManagerPolicyOptions)
	if text, said := options[most]; said {
		delete(options, most)
		n, err := strconv.Atoi(text)
		if err != nil || n < fewNodes || n > mostNodes {
			note("topologyManagerPolicyOptions", fmt.Errorf("%s: %q is not a number from %d to %d", most, text, fewNodes, mostNodes))
		}
		p.MaxNodes = n
	}
	note("topologyManagerPolicyOptions", switches(options, map[string]*bool{"prefer-closest-numa-nodes": &p.Closest}))
	return p
}

package proxy

import (
	"time"

	"github.com/google/nftables"
)

// setKind is one of the table's few sets and maps; each exists once for a family, whatever the number of Services: the
// kernel finds sets by walking a list.
type setKind struct {
	prefix string
	make   func(f family) nftables.Set
}

var (
	// frontendMap: address . protocol . port -> chain.
	frontendMap = setKind{"services", func(f family) nftables.Set {
		return nftables.Set{IsMap: true, DataType: nftables.TypeVerdict, KeyType: nftables.MustConcatSetType(f.kind, nftables.TypeInetProto, nftables.TypeInetService)}
	}}
	// nodePortMap: protocol . port -> chain.
	nodePortMap = setKind{"nodeports", func(f family) nftables.Set {
		return nftables.Set{IsMap: true, DataType: nftables.TypeVerdict, KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)}
	}}
	// slotMap: pool . slot -> endpoint. Slots of a pool are numbered from 0 without gaps.
	slotMap = setKind{"endpoints", func(f family) nftables.Set {
		return nftables.Set{IsMap: true, DataType: endpointType(f), KeyType: nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeMark)}
	}}
	// memberSet: pool . endpoint, of sticky pools.
	memberSet = setKind{"members", func(f family) nftables.Set {
		return nftables.Set{KeyType: nftables.MustConcatSetType(nftables.TypeMark, f.kind, nftables.TypeInetService)}
	}}
	// stickyMap: pool . client -> the endpoint it had. The kernel writes it. Its size bounds what a flood of clients can
	// cost, some 30 MB of kernel memory.
	stickyMap = setKind{"sticky", func(f family) nftables.Set {
		return nftables.Set{
			IsMap: true, Dynamic: true, HasTimeout: true, Timeout: 24 * time.Hour, Size: 1 << 18,
			DataType: endpointType(f), KeyType: nftables.MustConcatSetType(nftables.TypeMark, f.kind),
		}
	}}
	// loopSet: pod . pod, of those that may reach themselves.
	loopSet = setKind{"loops", func(f family) nftables.Set {
		return nftables.Set{KeyType: nftables.MustConcatSetType(f.kind, f.kind)}
	}}

	allSets = []setKind{frontendMap, nodePortMap, slotMap, memberSet, stickyMap, loopSet}
)

func (s setKind) name(f family) string { return s.prefix + f.suffix }

func (s setKind) of(f family, table *nftables.Table) *nftables.Set {
	set := s.make(f)
	set.Table, set.Name = table, s.name(f)
	return &set
}

// endpointType is an address and a port, where connections go.
func endpointType(f family) nftables.SetDatatype {
	return nftables.MustConcatSetType(f.kind, nftables.TypeInetService)
}

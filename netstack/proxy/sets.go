package proxy

import (
	"fmt"
	"time"

	"github.com/google/nftables"

	"knarr.dev/knarr/netstack/nft"
)

// setKind is one of the table's sets and maps; there is one for each family. They are few whatever the number of
// Services, because the kernel finds a set by walking the list of them.
type setKind struct {
	prefix, tail string
	make         func(f nft.Family) nftables.Set
}

var (
	// frontendMap: address . protocol . port -> chain.
	frontendMap = setKind{prefix: "services", make: func(f nft.Family) nftables.Set {
		return nftables.Set{IsMap: true, DataType: nftables.TypeVerdict, KeyType: nftables.MustConcatSetType(f.Kind, nftables.TypeInetProto, nftables.TypeInetService)}
	}}
	// nodePortMap: protocol . port -> chain.
	nodePortMap = setKind{prefix: "nodeports", make: func(f nft.Family) nftables.Set {
		return nftables.Set{IsMap: true, DataType: nftables.TypeVerdict, KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)}
	}}
	// stickySet: member . client, of those who were with that endpoint lately. The kernel writes it. Its size bounds what
	// a flood of clients can cost, some 30 MB of kernel memory.
	stickySet = setKind{prefix: "sticky", make: func(f nft.Family) nftables.Set {
		return nftables.Set{
			Dynamic: true, HasTimeout: true, Timeout: 24 * time.Hour, Size: 1 << 18,
			KeyType: nftables.MustConcatSetType(nftables.TypeMark, f.Kind),
		}
	}}
	// loopSet: pod . pod, of those that may reach themselves.
	loopSet = setKind{prefix: "loops", make: func(f nft.Family) nftables.Set {
		return nftables.Set{KeyType: nftables.MustConcatSetType(f.Kind, f.Kind)}
	}}

	fixedSets = []setKind{frontendMap, nodePortMap, stickySet, loopSet}
)

// shards is over how many maps the pools are spread. For every element that comes the kernel walks all rules that look
// into its map, and for every rule all elements; with one map for all, installing n Services would cost n squared.
const shards = 64

// slotMap: pool . slot -> endpoint. Slots of a pool are numbered from 0 without gaps.
func slotMap(pool uint32) setKind {
	return setKind{prefix: "endpoints", tail: fmt.Sprintf("-%02x", pool%shards), make: func(f nft.Family) nftables.Set {
		return nftables.Set{IsMap: true, DataType: endpointType(f), KeyType: nftables.MustConcatSetType(nftables.TypeMark, nftables.TypeMark)}
	}}
}

func (s setKind) name(f nft.Family) string { return s.prefix + f.Suffix + s.tail }

func (s setKind) of(f nft.Family, table *nftables.Table) *nftables.Set {
	set := s.make(f)
	set.Table, set.Name = table, s.name(f)
	return &set
}

// endpointType is an address and a port, where connections go.
func endpointType(f nft.Family) nftables.SetDatatype {
	return nftables.MustConcatSetType(f.Kind, nftables.TypeInetService)
}

package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// TableName is our table in the kernel, in the inet family.
const TableName = "knarr-policy"

// chunk is how many elements travel in one message: an attribute holds 64 KiB, and an element may name a chain.
const chunk = 150

// The registers of rules: addresses take four words from here on, ports the next one.
const (
	regA      = nft.Scratch
	regMember = unix.NFT_REG32_08
)

// way is a direction as the kernel has it.
type way struct {
	dispatch string // a map from addresses of local pods to their chains
	local    func(nft.Family, uint32) expr.Any
	peer     func(nft.Family, uint32) expr.Any
	hooks    map[string]*nftables.ChainHook
	priority *nftables.ChainPriority
}

// Being allowed out is no leave to come in, so each direction has hooks of its own: an accept ends one hook only. What a
// pod sends to its node passes input; what its node sends to it passes neither.
var (
	sends = way{"senders", nft.Source, nft.Destination, map[string]*nftables.ChainHook{
		"forward-out": nftables.ChainHookForward, "input-out": nftables.ChainHookInput,
	}, nftables.ChainPriorityFilter}
	gets = way{"receivers", nft.Destination, nft.Source, map[string]*nftables.ChainHook{
		"forward-in": nftables.ChainHookForward,
	}, nftables.ChainPriorityRef(*nftables.ChainPriorityFilter + 1)}
)

// selfSet has address . address of the local pods that have rules: no pod is kept from itself.
const selfSet = "selves"

// kernel turns rules into transactions of nftables.
type kernel struct {
	conn     *nftables.Conn
	port     uint32
	table    *nftables.Table
	families []nft.Family
	has      *Rules // as installed; nil if that is not known
	setIDs   uint32
}

func openKernel(families []nft.Family) (*kernel, error) {
	conn, port, err := nft.Open()
	if err != nil {
		return nil, err
	}
	return &kernel{conn: conn, port: port, table: &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}, families: families}, nil
}

func (k *kernel) close() error { return k.conn.CloseLasting() }

// doubt has what is there forgotten: who says that it changed knows.
func (k *kernel) doubt() bool {
	if k.has == nil || len(k.has.Chains) == 0 {
		return false
	}
	k.has = nil
	return true
}

// commit makes the table what rules say, in one transaction: by a difference, if what is there is known. Rules for nobody
// are no table at all: packets of a cluster without policies pass none.
func (k *kernel) commit(rules Rules) error {
	before := k.has
	k.has = nil // until the kernel has agreed
	var err error
	switch {
	case before != nil && len(before.Chains) > 0 && len(rules.Chains) > 0:
		err = k.render(*before, rules)
	case before != nil && len(before.Chains) == 0 && len(rules.Chains) == 0:
	default:
		k.conn.AddTable(k.table) // deleting what is not there would fail
		k.conn.DelTable(k.table)
		if len(rules.Chains) > 0 {
			k.conn.AddTable(k.table)
			k.setIDs = 0
			if err = k.frame(); err == nil {
				err = k.render(Rules{}, rules)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("render the policy table: %w", err)
	}
	if err := k.conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", TableName, err)
	}
	k.has = &rules
	return nil
}

// frame makes the fixed part. Only the first packet of a connection is judged: answers come back, and what was allowed
// when it began goes on.
func (k *kernel) frame() error {
	for _, f := range k.families {
		for name, kind := range map[string]kind{sends.dispatch: toChains, gets.dispatch: toChains, selfSet: ofPairs} {
			if err := k.addSet(name+f.Suffix, kind.of(f)); err != nil {
				return err
			}
		}
	}
	for _, w := range []way{sends, gets} {
		for name, hook := range w.hooks {
			k.conn.AddChain(&nftables.Chain{Table: k.table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: w.priority})
			k.rule(name, []expr.Any{
				&expr.Ct{Key: expr.CtKeySTATE, Register: regA},
				&expr.Bitwise{
					SourceRegister: regA, DestRegister: regA, Len: 4,
					Mask: nft.Word(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: nft.Word(0),
				},
				&expr.Cmp{Op: expr.CmpOpNeq, Register: regA, Data: nft.Word(0)},
				nft.Verdict(expr.VerdictAccept, ""),
			})
			for _, f := range k.families {
				if f.V6 {
					k.rule(name, neighbourDiscovery(f))
				}
				k.rule(name, nft.Join(nft.Only(f), []expr.Any{
					nft.Source(f, regMember), nft.Destination(f, regMember+f.Words),
					&expr.Lookup{SourceRegister: regMember, SetName: selfSet + f.Suffix},
					nft.Verdict(expr.VerdictAccept, ""),
				}))
				k.rule(name, nft.Join(nft.Only(f), []expr.Any{
					w.local(f, regMember),
					&expr.Lookup{SourceRegister: regMember, SetName: w.dispatch + f.Suffix, IsDestRegSet: true},
				}))
			}
		}
	}
	return nil
}

// neighbourDiscovery lets the messages pass by which neighbours find each other: IPv6's ARP.
func neighbourDiscovery(f nft.Family) []expr.Any {
	return nft.Join(nft.Only(f), []expr.Any{
		nft.Protocol(regA), &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: regA, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpGte, Register: regA, Data: []byte{133}}, // router solicitation
		&expr.Cmp{Op: expr.CmpOpLte, Register: regA, Data: []byte{137}}, // redirect
		nft.Verdict(expr.VerdictAccept, ""),
	})
}

// render adds the difference to the transaction. What is referred to must be there before, and what goes must not be
// referred to any more.
func (k *kernel) render(before, after Rules) error {
	was, is := contents(before), contents(after)
	for name, set := range is {
		if _, there := was[name]; there {
			continue // the ones every table has are in its frame
		}
		for _, f := range k.families {
			if err := k.addSet(name+f.Suffix, set.kind.of(f)); err != nil {
				return err
			}
		}
	}
	for name := range after.Chains {
		if _, there := before.Chains[name]; !there {
			k.conn.AddChain(&nftables.Chain{Table: k.table, Name: name})
		}
	}
	for name, steps := range after.Chains {
		had, there := before.Chains[name]
		if there && reflect.DeepEqual(had, steps) {
			continue
		}
		if there {
			k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: name})
		}
		for _, step := range steps {
			k.step(name, step)
		}
	}
	for name, set := range is {
		if err := k.fill(name, was[name], set); err != nil {
			return err
		}
	}
	var gone []string
	for name := range before.Chains {
		if _, stays := after.Chains[name]; !stays {
			gone = append(gone, name)
		}
	}
	for _, name := range gone { // all first: they jump to each other
		k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: name})
	}
	for _, name := range gone {
		k.conn.DelChain(&nftables.Chain{Table: k.table, Name: name})
	}
	for name := range was {
		if _, stays := is[name]; stays {
			continue
		}
		for _, f := range k.families {
			k.conn.DelSet(&nftables.Set{Table: k.table, Name: name + f.Suffix})
		}
	}
	return nil
}

// content is what one of the table's sets holds, in both families.
type content struct {
	kind     kind
	elements map[Member]string // to the chain, in a map
}

// kind of a set.
type kind int

const (
	ofAddresses kind = iota // address
	ofPorts                 // address . port
	ofPairs                 // address . the same address
	toChains                // address -> chain
)

func (i kind) of(f nft.Family) nftables.Set {
	switch i {
	case ofPorts:
		return nftables.Set{Concatenation: true, KeyType: nftables.MustConcatSetType(f.Kind, nftables.TypeInetService)}
	case ofPairs:
		return nftables.Set{Concatenation: true, KeyType: nftables.MustConcatSetType(f.Kind, f.Kind)}
	case toChains:
		return nftables.Set{IsMap: true, DataType: nftables.TypeVerdict, KeyType: f.Kind}
	}
	return nftables.Set{KeyType: f.Kind}
}

func (i kind) element(m Member, chain string) nftables.SetElement {
	key := m.Addr.AsSlice()
	switch i {
	case ofPorts:
		key = append(binary.BigEndian.AppendUint16(key, m.Port), 0, 0)
	case ofPairs:
		key = append(key, key...)
	case toChains:
		return nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
	}
	return nftables.SetElement{Key: key}
}

// contents are all sets of some rules, by the names they have without their family.
func contents(r Rules) map[string]content {
	all := map[string]content{}
	selves := map[Member]string{}
	for name, chains := range map[string]map[netip.Addr]string{sends.dispatch: r.Egress, gets.dispatch: r.Ingress} {
		elements := map[Member]string{}
		for address, chain := range chains {
			elements[Member{Addr: address}] = chain
			selves[Member{Addr: address}] = ""
		}
		all[name] = content{toChains, elements}
	}
	all[selfSet] = content{ofPairs, selves}
	for name, set := range r.Sets {
		c := content{ofAddresses, make(map[Member]string, len(set.Members))}
		if set.Named {
			c.kind = ofPorts
		}
		for m := range set.Members {
			c.elements[m] = ""
		}
		all[name] = c
	}
	return all
}

// fill makes the elements of a set what they should be; before is what it has.
func (k *kernel) fill(name string, before, after content) error {
	for _, f := range k.families {
		set := after.kind.of(f)
		set.Table, set.Name = k.table, name+f.Suffix
		pick := func(some, other content) (all []nftables.SetElement) {
			for m, chain := range some.elements {
				if there, same := other.elements[m]; m.Addr.Is6() == f.V6 && (!same || there != chain) {
					all = append(all, some.kind.element(m, chain))
				}
			}
			return all
		}
		for part := range slices.Chunk(pick(before, after), chunk) {
			if err := k.conn.SetDeleteElements(&set, part); err != nil {
				return fmt.Errorf("take elements from %s: %w", set.Name, err)
			}
		}
		for part := range slices.Chunk(pick(after, before), chunk) {
			if err := k.conn.SetAddElements(&set, part); err != nil {
				return fmt.Errorf("put elements into %s: %w", set.Name, err)
			}
		}
	}
	return nil
}

func (k *kernel) addSet(name string, set nftables.Set) error {
	k.setIDs++ // the library's own counter is shared by every connection of the process
	set.Table, set.Name, set.ID = k.table, name, k.setIDs
	if err := k.conn.AddSet(&set, nil); err != nil {
		return fmt.Errorf("add set %s: %w", name, err)
	}
	return nil
}

// step adds the rules of one step: one, or one for each family that its peers can be of.
func (k *kernel) step(chain string, s Step) {
	switch {
	case s.Jump != "":
		k.rule(chain, []expr.Any{nft.Verdict(expr.VerdictJump, s.Jump)})
		return
	case s.Drop:
		k.rule(chain, []expr.Any{nft.Verdict(expr.VerdictDrop, "")})
		return
	case s.Set == "" && !s.Block.IsValid():
		k.rule(chain, append(transport(s), nft.Verdict(expr.VerdictAccept, "")))
		return
	}
	for _, f := range k.families {
		if s.Block.IsValid() && s.Block.Addr().Is6() != f.V6 {
			continue
		}
		k.rule(chain, nft.Join(nft.Only(f), transport(s), peersOf(f, s), []expr.Any{nft.Verdict(expr.VerdictAccept, "")}))
	}
}

// transport matches a step's protocol and ports.
func transport(s Step) []expr.Any {
	var exprs []expr.Any
	if s.Protocol != 0 {
		exprs = append(exprs, nft.Protocol(regA), &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: []byte{s.Protocol}})
	}
	switch {
	case s.To == 0:
	case s.To == s.From:
		exprs = append(exprs, nft.DestinationPort(regA), &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: binary.BigEndian.AppendUint16(nil, s.To)})
	default:
		exprs = append(exprs, nft.DestinationPort(regA),
			&expr.Cmp{Op: expr.CmpOpGte, Register: regA, Data: binary.BigEndian.AppendUint16(nil, s.From)},
			&expr.Cmp{Op: expr.CmpOpLte, Register: regA, Data: binary.BigEndian.AppendUint16(nil, s.To)})
	}
	return exprs
}

// peersOf matches a step's peers, of one family.
func peersOf(f nft.Family, s Step) []expr.Any {
	load := nft.Source
	if s.Out {
		load = nft.Destination
	}
	if s.Set != "" {
		exprs := []expr.Any{load(f, regMember)}
		if s.Named {
			exprs = append(exprs, nft.DestinationPort(regMember+f.Words))
		}
		return append(exprs, &expr.Lookup{SourceRegister: regMember, SetName: s.Set + f.Suffix})
	}
	exprs := nft.Within(f, load(f, regA), s.Block, expr.CmpOpEq)
	for _, except := range s.Except {
		exprs = append(exprs, nft.Within(f, load(f, regA), except, expr.CmpOpNeq)...)
	}
	return exprs
}

func (k *kernel) rule(chain string, exprs []expr.Any) {
	k.conn.AddRule(&nftables.Rule{Table: k.table, Chain: &nftables.Chain{Table: k.table, Name: chain}, Exprs: exprs})
}

// Remove deletes everything this package puts into the kernel. Nothing there is fine.
func Remove() error {
	return errors.Join(nft.Remove(nftables.TableFamilyINet, TableName), xt.Remove(ownerName), removeSets())
}

package proxy

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// TableName is our table in the kernel, in the inet family.
const TableName = "knarr-services"

// probeName is a table that never is.
const probeName = "knarr-probe"

// chunk is how many elements travel in one message: an attribute holds 64 KiB, a chain's name up to 250 bytes.
const chunk = 150

// kernel turns changes into transactions of nftables.
type kernel struct {
	conn   *nftables.Conn
	port   uint32 // our netlink address, by which the watch tells our transactions from other people's
	table  *nftables.Table
	site   Site
	ranges []netip.Prefix // cluster addresses, taken or not

	pools   map[string]held // by chain, as installed
	numbers map[uint32]bool // of pools
	sets    map[string]bool // by name, as installed
}

// held is a chain's endpoints in the kernel.
type held struct {
	number  uint32
	slots   []netip.AddrPort
	members map[netip.AddrPort]uint32 // of a sticky pool: what clients of an endpoint are filed under
	left    int                       // how many members went: one that comes back is a new one
}

func openKernel(site Site, serviceRanges []netip.Prefix) (*kernel, error) {
	k := &kernel{
		table:  &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet},
		site:   site,
		ranges: serviceRanges,
	}
	var err error
	if k.conn, k.port, err = nft.Open(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *kernel) close() error { return k.conn.CloseLasting() }

// rebuild replaces whatever is in the table with what all says, in one transaction. Established connections do not
// notice; what sticky clients had is carried over.
func (k *kernel) rebuild(all Change) error {
	kept := k.readSticky()
	if err := errors.Join(k.build(all), k.restoreSticky(kept)); err != nil {
		return fmt.Errorf("render the service table: %w", err)
	}
	if err := k.conn.Flush(); err != nil {
		return explain(fmt.Errorf("install the service table: %w", err))
	}
	return nil
}

// build adds a whole table to the transaction.
func (k *kernel) build(all Change) error {
	k.pools, k.numbers, k.sets = map[string]held{}, map[uint32]bool{}, map[string]bool{}
	k.conn.AddTable(k.table) // deleting what is not there would fail
	k.conn.DelTable(k.table)
	k.conn.AddTable(k.table)
	return errors.Join(k.frame(), k.render(all))
}

// Probe tells why this kernel's nftables do not do for Services; nil if they do. It has the kernel accept a whole table of
// each kind of rule, and its removal, in one transaction: nobody sees it.
func Probe() error {
	network := netip.MustParsePrefix("192.0.2.0/24")
	k, err := openKernel(Site{Pods: []netip.Prefix{network}}, []netip.Prefix{network})
	if err != nil {
		return err
	}
	defer func() { _ = k.close() }()
	k.table = &nftables.Table{Name: probeName, Family: k.table.Family}
	endpoint := []netip.AddrPort{netip.AddrPortFrom(network.Addr(), 1)}
	sample := newChange()
	sample.Add = map[string]Chain{
		"inside": {Pool: endpoint}, "sticky": {Pool: endpoint, Sticky: defaultSticky}, "outside": {Kind: outside, Next: "inside"},
		"here": {Kind: outsideHere, Pool: endpoint, Next: "inside"}, "guard": {Kind: guard, Sources: []netip.Prefix{network}, Next: "outside"},
	}
	if err := k.build(sample); err != nil {
		return fmt.Errorf("render a service table: %w", err)
	}
	k.conn.DelTable(k.table)
	if err := k.conn.Flush(); err != nil {
		return explain(fmt.Errorf("try a service table: %w", err))
	}
	return nil
}

// commit makes one change.
func (k *kernel) commit(c Change, _ func() Change) error {
	if c.empty() {
		return nil
	}
	if err := k.render(c); err != nil {
		return fmt.Errorf("render a change of services: %w", err)
	}
	if err := k.conn.Flush(); err != nil {
		return fmt.Errorf("change the service table: %w", err)
	}
	return nil
}

// frame makes the fixed part: hooks, the maps they look into, and the two ends that need no endpoint.
func (k *kernel) frame() error {
	hook := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) {
		k.conn.AddChain(&nftables.Chain{Table: k.table, Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
	}
	hook("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	hook("output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest)
	hook("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, name := range []string{"services", targetReject} {
		k.conn.AddChain(&nftables.Chain{Table: k.table, Name: name})
	}
	families := k.families()
	for _, f := range families {
		for _, kind := range fixedSets {
			if err := k.needSet(kind, f); err != nil {
				return err
			}
		}
	}

	for _, base := range []string{"prerouting", "output"} {
		k.rule(base, []expr.Any{nft.Verdict(expr.VerdictJump, "services")})
		// Only who went into a Service's chain and got no endpoint there comes back here.
		k.rule(base, []expr.Any{nft.Verdict(expr.VerdictDrop, "")})
	}
	for _, f := range families {
		k.rule("services", nft.Join(nft.Only(f), []expr.Any{
			nft.Destination(f, regA), nft.Protocol(regA + f.Words), nft.DestinationPort(regA + f.Words + 1),
			&expr.Lookup{SourceRegister: regA, SetName: frontendMap.name(f), IsDestRegSet: true},
		}))
		k.rule("services", nft.Join(nft.Only(f), k.toNode(f), []expr.Any{
			nft.Protocol(regA), nft.DestinationPort(regA2),
			&expr.Lookup{SourceRegister: regA, SetName: nodePortMap.name(f), IsDestRegSet: true},
		}))
		// A cluster address that is nobody's must not leave through the default route and time out somewhere outside.
		for _, r := range podsIn(k.ranges, f) {
			k.rule("services", nft.Join(nft.Only(f), nft.Within(f, nft.Destination(f, regA), r, expr.CmpOpEq), k.notReserved(f), []expr.Any{nft.Verdict(expr.VerdictGoto, targetReject)}))
		}
	}
	k.rule("services", []expr.Any{nft.Verdict(expr.VerdictAccept, "")}) // not ours

	// A node that talks to itself needs no other source, and lo has none to give.
	k.rule("postrouting", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: regA},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...)},
		nft.Verdict(expr.VerdictReturn, ""),
	})
	for _, f := range families {
		k.rule("postrouting", nft.Join(nft.Only(f), []expr.Any{
			nft.Source(f, regA), nft.Destination(f, regA+f.Words),
			&expr.Lookup{SourceRegister: regA, SetName: loopSet.name(f)},
			masquerade(),
		}))
	}
	k.rule("postrouting", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regA},
		&expr.Bitwise{SourceRegister: regA, DestRegister: regA, Len: 4, Mask: nft.Word(hideMark), Xor: nft.Word(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: nft.Word(0)},
		nft.Verdict(expr.VerdictReturn, ""),
	})
	// The mark is taken off: it would come along into a tunnel's outer packet.
	k.rule("postrouting", nft.Join(setMark(^uint32(hideMark), 0), []expr.Any{masquerade()}))

	k.rule(targetReject, []expr.Any{
		nft.Protocol(regA), &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	})
	k.rule(targetReject, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
	return nil
}

// families of the cluster: there are no rules for others, in which no Service could be reached.
func (k *kernel) families() []nft.Family {
	var all []nft.Family
	for _, f := range []nft.Family{nft.IPv4, nft.IPv6} {
		if len(podsIn(k.ranges, f)) > 0 {
			all = append(all, f)
		}
	}
	return all
}

// toNode matches packets to an address of this node that node ports are on: all but loopback, where only programs on
// this machine could have sent from and no answer would find back, and those that something here answers itself.
func (k *kernel) toNode(f nft.Family) []expr.Any {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if f.V6 {
		loopback = netip.MustParsePrefix("::1/128")
	}
	return nft.Join(local(expr.Fib{FlagDADDR: true}), nft.Within(f, nft.Destination(f, regA), loopback, expr.CmpOpNeq), k.notReserved(f))
}

func (k *kernel) notReserved(f nft.Family) []expr.Any {
	var exprs []expr.Any
	for _, addr := range k.site.Reserved {
		if addr.Is6() == f.V6 {
			exprs = append(exprs, nft.Destination(f, regA), &expr.Cmp{Op: expr.CmpOpNeq, Register: regA, Data: addr.AsSlice()})
		}
	}
	return exprs
}

// render adds a change to the transaction. The order matters to the kernel: what is referred to must be there before,
// and what goes must not be referred to any more.
func (k *kernel) render(c Change) error {
	edits := edits{}
	for name := range c.Add {
		k.conn.AddChain(&nftables.Chain{Table: k.table, Name: name})
	}
	for name, chain := range c.Add {
		held, err := k.repool(edits, name, chain)
		if err != nil {
			return err
		}
		k.fill(name, chain, held)
	}
	for name, chain := range c.Set {
		before, after := chain[0], chain[1]
		held, err := k.repool(edits, name, after)
		if err != nil {
			return err
		}
		if !sameRules(before, after) {
			k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: name})
			k.fill(name, after, held)
		}
	}
	for name, chain := range c.Drop {
		if _, err := k.repool(edits, name, Chain{V6: chain.V6}); err != nil {
			return err
		}
	}
	for f, move := range c.Frontends {
		kind, key := frontendMap, frontendKey(f)
		if f.Addr.IsUnspecified() {
			kind, key = nodePortMap, nodePortKey(f)
		}
		edit := edits.of(kind, f.Addr.Is6())
		if move.From != "" {
			edit.gone = append(edit.gone, nftables.SetElement{Key: key})
		}
		if move.To != "" {
			edit.come = append(edit.come, nftables.SetElement{Key: key, VerdictData: goTo(move.To)})
		}
	}
	for addr, come := range c.Loops {
		edit, pair := edits.of(loopSet, addr.Is6()), nftables.SetElement{Key: append(addr.AsSlice(), addr.AsSlice()...)}
		if come {
			edit.come = append(edit.come, pair)
		} else {
			edit.gone = append(edit.gone, pair)
		}
	}
	if err := k.edit(edits); err != nil {
		return err
	}
	for name := range c.Drop { // all first: they pass connections to each other
		k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: name})
	}
	for name := range c.Drop {
		k.conn.DelChain(&nftables.Chain{Table: k.table, Name: name})
	}
	return nil
}

// sameRules tells that two states of a chain differ in nothing but which endpoints are in its slots.
func sameRules(before, after Chain) bool {
	if after.Sticky > 0 {
		return before.equal(after) // its rules name the endpoints
	}
	size := len(before.Pool)
	before.Pool, after.Pool = nil, nil
	return before.equal(after) && size == len(after.Pool)
}

// repool notes what changes in a chain's slots, and returns how its endpoints are held from now on.
func (k *kernel) repool(edits edits, name string, after Chain) (held, error) {
	has, existed := k.pools[name]
	if !existed {
		has.number = k.number(name)
	}
	slots, changed := refill(has.slots, after.Pool)
	shard := slotMap(has.number)
	edit := edits.of(shard, after.V6)
	for _, i := range changed {
		key := slotKey(has.number, uint32(i))
		if i < len(has.slots) {
			edit.gone = append(edit.gone, nftables.SetElement{Key: key})
		}
		edit.come = append(edit.come, nftables.SetElement{Key: key, Val: endpointValue(slots[i])})
	}
	for i := len(slots); i < len(has.slots); i++ {
		edit.gone = append(edit.gone, nftables.SetElement{Key: slotKey(has.number, uint32(i))})
	}
	if len(slots) == 0 {
		delete(k.pools, name)
		delete(k.numbers, has.number)
		return has, nil
	}
	has.slots = slots
	has.members, has.left = enroll(name, has, after)
	k.pools[name] = has
	if after.Sticky > 0 {
		if err := k.needSet(stickySet, nft.FamilyOf(after.V6)); err != nil {
			return held{}, err
		}
	}
	return has, k.needSet(shard, nft.FamilyOf(after.V6))
}

// enroll numbers the members of a sticky pool. The numbers are the same after a restart, as long as nobody left; two
// members with one number would share their clients, which does no harm.
func enroll(name string, before held, after Chain) (members map[netip.AddrPort]uint32, left int) {
	left = before.left
	if after.Sticky == 0 {
		return nil, left
	}
	for endpoint := range before.members {
		if !has(after.Pool, endpoint) {
			left++
		}
	}
	members = make(map[netip.AddrPort]uint32, len(after.Pool))
	for _, endpoint := range after.Pool {
		number, stays := before.members[endpoint]
		if !stays {
			number = hash(fmt.Sprint(name, " ", endpoint, " ", left))
		}
		members[endpoint] = number
	}
	return members, left
}

// number gives a pool a number of its own.
func (k *kernel) number(name string) uint32 {
	number := hash(name)
	for k.numbers[number] {
		number++
	}
	k.numbers[number] = true
	return number
}

func hash(text string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(text))
	return h.Sum32()
}

// needSet makes a set unless it is there. It stays until the next rebuild.
func (k *kernel) needSet(kind setKind, f nft.Family) error {
	set := kind.of(f, k.table)
	if k.sets[set.Name] {
		return nil
	}
	k.sets[set.Name] = true
	set.ID = uint32(len(k.sets)) // the library's own counter is shared by every connection of the process
	if err := k.conn.AddSet(set, nil); err != nil {
		return fmt.Errorf("add set %s: %w", set.Name, err)
	}
	return nil
}

func (k *kernel) fill(name string, chain Chain, held held) {
	for _, exprs := range chainRules(chain, held, k.site.Pods) {
		k.rule(name, exprs)
	}
}

// goTo is a frontend's verdict.
func goTo(target string) *expr.Verdict {
	if target == targetDrop {
		return &expr.Verdict{Kind: expr.VerdictDrop}
	}
	return &expr.Verdict{Kind: expr.VerdictGoto, Chain: target}
}

// readSticky fetches what sticky clients have, so that a rebuild does not scatter them. It is a courtesy: what cannot be
// read is forgotten.
func (k *kernel) readSticky() map[bool][]nftables.SetElement {
	kept := map[bool][]nftables.SetElement{}
	for _, f := range k.families() {
		kept[f.V6], _ = k.conn.GetSetElements(stickySet.of(f, k.table))
	}
	return kept
}

// restoreSticky puts back what clients have with members there still are.
func (k *kernel) restoreSticky(kept map[bool][]nftables.SetElement) error {
	members := map[uint32]bool{}
	for _, held := range k.pools {
		for _, number := range held.members {
			members[number] = true
		}
	}
	edits := edits{}
	for v6, elements := range kept {
		edit := edits.of(stickySet, v6)
		for _, e := range elements {
			if members[binaryutil.NativeEndian.Uint32(e.Key)] {
				edit.come = append(edit.come, nftables.SetElement{Key: e.Key, Timeout: e.Expires})
			}
		}
	}
	return k.edit(edits)
}

// edits gathers elements to take from and put into sets, for as few messages as possible.
type edits map[string]*edit

type edit struct {
	kind       setKind
	family     nft.Family
	gone, come []nftables.SetElement
}

func (e edits) of(kind setKind, v6 bool) *edit {
	f := nft.FamilyOf(v6)
	if e[kind.name(f)] == nil {
		e[kind.name(f)] = &edit{kind: kind, family: f}
	}
	return e[kind.name(f)]
}

func (k *kernel) edit(edits edits) error {
	for name, e := range edits {
		if err := k.needSet(e.kind, e.family); err != nil {
			return err
		}
		set := e.kind.of(e.family, k.table)
		for part := range slices.Chunk(e.gone, chunk) {
			if err := k.conn.SetDeleteElements(set, part); err != nil {
				return fmt.Errorf("take elements from %s: %w", name, err)
			}
		}
		for part := range slices.Chunk(e.come, chunk) {
			if err := k.conn.SetAddElements(set, part); err != nil {
				return fmt.Errorf("put elements into %s: %w", name, err)
			}
		}
	}
	return nil
}

func (k *kernel) rule(chain string, exprs []expr.Any) {
	k.conn.AddRule(&nftables.Rule{Table: k.table, Chain: &nftables.Chain{Table: k.table, Name: chain}, Exprs: exprs})
}

// intact tells whether the table still has the chains of the wanted state.
func (k *kernel) intact(all Change) (bool, error) {
	chains, err := k.conn.ListChainsOfTableFamily(k.table.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	there := map[string]bool{}
	for _, chain := range chains {
		there[chain.Name] = there[chain.Name] || chain.Table.Name == TableName
	}
	for name := range all.Add {
		if !there[name] {
			return false, nil
		}
	}
	return there["services"], nil
}

// Remove deletes everything this package puts into the kernel. Nothing there is fine.
func Remove() error {
	return errors.Join(nft.Remove(nftables.TableFamilyINet, TableName), xt.Remove(ownerName), removeWayOut())
}

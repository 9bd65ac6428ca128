package proxy

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TableName is our table in the kernel, in the inet family.
const TableName = "knarr-services"

// bufferSize is room for a whole transaction and its acknowledgements: the kernel takes a transaction in one message.
// It is a limit, not an allocation.
const bufferSize = 64 << 20

// chunk is how many elements travel in one message: an attribute holds 64 KiB, a chain's name up to 250 bytes.
const chunk = 150

// kernel turns changes into transactions.
type kernel struct {
	conn   *nftables.Conn
	port   uint32 // our netlink address, by which the watch tells our transactions from other people's
	table  *nftables.Table
	site   Site
	ranges []netip.Prefix // cluster addresses, taken or not
	ids    uint32
}

func openKernel(site Site, serviceRanges []netip.Prefix) (*kernel, error) {
	k := &kernel{
		table:  &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet},
		site:   site,
		ranges: serviceRanges,
	}
	var err error
	k.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		if err := errors.Join(c.SetWriteBuffer(bufferSize), c.SetReadBuffer(bufferSize)); err != nil {
			return err
		}
		k.port, err = portOfConn(c)
		return err
	}))
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return k, nil
}

func portOfConn(c *netlink.Conn) (port uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	control := raw.Control(func(fd uintptr) {
		var addr unix.Sockaddr
		if addr, err = unix.Getsockname(int(fd)); err == nil {
			port = addr.(*unix.SockaddrNetlink).Pid
		}
	})
	return port, errors.Join(control, err)
}

func (k *kernel) close() error { return k.conn.CloseLasting() }

// rebuild replaces whatever is in the table with what all says, in one transaction. Established connections do not
// notice; what sticky clients had is carried over.
func (k *kernel) rebuild(all Change) error {
	kept := k.readSticky(all.Add)
	k.conn.AddTable(k.table) // deleting what is not there would fail
	k.conn.DelTable(k.table)
	k.conn.AddTable(k.table)
	if err := k.frame(); err != nil {
		return fmt.Errorf("render the service table: %w", err)
	}
	if err := k.render(all, kept); err != nil {
		return fmt.Errorf("render all services: %w", err)
	}
	if err := k.conn.Flush(); err != nil {
		return fmt.Errorf("install the service table: %w", err)
	}
	return nil
}

// commit makes one change.
func (k *kernel) commit(c Change) error {
	if c.empty() {
		return nil
	}
	if err := k.render(c, nil); err != nil {
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
	for _, name := range []string{"services", targetReject, targetDrop} {
		k.conn.AddChain(&nftables.Chain{Table: k.table, Name: name})
	}
	for _, f := range []family{family4, family6} {
		for _, set := range []*nftables.Set{k.frontendMap(f), k.nodePortMap(f), k.loopSet(f)} {
			if err := k.conn.AddSet(set, nil); err != nil {
				return err
			}
		}
	}

	for _, base := range []string{"prerouting", "output"} {
		k.rule(base, []expr.Any{verdict(expr.VerdictJump, "services")})
	}
	for _, f := range []family{family4, family6} {
		k.rule("services", join(only(f), []expr.Any{
			destination(f, regA), protocol(f.behind), destinationPort(f.behind + 1),
			&expr.Lookup{SourceRegister: regA, SetName: k.frontendMap(f).Name, IsDestRegSet: true},
		}))
		k.rule("services", join(only(f), k.toNode(f), []expr.Any{
			protocol(regA), destinationPort(regA2),
			&expr.Lookup{SourceRegister: regA, SetName: k.nodePortMap(f).Name, IsDestRegSet: true},
		}))
		// A cluster address that is nobody's must not leave through the default route and time out somewhere outside.
		for _, r := range podsIn(k.ranges, f) {
			k.rule("services", join(only(f), within(f, destination(f, regA), r, expr.CmpOpEq), k.notReserved(f), []expr.Any{verdict(expr.VerdictGoto, targetReject)}))
		}
	}

	// A node that talks to itself needs no other source, and lo has none to give.
	k.rule("postrouting", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: regA},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...)},
		verdict(expr.VerdictReturn, ""),
	})
	for _, f := range []family{family4, family6} {
		k.rule("postrouting", join(only(f), []expr.Any{
			source(f, regA), destination(f, f.behind),
			&expr.Lookup{SourceRegister: regA, SetName: k.loopSet(f).Name},
			masquerade(),
		}))
	}
	k.rule("postrouting", []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regA},
		&expr.Bitwise{SourceRegister: regA, DestRegister: regA, Len: 4, Mask: word(hideMark), Xor: word(0)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: word(0)},
		verdict(expr.VerdictReturn, ""),
	})
	// The mark is taken off: it would come along into a tunnel's outer packet.
	k.rule("postrouting", join(setMark(^uint32(hideMark), 0), []expr.Any{masquerade()}))

	k.rule(targetReject, []expr.Any{
		protocol(regA), &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
	})
	k.rule(targetReject, []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}})
	k.rule(targetDrop, []expr.Any{verdict(expr.VerdictDrop, "")})
	return nil
}

// toNode matches packets to an address of this node that node ports are on: all but loopback, where only programs on
// this machine could have sent from and no answer would find back, and those that something here answers itself.
func (k *kernel) toNode(f family) []expr.Any {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if f.v6 {
		loopback = netip.MustParsePrefix("::1/128")
	}
	return join(local(expr.Fib{FlagDADDR: true}), within(f, destination(f, regA), loopback, expr.CmpOpNeq), k.notReserved(f))
}

func (k *kernel) notReserved(f family) []expr.Any {
	var exprs []expr.Any
	for _, addr := range k.site.Reserved {
		if addr.Is6() == f.v6 {
			exprs = append(exprs, destination(f, regA), &expr.Cmp{Op: expr.CmpOpNeq, Register: regA, Data: addr.AsSlice()})
		}
	}
	return exprs
}

// render adds a change to the transaction. The order matters to the kernel: what a rule refers to must be there before
// it, and what goes must not be referred to any more.
func (k *kernel) render(c Change, sticky map[string][]nftables.SetElement) error {
	for name, chain := range c.Add {
		k.conn.AddChain(&nftables.Chain{Table: k.table, Name: name})
		if chain.Sticky > 0 {
			if err := k.addMemory(name, chain, sticky[name]); err != nil {
				return err
			}
		}
	}
	for name, chain := range c.Set {
		k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: name})
		if before, after := chain[0], chain[1]; before.Sticky == 0 && after.Sticky > 0 {
			if err := k.addMemory(name, after, nil); err != nil {
				return err
			}
		}
	}
	for name, chain := range c.Add {
		if err := k.fill(name, chain); err != nil {
			return err
		}
	}
	for name, chain := range c.Set {
		if err := k.fill(name, chain[1]); err != nil {
			return err
		}
		if before, after := chain[0], chain[1]; before.Sticky > 0 && after.Sticky == 0 {
			k.conn.DelSet(stickyMap(k.table, name, before))
		}
	}
	if err := errors.Join(k.renderFrontends(c.Frontends), k.renderLoops(c.Loops)); err != nil {
		return err
	}
	for name := range c.Drop { // all first: they pass connections to each other
		k.conn.FlushChain(&nftables.Chain{Table: k.table, Name: name})
	}
	for name, chain := range c.Drop {
		k.conn.DelChain(&nftables.Chain{Table: k.table, Name: name})
		if chain.Sticky > 0 {
			k.conn.DelSet(stickyMap(k.table, name, chain))
		}
	}
	return nil
}

func (k *kernel) addMemory(name string, chain Chain, kept []nftables.SetElement) error {
	memory := stickyMap(k.table, name, chain)
	memory.ID = k.id()
	return k.addSet(memory, kept)
}

func (k *kernel) fill(name string, chain Chain) error {
	var failed error
	newSet := func(set *nftables.Set, elements []nftables.SetElement) *expr.Lookup {
		set.Table, set.ID, set.Anonymous, set.Constant, set.Name = k.table, k.id(), true, true, "__set%d"
		set.Size = uint32(len(elements))
		if set.IsMap {
			set.Name = "__map%d"
		}
		failed = errors.Join(failed, k.addSet(set, elements))
		return &expr.Lookup{SetName: set.Name, SetID: set.ID}
	}
	for _, exprs := range chainRules(name, chain, k.site.Pods, newSet) {
		k.rule(name, exprs)
	}
	return failed
}

func (k *kernel) renderFrontends(moves map[Frontend]Move) error {
	type change struct{ gone, come []nftables.SetElement }
	changes := map[*nftables.Set]*change{}
	sets := map[string]*nftables.Set{}
	for f, move := range moves {
		fam := familyOf(f.Addr.Is6())
		set, key := k.frontendMap(fam), frontendKey(f)
		if f.Addr.IsUnspecified() {
			set, key = k.nodePortMap(fam), nodePortKey(f)
		}
		if sets[set.Name] == nil {
			sets[set.Name], changes[set] = set, &change{}
		}
		into := changes[sets[set.Name]]
		if move.From != "" {
			into.gone = append(into.gone, nftables.SetElement{Key: key})
		}
		if move.To != "" {
			into.come = append(into.come, nftables.SetElement{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: move.To}})
		}
	}
	for set, c := range changes {
		if err := errors.Join(k.deleteElements(set, c.gone), k.addElements(set, c.come)); err != nil {
			return err
		}
	}
	return nil
}

func (k *kernel) renderLoops(loops map[netip.Addr]bool) error {
	for _, addr := range slices.SortedFunc(maps.Keys(loops), netip.Addr.Compare) {
		change := k.deleteElements
		if loops[addr] {
			change = k.addElements
		}
		pair := append(addr.AsSlice(), addr.AsSlice()...)
		if err := change(k.loopSet(familyOf(addr.Is6())), []nftables.SetElement{{Key: pair}}); err != nil {
			return err
		}
	}
	return nil
}

// readSticky fetches what sticky clients have, so that a rebuild does not scatter them. It is a courtesy: what cannot be
// read is forgotten.
func (k *kernel) readSticky(chains map[string]Chain) map[string][]nftables.SetElement {
	kept := map[string][]nftables.SetElement{}
	for name, chain := range chains {
		if chain.Sticky == 0 {
			continue
		}
		elements, err := k.conn.GetSetElements(stickyMap(k.table, name, chain))
		if err != nil {
			continue
		}
		for _, e := range elements {
			kept[name] = append(kept[name], nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: cmp.Or(e.Expires, chain.Sticky)})
		}
	}
	return kept
}

// --- sets and elements, as many messages as they need ---

func (k *kernel) frontendMap(f family) *nftables.Set {
	return &nftables.Set{
		Table: k.table, Name: "services" + f.suffix, IsMap: true, DataType: nftables.TypeVerdict,
		KeyType: nftables.MustConcatSetType(f.kind, nftables.TypeInetProto, nftables.TypeInetService),
	}
}

func (k *kernel) nodePortMap(f family) *nftables.Set {
	return &nftables.Set{
		Table: k.table, Name: "nodeports" + f.suffix, IsMap: true, DataType: nftables.TypeVerdict,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService),
	}
}

func (k *kernel) loopSet(f family) *nftables.Set {
	return &nftables.Set{Table: k.table, Name: "loops" + f.suffix, KeyType: nftables.MustConcatSetType(f.kind, f.kind)}
}

func (k *kernel) addSet(set *nftables.Set, elements []nftables.SetElement) error {
	if err := k.conn.AddSet(set, nil); err != nil {
		return err
	}
	open := *set // the library adds to anonymous sets in their first message only
	open.Anonymous = false
	return k.addElements(&open, elements)
}

func (k *kernel) addElements(set *nftables.Set, elements []nftables.SetElement) error {
	for part := range slices.Chunk(elements, chunk) {
		if err := k.conn.SetAddElements(set, part); err != nil {
			return err
		}
	}
	return nil
}

func (k *kernel) deleteElements(set *nftables.Set, elements []nftables.SetElement) error {
	for part := range slices.Chunk(elements, chunk) {
		if err := k.conn.SetDeleteElements(set, part); err != nil {
			return err
		}
	}
	return nil
}

func (k *kernel) rule(chain string, exprs []expr.Any) {
	k.conn.AddRule(&nftables.Rule{Table: k.table, Chain: &nftables.Chain{Table: k.table, Name: chain}, Exprs: exprs})
}

// id numbers sets within our transactions. The library's own counter is shared by every connection of the process.
func (k *kernel) id() uint32 {
	k.ids++
	return k.ids
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
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet})
	if err := conn.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete nftables table %s: %w", TableName, err)
	}
	return removeWayOut()
}

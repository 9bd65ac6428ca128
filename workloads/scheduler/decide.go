package scheduler

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

const (
	// enough is how many nodes that would do are compared at least. Beyond it the best of the ones found is as good
	// as the best of all, and looking on costs every pod behind this one.
	enough = 100
	// grain is how many nodes are worth a goroutine.
	grain = 64
)

// decision is where a pod goes, or why it goes nowhere.
type decision struct {
	node     string
	anywhere *refusal  // of all nodes, for the pod itself
	refusals []refusal // of the snapshot's nodes in their order, when node is "" and it was not anywhere
	err      error     // a rule could not judge: there is no decision
	total    int       // nodes there are
	looked   int       // nodes looked at, for the next pod to start behind
}

// refusal is the first rule that refused a node and why, nil if none did.
type refusal struct {
	plugin string
	*plugins.Refusal
}

// final says whether the i-th node will not do even if pods left it.
func (d *decision) final(i int) bool {
	if d.anywhere != nil {
		return d.anywhere.Final
	}
	return i < len(d.refusals) && d.refusals[i].Refusal != nil && d.refusals[i].Final
}

// decide chooses a node for a pod. It starts at the start-th node, so that early stops do not favour the first
// ones; pick breaks ties among n equals.
func decide(ctx context.Context, pod *snapshot.Pod, snap *snapshot.Snapshot, by *profile, start int, pick func(n int) int) decision {
	nodes := snap.Nodes()
	d := decision{total: len(nodes)}
	if len(nodes) == 0 {
		return d
	}
	rules, refused := by.rulesFor(pod, snap)
	if refused != nil {
		d.anywhere, d.err = refused, refused.Err
		return d
	}
	if n := snap.Node(snap.Nomination(pod.Object.UID)); n != nil { // others left it for this pod
		r, fresh := rules.judge(pod, n, snap)
		if fresh {
			rules.known.open--
		}
		if r.Refusal == nil {
			var left []*snapshot.Node
			left, d.err = by.extendedFit(ctx, pod, []*snapshot.Node{n}, nil, nil)
			if len(left) > 0 {
				d.node = n.Name
			}
			if len(left) > 0 || d.err != nil {
				return d
			}
		}
	}
	fit, looked, refusals := by.filter(pod, snap, rules, start)
	d.looked = looked
	if by.scratch.refused {
		for _, r := range refusals {
			if r.Refusal != nil && r.Err != nil {
				d.err = fmt.Errorf("%s: %w", r.plugin, r.Err)
				return d
			}
		}
	}
	if fit, d.err = by.extendedFit(ctx, pod, fit, nodes, refusals); d.err != nil {
		return d
	}
	switch len(fit) {
	case 0:
		d.refusals = refusals
	case 1:
		d.node = fit[0].Name
	default:
		totals := by.score(pod, snap, rules, fit)
		if d.err = by.extendScores(ctx, pod, fit, totals); d.err != nil {
			return d
		}
		d.node = best(fit, totals, pick).Name
	}
	return d
}

// rules are the filters as they are for one pod: verdicts of those that are kept, and the others.
type rules struct {
	known *verdicts
	far   []prepared
}

func (p *profile) rulesFor(pod *snapshot.Pod, snap *snapshot.Snapshot) (*rules, *refusal) {
	known, refused := p.verdictsFor(pod, snap)
	if refused != nil {
		return nil, refused
	}
	far, refused := prepare(pod, snap, p.far)
	if refused != nil {
		return nil, refused
	}
	return &rules{known, far}, nil
}

// judge is judge on a node of the snapshot; fresh says that none like the pod asked about the node before.
func (r *rules) judge(pod *snapshot.Pod, n *snapshot.Node, snap *snapshot.Snapshot) (why refusal, fresh bool) {
	known, fresh := r.known.about(n)
	if known.refusal.Refusal != nil {
		return known.refusal, fresh
	}
	if why, ok := ask(n, r.far); !ok {
		return why, fresh
	}
	return r.judgeExpecting(pod, n, snap, known), fresh
}

// judgeExpecting judges a node that would do but for the pods that wait for room there.
func (r *rules) judgeExpecting(pod *snapshot.Pod, n *snapshot.Node, snap *snapshot.Snapshot, known *verdict) (why refusal) {
	if len(snap.Expected(n.Name)) == 0 {
		return refusal{}
	}
	others := snap.Nomination(pod.Object.UID) != n.Name // all who wait there are; then it is the same for pods alike
	if others && known.expecting != nil && known.expecting.priority == pod.Priority && (len(r.far) == 0 || known.expecting.why.Refusal != nil) {
		return known.expecting.why
	}
	full := snap.WithExpected(pod, n)
	if full != nil {
		why, _ = ask(full, r.known.filters)
	}
	if others {
		known.expecting = &expecting{pod.Priority, why}
	}
	if full != nil && why.Refusal == nil {
		why, _ = ask(full, r.far)
	}
	return why
}

// prepared is a filter with its rule's name.
type prepared struct {
	name   string
	filter plugins.Filter
}

// prepare makes the filters of a pod. A refusal is one of all nodes.
func prepare(pod *snapshot.Pod, snap *snapshot.Snapshot, filters []plugins.Filterer) ([]prepared, *refusal) {
	ready := make([]prepared, 0, len(filters))
	for _, f := range filters {
		filter, refused := f.Filter(pod, snap)
		if refused != nil {
			return nil, &refusal{f.Name(), refused}
		}
		if filter != nil {
			ready = append(ready, prepared{f.Name(), filter})
		}
	}
	return ready, nil
}

// judge asks the filters about one node, and when pods that matter at least as much wait for room there, about the
// node with them on it as well: either may come true.
func judge(pod *snapshot.Pod, n *snapshot.Node, snap *snapshot.Snapshot, filters []prepared) (refusal, bool) {
	if r, ok := ask(n, filters); !ok {
		return r, false // asked first: most nodes pods wait for are full, and no trial is needed to see that
	}
	if full := snap.WithExpected(pod, n); full != nil {
		return ask(full, filters)
	}
	return refusal{}, true
}

func ask(n *snapshot.Node, filters []prepared) (refusal, bool) {
	for _, f := range filters {
		if r := f.filter(n); r != nil {
			return refusal{f.name, r}, false
		}
	}
	return refusal{}, true
}

// filter finds nodes that would do, enough of them, from the start-th on and around, and says why not the others it
// looked at.
func (p *profile) filter(pod *snapshot.Pod, snap *snapshot.Snapshot, by *rules, start int) (fit []*snapshot.Node, looked int, refused []refusal) {
	nodes, mem := snap.Nodes(), &p.scratch
	mem.begin(len(nodes))
	wanted := int64(wantedOf(len(nodes), p.share))
	var found, seen, fresh, no atomic.Int64
	look := func(i int) bool {
		seen.Add(1)
		at := (start + i) % len(nodes)
		why, first := by.judge(pod, nodes[at], snap)
		if first {
			fresh.Add(1)
		}
		if why.Refusal != nil {
			mem.refusals[at] = why
			no.Store(1)
			return true
		}
		mem.passed[i] = true
		return found.Add(1) < wanted
	}
	if by.known.open == 0 && len(by.far) == 0 {
		inTurn(len(nodes), look) // looking up what is known is done before another goroutine has begun
	} else {
		inParallel(len(nodes), look)
	}
	by.known.open -= int(fresh.Load())
	mem.refused = no.Load() > 0
	for i, left := 0, int(found.Load()); left > 0; i++ {
		if mem.passed[i] {
			mem.passed[i] = false
			mem.fit = append(mem.fit, nodes[(start+i)%len(nodes)])
			left--
		}
	}
	return mem.fit, int(seen.Load()), mem.refusals
}

// begin makes room for a decision about n nodes.
func (m *scratch) begin(n int) {
	if len(m.refusals) != n {
		m.refusals, m.passed = make([]refusal, n), make([]bool, n)
	} else if m.refused {
		clear(m.refusals)
	}
	m.refused, m.fit = false, m.fit[:0]
}

// extendedFit is what extenders leave of the nodes that would do; why not the others is added to refused.
func (p *profile) extendedFit(ctx context.Context, pod *snapshot.Pod, fit, nodes []*snapshot.Node, refused []refusal) ([]*snapshot.Node, error) {
	for _, e := range p.concerned(pod.Object, func(e *extender) string { return e.FilterVerb }) {
		if len(fit) == 0 {
			break
		}
		left, no, err := e.filter(ctx, pod.Object, fit)
		if err != nil && e.Ignorable {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i, n := range nodes {
			if r := no[n.Name]; r != nil {
				refused[i] = refusal{byExtender, r}
			}
		}
		fit = left
	}
	return fit, nil
}

// extendScores adds what extenders say about nodes.
func (p *profile) extendScores(ctx context.Context, pod *snapshot.Pod, fit []*snapshot.Node, totals []int64) error {
	for _, e := range p.concerned(pod.Object, func(e *extender) string { return e.PrioritizeVerb }) {
		if err := e.prioritize(ctx, pod.Object, fit, totals); err != nil && !e.Ignorable {
			return err
		}
	}
	return nil
}

// wantedOf is how many fitting nodes to look for among n: a share, given or one that shrinks as clusters grow.
func wantedOf(n, percent int) int {
	if percent == 0 {
		percent = max(50-n/125, 5)
	}
	return min(max(n*percent/100, enough), n)
}

// score adds up the weighted preferences.
func (p *profile) score(pod *snapshot.Pod, snap *snapshot.Snapshot, by *rules, nodes []*snapshot.Node) []int64 {
	p.scratch.totals = p.scratch.totals[:0]
	for _, n := range nodes {
		p.scratch.totals = append(p.scratch.totals, by.known.of[n.Place].score)
	}
	p.addScores(pod, snap, p.farScorers, nodes, p.scratch.totals)
	return p.scratch.totals
}

// addScores adds what scorers say, weighted.
func (p *profile) addScores(pod *snapshot.Pod, snap *snapshot.Snapshot, scorers []weighed, nodes []*snapshot.Node, totals []int64) {
	scores := slices.Grow(p.scratch.scores[:0], len(nodes))[:len(nodes)]
	p.scratch.scores = scores
	for _, s := range scorers {
		rate := s.Score(pod, snap, nodes)
		if rate == nil {
			continue
		}
		inParallel(len(nodes), func(i int) bool { scores[i] = rate(nodes[i]); return true })
		s.Normalize(scores)
		for i := range totals {
			totals[i] += scores[i] * s.weight
		}
	}
}

func best(nodes []*snapshot.Node, scores []int64, pick func(n int) int) *snapshot.Node {
	highest, equals := slices.Max(scores), 0
	for _, s := range scores {
		if s == highest {
			equals++
		}
	}
	chosen := pick(equals)
	for i, n := range nodes {
		if scores[i] != highest {
			continue
		}
		if chosen == 0 {
			return n
		}
		chosen--
	}
	return nil // pick names one of the equals
}

// inTurn calls act for 0..n-1 until one call returns false.
func inTurn(n int, act func(i int) bool) {
	for i := range n {
		if !act(i) {
			return
		}
	}
}

// inParallel calls act for 0..n-1, over as many goroutines as that is worth, until one call returns false.
func inParallel(n int, act func(i int) bool) {
	workers := min(runtime.GOMAXPROCS(0), (n+grain-1)/grain)
	var next atomic.Int64
	work := func() {
		for {
			from := int(next.Add(grain)) - grain
			if from >= n {
				return
			}
			for i := from; i < min(from+grain, n); i++ {
				if !act(i) {
					next.Store(int64(n)) // the others finish the grain they are at
					return
				}
			}
		}
	}
	if workers <= 1 {
		work()
		return
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(work)
	}
	wg.Wait()
}

// explain words why no node would do, as kubectl describe shows it.
func (d *decision) explain() string {
	if d.total == 0 {
		return "no nodes available to schedule pods"
	}
	if d.anywhere != nil {
		return fmt.Sprintf("0/%d nodes are available: %s.", d.total, strings.Join(d.anywhere.Reasons, ", "))
	}
	counts := map[string]int{}
	for _, r := range d.refusals {
		if r.Refusal == nil {
			continue
		}
		for _, reason := range r.Reasons {
			counts[reason]++
		}
	}
	return tally(d.total, counts)
}

// tally words how often each reason kept a node away.
func tally(total int, counts map[string]int) string {
	lines := make([]string, 0, len(counts))
	for reason, n := range counts {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(lines)
	return fmt.Sprintf("0/%d nodes are available: %s.", total, strings.Join(lines, ", "))
}

// refusedBy is the set of rules that refused at least one node.
func (d *decision) refusedBy() map[string]bool {
	by := map[string]bool{}
	if d.anywhere != nil {
		by[d.anywhere.plugin] = true
	}
	for _, r := range d.refusals {
		if r.Refusal != nil {
			by[r.plugin] = true
		}
	}
	return by
}

package plugins

import (
	"fmt"

	"k8s.io/apimachinery/pkg/labels"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// PodAffinity keeps pods near or away from others, as they or those others ask.
type PodAffinity struct {
	welcome int64 // how much it counts that a pod there must stand near ones like this
	own     bool  // wishes of the pods there do not count, unless the pod has wishes itself
}

func newPodAffinity(args *configv1.InterPodAffinityArgs) (Plugin, error) {
	welcome := ptr.Deref(args.HardPodAffinityWeight, 1)
	if welcome < 0 || welcome > 100 {
		return nil, fmt.Errorf("hardPodAffinityWeight: %d is not between 0 and 100", welcome)
	}
	return PodAffinity{welcome: int64(welcome), own: args.IgnorePreferredTermsOfExistingPods}, nil
}

// Name of the rule.
func (PodAffinity) Name() string { return "InterPodAffinity" }

// domains are counts by topology key and value: pods by zone, by host. By key first, because there are few keys and
// as many hosts as nodes, and every node asks.
type domains map[string]map[string]int64

func (d domains) add(key, value string, n int64) {
	if d[key] == nil {
		d[key] = map[string]int64{}
	}
	d[key][value] += n
}

// neighbours is where the pods stand that matter to one pod.
type neighbours struct {
	repelled domains // pods that ask not to have this one near, by their terms' keys
	near     domains // pods that match all required affinity terms, by the terms' keys
	far      domains // pods that match an anti-affinity term, by its key
	company  int64   // the sum of near
}

// Filter implements Filterer.
func (PodAffinity) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	if len(snap.Averse()) == 0 && !snap.ExpectsAverse() && len(pod.Affinity) == 0 && len(pod.AntiAffinity) == 0 {
		return nil, nil
	}
	around := look(pod, snap)
	self := matchesAll(pod.Affinity, pod, snap.Namespace(pod.Object.Namespace)) // so it may be the first
	lonely := &Refusal{Reasons: []string{"node(s) didn't match pod affinity rules"}, Final: true}
	crowded := &Refusal{Reasons: []string{"node(s) didn't match pod anti-affinity rules"}}
	unwelcome := &Refusal{Reasons: []string{"node(s) didn't satisfy existing pods anti-affinity rules"}}
	return func(n *snapshot.Node) *Refusal {
		moved := &neighbours{}
		if len(n.Moved) > 0 {
			moved = newNeighbours()
			for other, by := range n.Moved {
				moved.noteAverse(pod, other, n, snap, by)
				moved.note(pod, other, n, snap, by)
			}
		}
		switch {
		case !around.allowsAffinity(pod, n, moved, self):
			return lonely
		case !around.allowsAntiAffinity(pod, n, moved):
			return crowded
		case !around.welcome(n, moved):
			return unwelcome
		}
		return nil
	}, nil
}

func newNeighbours() *neighbours {
	return &neighbours{repelled: domains{}, near: domains{}, far: domains{}}
}

// lookFor is the key of what look remembers, wishesFor of what Score does.
type (
	lookFor   struct{ kin string }
	wishesFor struct {
		rule PodAffinity
		kin  string
	}
)

// look counts the pods that matter to one pod, or to one that is alike and what moved since.
func look(pod *snapshot.Pod, snap *snapshot.Snapshot) *neighbours {
	key := lookFor{pod.Kin()}
	if value, since, ok := snap.Recall(key); ok {
		around := value.(*neighbours)
		for _, m := range since {
			if m.Node.Object != nil {
				around.noteAverse(pod, m.Pod, m.Node, snap, m.By)
				around.note(pod, m.Pod, m.Node, snap, m.By)
			}
		}
		return around
	}
	around := newNeighbours()
	defer snap.Remember(key, around)
	for _, n := range snap.Averse() {
		if n.Object == nil {
			continue
		}
		for _, other := range n.Averse {
			around.noteAverse(pod, other, n, snap, 1)
		}
	}
	if len(pod.Affinity)+len(pod.AntiAffinity) == 0 {
		return around
	}
	for _, n := range snap.Nodes() {
		for _, other := range n.Pods {
			around.note(pod, other, n, snap, 1)
		}
	}
	return around
}

// noteAverse counts in (or with -1 out) what another pod on a node says about having this one near.
func (a *neighbours) noteAverse(pod, other *snapshot.Pod, n *snapshot.Node, snap *snapshot.Snapshot, by int64) {
	own := snap.Namespace(pod.Object.Namespace)
	for i := range other.AntiAffinity {
		if other.AntiAffinity[i].Matches(pod.Object, own) {
			count(a.repelled, other.AntiAffinity[i:i+1], n, by)
		}
	}
}

// note counts in (or with -1 out) what this pod says about having another near, that is on a node.
func (a *neighbours) note(pod, other *snapshot.Pod, n *snapshot.Node, snap *snapshot.Snapshot, by int64) {
	theirs := snap.Namespace(other.Object.Namespace)
	if len(pod.Affinity) > 0 && matchesAll(pod.Affinity, other, theirs) {
		a.company += count(a.near, pod.Affinity, n, by)
	}
	for i := range pod.AntiAffinity {
		if pod.AntiAffinity[i].Matches(other.Object, theirs) {
			count(a.far, pod.AntiAffinity[i:i+1], n, by)
		}
	}
}

func matchesAll(terms []snapshot.Term, pod *snapshot.Pod, namespace labels.Set) bool {
	for i := range terms {
		if !terms[i].Matches(pod.Object, namespace) {
			return false
		}
	}
	return true
}

func count(in domains, terms []snapshot.Term, n *snapshot.Node, by int64) (sum int64) {
	for i := range terms {
		if value, has := n.Label(terms[i].TopologyKey); has {
			in.add(terms[i].TopologyKey, value, by)
			sum += by
		}
	}
	return sum
}

func (a *neighbours) allowsAffinity(pod *snapshot.Pod, n *snapshot.Node, moved *neighbours, self bool) bool {
	first := self && a.company+moved.company == 0 // of a group that wants to stand together: nobody to stand beside yet
	for i := range pod.Affinity {
		key := pod.Affinity[i].TopologyKey
		value, has := n.Label(key)
		if !has || (!first && a.near[key][value]+moved.near[key][value] == 0) {
			return false
		}
	}
	return true
}

func (a *neighbours) allowsAntiAffinity(pod *snapshot.Pod, n *snapshot.Node, moved *neighbours) bool {
	for i := range pod.AntiAffinity {
		key := pod.AntiAffinity[i].TopologyKey
		if value, has := n.Label(key); has && a.far[key][value]+moved.far[key][value] > 0 {
			return false
		}
	}
	return true
}

func (a *neighbours) welcome(n *snapshot.Node, moved *neighbours) bool {
	for _, repelled := range []domains{a.repelled, moved.repelled} {
		for key := range repelled {
			if value, has := n.Label(key); has && a.repelled[key][value]+moved.repelled[key][value] > 0 {
				return false
			}
		}
	}
	return true
}

// Helps implements Filterer.
func (PodAffinity) Helps(pod *snapshot.Pod, snap *snapshot.Snapshot, change snapshot.Change) bool {
	switch change.Kind {
	case snapshot.NodeAdded, snapshot.NodeChanged, snapshot.NodeGone, snapshot.NamespaceChanged, snapshot.PodRelabeled:
		return true
	case snapshot.PodGone:
		return true // what it kept away, or was kept away from, may come
	case snapshot.PodPlaced:
		theirs := snap.Namespace(change.Pod.Namespace)
		for i := range pod.Affinity {
			if pod.Affinity[i].Matches(change.Pod, theirs) {
				return true
			}
		}
	}
	return false
}

// Score implements Scorer: the weights of the pod's wishes about pods near a node, and of theirs about it.
func (a PodAffinity) Score(pod *snapshot.Pod, snap *snapshot.Snapshot, _ []*snapshot.Node) Score {
	wishes := len(pod.PreferAffinity)+len(pod.PreferAntiAffinity) > 0
	if !wishes && a.own {
		return nil
	}
	weights := a.wishes(pod, snap, wishes)
	if len(weights) == 0 {
		return nil
	}
	return func(n *snapshot.Node) int64 {
		var sum int64
		for key, of := range weights {
			if value, has := n.Label(key); has {
				sum += of[value]
			}
		}
		return sum
	}
}

// wishes weighs the domains by what the pod and those that are placed wish about each other.
func (a PodAffinity) wishes(pod *snapshot.Pod, snap *snapshot.Snapshot, own bool) domains {
	var weights domains
	add := func(terms []snapshot.Term, about *snapshot.Pod, n *snapshot.Node, sign, fixed int64) {
		namespace := snap.Namespace(about.Object.Namespace)
		for i := range terms {
			value, has := n.Label(terms[i].TopologyKey)
			if !has || !terms[i].Matches(about.Object, namespace) {
				continue
			}
			weight := terms[i].Weight
			if fixed != 0 {
				weight = int32(fixed)
			}
			weights.add(terms[i].TopologyKey, value, sign*int64(weight))
		}
	}
	mine := func(other *snapshot.Pod, n *snapshot.Node, by int64) {
		add(pod.PreferAffinity, other, n, by, 0)
		add(pod.PreferAntiAffinity, other, n, -by, 0)
	}
	theirs := func(other *snapshot.Pod, n *snapshot.Node, by int64) {
		add(other.PreferAffinity, pod, n, by, 0)
		add(other.PreferAntiAffinity, pod, n, -by, 0)
		if a.welcome > 0 {
			add(other.Affinity, pod, n, by, a.welcome) // those who must stand near such pods would welcome one more
		}
	}
	key := wishesFor{a, pod.Kin()}
	if value, since, ok := snap.Recall(key); ok {
		weights = value.(domains)
		for _, m := range since {
			if m.Node.Object != nil {
				mine(m.Pod, m.Node, m.By)
				theirs(m.Pod, m.Node, m.By)
			}
		}
		return weights
	}
	weights = domains{}
	if own {
		for _, n := range snap.Nodes() {
			for _, other := range n.Pods {
				mine(other, n, 1)
			}
		}
	}
	for _, n := range snap.Fond() {
		if n.Object == nil {
			continue
		}
		for _, other := range n.Fond {
			theirs(other, n, 1)
		}
	}
	snap.Remember(key, weights)
	return weights
}

// Normalize implements Scorer.
func (PodAffinity) Normalize(scores []int64) {
	if len(scores) == 0 {
		return
	}
	low, high := scores[0], scores[0]
	for _, s := range scores {
		low, high = min(low, s), max(high, s)
	}
	for i := range scores {
		if high == low {
			scores[i] = 0
		} else {
			scores[i] = MaxScore * (scores[i] - low) / (high - low)
		}
	}
}

package plugins

import (
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// PodAffinity keeps pods near or away from others, as they or those others ask.
type PodAffinity struct{}

// Name of the rule.
func (PodAffinity) Name() string { return "InterPodAffinity" }

// Weight implements Scorer.
func (PodAffinity) Weight() int64 { return 2 }

// domain is one value of one topology key: a zone, a host.
type domain struct{ key, value string }

// neighbours is where the pods stand that matter to one pod.
type neighbours struct {
	repelled map[domain]bool  // pods there ask not to have this one near
	near     map[domain]int64 // pods that match all required affinity terms, by the terms' keys
	far      map[domain]int64 // pods that match an anti-affinity term, by its key
	self     bool             // it matches its own affinity terms, so it may be the first
}

// Filter implements Filterer.
func (PodAffinity) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) Filter {
	if len(snap.Averse()) == 0 && len(pod.Affinity) == 0 && len(pod.AntiAffinity) == 0 {
		return nil
	}
	around := look(pod, snap)
	lonely := &Refusal{Reasons: []string{"node(s) didn't match pod affinity rules"}, Final: true}
	crowded := &Refusal{Reasons: []string{"node(s) didn't match pod anti-affinity rules"}}
	unwelcome := &Refusal{Reasons: []string{"node(s) didn't satisfy existing pods anti-affinity rules"}}
	return func(n *snapshot.Node) *Refusal {
		switch {
		case !around.allowsAffinity(pod, n):
			return lonely
		case !around.allowsAntiAffinity(pod, n):
			return crowded
		case !around.welcome(n):
			return unwelcome
		}
		return nil
	}
}

func look(pod *snapshot.Pod, snap *snapshot.Snapshot) *neighbours {
	around := &neighbours{repelled: map[domain]bool{}, near: map[domain]int64{}, far: map[domain]int64{}}
	own := snap.Namespace(pod.Object.Namespace)
	for _, n := range snap.Averse() {
		if n.Object == nil {
			continue
		}
		for _, other := range n.Averse {
			for i := range other.AntiAffinity {
				term := &other.AntiAffinity[i]
				if value, has := n.Label(term.TopologyKey); has && term.Matches(pod.Object, own) {
					around.repelled[domain{term.TopologyKey, value}] = true
				}
			}
		}
	}
	if len(pod.Affinity)+len(pod.AntiAffinity) == 0 {
		return around
	}
	for _, n := range snap.Nodes() {
		for _, other := range n.Pods {
			theirs := snap.Namespace(other.Object.Namespace)
			if len(pod.Affinity) > 0 && matchesAll(pod.Affinity, other, theirs) {
				count(around.near, pod.Affinity, n)
			}
			for i := range pod.AntiAffinity {
				if pod.AntiAffinity[i].Matches(other.Object, theirs) {
					count(around.far, pod.AntiAffinity[i:i+1], n)
				}
			}
		}
	}
	around.self = len(pod.Affinity) > 0 && matchesAll(pod.Affinity, pod, own)
	return around
}

func matchesAll(terms []snapshot.Term, pod *snapshot.Pod, namespace labels.Set) bool {
	for i := range terms {
		if !terms[i].Matches(pod.Object, namespace) {
			return false
		}
	}
	return true
}

func count(in map[domain]int64, terms []snapshot.Term, n *snapshot.Node) {
	for i := range terms {
		if value, has := n.Label(terms[i].TopologyKey); has {
			in[domain{terms[i].TopologyKey, value}]++
		}
	}
}

func (a *neighbours) allowsAffinity(pod *snapshot.Pod, n *snapshot.Node) bool {
	for i := range pod.Affinity {
		value, has := n.Label(pod.Affinity[i].TopologyKey)
		if !has {
			return false
		}
		// The first of a group that wants to stand together has nobody to stand beside yet.
		first := a.self && len(a.near) == 0
		if !first && a.near[domain{pod.Affinity[i].TopologyKey, value}] == 0 {
			return false
		}
	}
	return true
}

func (a *neighbours) allowsAntiAffinity(pod *snapshot.Pod, n *snapshot.Node) bool {
	for i := range pod.AntiAffinity {
		if value, has := n.Label(pod.AntiAffinity[i].TopologyKey); has && a.far[domain{pod.AntiAffinity[i].TopologyKey, value}] > 0 {
			return false
		}
	}
	return true
}

func (a *neighbours) welcome(n *snapshot.Node) bool {
	for d := range a.repelled {
		if value, has := n.Label(d.key); has && value == d.value {
			return false
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
func (PodAffinity) Score(pod *snapshot.Pod, snap *snapshot.Snapshot, _ []*snapshot.Node) Score {
	wishes := len(pod.PreferAffinity)+len(pod.PreferAntiAffinity) > 0
	weights := map[domain]int64{}
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
			weights[domain{terms[i].TopologyKey, value}] += sign * int64(weight)
		}
	}
	for _, n := range snap.Nodes() {
		if wishes {
			for _, other := range n.Pods {
				add(pod.PreferAffinity, other, n, 1, 0)
				add(pod.PreferAntiAffinity, other, n, -1, 0)
			}
		}
		for _, other := range n.Fond {
			add(other.PreferAffinity, pod, n, 1, 0)
			add(other.PreferAntiAffinity, pod, n, -1, 0)
			add(other.Affinity, pod, n, 1, 1) // those who must stand near such pods would welcome one more
		}
	}
	if len(weights) == 0 {
		return nil
	}
	return func(n *snapshot.Node) int64 {
		var sum int64
		for d, weight := range weights {
			if value, has := n.Label(d.key); has && value == d.value {
				sum += weight
			}
		}
		return sum
	}
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

package snapshot

import "k8s.io/apimachinery/pkg/types"

// Nominate keeps room on a node for a pod that waits until others have left it.
func (s *Snapshot) Nominate(pod *Pod, node string) {
	uid := pod.Object.UID
	s.Denominate(uid)
	s.nominated[uid] = node
	if s.expected[node] == nil {
		s.expected[node] = map[types.UID]*Pod{}
	}
	s.expected[node][uid] = pod
	s.awaits(node, pod, 1)
}

// awaits notes that a node awaits a pod, or with -1 no more.
func (s *Snapshot) awaits(node string, pod *Pod, by int) {
	if n := s.nodes[node]; n != nil {
		n.Version++
	}
	if len(pod.AntiAffinity) > 0 {
		s.averseExpected += by
	}
}

// Denominate gives the room up that was kept for a pod. The Change is what that frees.
func (s *Snapshot) Denominate(uid types.UID) Change {
	node, known := s.nominated[uid]
	if !known {
		return Change{}
	}
	pod := s.expected[node][uid]
	s.awaits(node, pod, -1)
	delete(s.nominated, uid)
	delete(s.expected[node], uid)
	if len(s.expected[node]) == 0 {
		delete(s.expected, node)
	}
	return Change{Kind: PodGone, Pod: pod.Object}
}

// Nomination is the node a pod waits for, "" for none.
func (s *Snapshot) Nomination(uid types.UID) string { return s.nominated[uid] }

// Expected are the pods that wait for room on a node.
func (s *Snapshot) Expected(node string) map[types.UID]*Pod { return s.expected[node] }

// WithExpected is a trial of a node, with those on it that wait for room there and matter at least as much as a pod; nil
// when there are none.
func (s *Snapshot) WithExpected(pod *Pod, n *Node) *Node {
	var full *Node
	for uid, other := range s.expected[n.Name] {
		if uid == pod.Object.UID || other.Priority < pod.Priority {
			continue
		}
		if full == nil {
			full = n.Trial()
		}
		full.Join(other)
	}
	return full
}

// ExpectsAverse says whether any pod that waits for room keeps others away.
func (s *Snapshot) ExpectsAverse() bool { return s.averseExpected > 0 }

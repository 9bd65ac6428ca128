package snapshot

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}}}
}

func pod(name, node string, cpu int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI)},
		}}}},
	}
}

// TestSumsAlwaysMatchThePods plays random news and checks after each that the sums are what counting anew gives.
func TestSumsAlwaysMatchThePods(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s := New()
	where := map[string]string{} // the truth
	cpu := map[string]int64{}
	for step := range 5000 {
		name, host := fmt.Sprintf("p%d", random.IntN(20)), fmt.Sprintf("n%d", random.IntN(4))
		amount := random.Int64N(500)
		pod := func(name, node string, cpu int64) *corev1.Pod {
			p, controls := pod(name, node, cpu), true
			if owner := random.IntN(4); owner > 0 {
				p.OwnerReferences = []metav1.OwnerReference{{UID: types.UID(fmt.Sprint(owner)), Controller: &controls}}
			}
			return p
		}
		switch random.IntN(6) {
		case 0:
			s.SetNode(node(host))
		case 1:
			s.RemoveNode(host)
		case 2:
			s.SetPod(pod(name, host, amount))
			where[name], cpu[name] = host, amount
		case 3:
			s.Assume(NewPod(pod(name, "", amount)), host)
			where[name], cpu[name] = host, amount
		case 4:
			s.RemovePod(pod(name, "", 0))
			delete(where, name)
		case 5:
			if s.pods[types.UID(name)].assumed {
				delete(where, name)
			}
			s.Forget(NewPod(pod(name, "", 0)))
		}
		sums := map[string]int64{}
		for name, host := range where {
			sums[host] += cpu[name]
		}
		for i := range 4 {
			host := fmt.Sprintf("n%d", i)
			var got int64
			if n := s.nodes[host]; n != nil {
				got = n.Requested.MilliCPU
				owned := map[types.UID]int{}
				for _, p := range n.Pods {
					if owner := metav1.GetControllerOf(p.Object); owner != nil {
						owned[owner.UID]++
					}
				}
				for owner, list := range n.owned {
					owned[owner] -= len(list)
				}
				for owner, difference := range owned {
					if difference != 0 {
						t.Fatalf("step %d: %s has %d pods of %s more than it knows", step, host, difference, owner)
					}
				}
			}
			if got != sums[host] {
				t.Fatalf("step %d: %s has %dm requested, want %dm", step, host, got, sums[host])
			}
		}
		if len(s.pods) != len(where) {
			t.Fatalf("step %d: %d pods, want %d", step, len(s.pods), len(where))
		}
	}
}

// TestNodesTakeZonesByTurns because whoever looks at some nodes only must have looked at all zones alike.
func TestNodesTakeZonesByTurns(t *testing.T) {
	in := func(name, region, zone string) *corev1.Node {
		n := node(name)
		n.Labels = map[string]string{corev1.LabelTopologyRegion: region, corev1.LabelTopologyZone: zone}
		return n
	}
	tests := map[string]struct {
		nodes []*corev1.Node
		gone  string
		want  string
	}{
		"no zones":                                   {nodes: []*corev1.Node{node("a"), node("b"), node("c")}, want: "a b c"},
		"one node of each zone by turn":              {nodes: []*corev1.Node{in("a1", "r", "a"), in("a2", "r", "a"), in("b1", "r", "b"), in("b2", "r", "b")}, want: "a1 b1 a2 b2"},
		"a zone that runs out":                       {nodes: []*corev1.Node{in("a1", "r", "a"), in("b1", "r", "b"), in("b2", "r", "b"), in("b3", "r", "b")}, want: "a1 b1 b2 b3"},
		"zones of one name in two regions are two":   {nodes: []*corev1.Node{in("a1", "r", "a"), in("a2", "r", "a"), in("b1", "s", "a")}, want: "a1 b1 a2"},
		"nodes without a zone take turns with zones": {nodes: []*corev1.Node{node("x"), node("y"), in("a1", "r", "a")}, want: "x a1 y"},
		"a node that goes":                           {nodes: []*corev1.Node{in("a1", "r", "a"), in("a2", "r", "a"), in("b1", "r", "b")}, gone: "a1", want: "a2 b1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := New()
			for _, n := range tc.nodes {
				s.SetNode(n)
			}
			before := s.Order()
			if tc.gone != "" {
				s.RemoveNode(tc.gone)
				if s.Order() == before {
					t.Error("a node went and the order is the same one")
				}
			}
			var got []string
			for i, n := range s.Nodes() {
				got = append(got, n.Name)
				if n.Place != i {
					t.Errorf("%s is at %d and says %d", n.Name, i, n.Place)
				}
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("Nodes() = %v, want %s", got, tc.want)
			}
		})
	}
}

func TestChangesSayWhatMatters(t *testing.T) {
	s := New()
	if got := s.SetNode(node("a")).Kind; got != NodeAdded {
		t.Errorf("a new node is %v", got)
	}
	heartbeat := node("a")
	heartbeat.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}}
	if got := s.SetNode(heartbeat).Kind; got != Nothing {
		t.Errorf("a heartbeat is %v", got)
	}
	cordoned := node("a")
	cordoned.Spec.Unschedulable = true
	if got := s.SetNode(cordoned).Kind; got != NodeChanged {
		t.Errorf("a cordon is %v", got)
	}
	s.Assume(NewPod(pod("p", "", 1)), "a")
	if got := s.SetPod(pod("p", "a", 1)).Kind; got != PodPlaced {
		t.Errorf("a placement the cache confirms is %v", got)
	}
	if got := s.SetPod(pod("p", "a", 1)).Kind; got != Nothing {
		t.Errorf("a pod's status is %v", got)
	}
	if got := s.Forget(NewPod(pod("p", "", 1))).Kind; got != Nothing {
		t.Errorf("forgetting what the cache has confirmed is %v", got)
	}
	if got := s.RemovePod(pod("p", "a", 1)).Kind; got != PodGone {
		t.Errorf("a pod that goes is %v", got)
	}
}

func TestStandIn(t *testing.T) {
	class := func(name, resource string, age time.Duration) *resourcev1.DeviceClass {
		c := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(-age))}}
		if resource != "" {
			c.Spec.ExtendedResourceName = &resource
		}
		return c
	}
	tests := map[string]struct {
		classes []*resourcev1.DeviceClass
		of      corev1.ResourceName
		want    string
	}{
		"a class stands for what it names":                    {classes: []*resourcev1.DeviceClass{class("a", "x/gpu", 0)}, of: "x/gpu", want: "a"},
		"a class stands for nothing else":                     {classes: []*resourcev1.DeviceClass{class("a", "x/gpu", 0)}, of: "x/nic"},
		"a class stands for its own name":                     {classes: []*resourcev1.DeviceClass{class("a", "", 0)}, of: "deviceclass.resource.kubernetes.io/a", want: "a"},
		"of two the younger stands for it":                    {classes: []*resourcev1.DeviceClass{class("a", "x/gpu", time.Hour), class("b", "x/gpu", time.Minute)}, of: "x/gpu", want: "b"},
		"of two of one age the first by name":                 {classes: []*resourcev1.DeviceClass{class("b", "x/gpu", 0), class("a", "x/gpu", 0)}, of: "x/gpu", want: "a"},
		"a class that changes its mind does not stand for it": {classes: []*resourcev1.DeviceClass{class("a", "x/gpu", 0), class("a", "x/nic", 0)}, of: "x/gpu"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := New()
			s.SetNode(node("n"))
			for _, c := range tc.classes {
				before := s.Order()
				s.SetDeviceClass(c)
				if s.Order() == before {
					t.Error("what nodes say of pods was not asked anew")
				}
			}
			got := ""
			if c := s.StandIn(tc.of); c != nil {
				got = c.Name
			}
			if got != tc.want {
				t.Errorf("StandIn(%s) = %q, want %q", tc.of, got, tc.want)
			}
			for _, c := range tc.classes {
				s.RemoveDeviceClass(c)
			}
			if s.StandIn(tc.of) != nil {
				t.Error("a class that is gone stands for it")
			}
		})
	}
}

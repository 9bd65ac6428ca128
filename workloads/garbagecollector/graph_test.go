package garbagecollector

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var thing = schema.GroupVersionKind{Version: "v1", Kind: "Thing"}

type change func(*metav1.PartialObjectMetadata)

func named(uid types.UID, changes ...change) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: string(uid), UID: uid}}
	for _, c := range changes {
		c(o)
	}
	return o
}

func ownedBy(uid types.UID, blocks bool) change {
	return func(o *metav1.PartialObjectMetadata) {
		o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Thing", Name: string(uid), UID: uid, BlockOwnerDeletion: ptr.To(blocks)})
	}
}

func going(finalizers ...string) change {
	return func(o *metav1.PartialObjectMetadata) {
		o.DeletionTimestamp = ptr.To(metav1.NewTime(time.Unix(1, 0)))
		o.Finalizers = finalizers
	}
}

func in(namespace string) change {
	return func(o *metav1.PartialObjectMetadata) { o.Namespace = namespace }
}

func TestGraphFindsWorthwhileWork(t *testing.T) {
	tests := map[string]struct {
		act  func(*graph)
		want []string
	}{
		"objects without owners are no work": {act: func(g *graph) { g.set(thing, named("a")) }},
		"an owner nobody has seen is looked up": {
			act: func(g *graph) { g.set(thing, named("child", ownedBy("owner", false))) }, want: []string{"check owner"},
		},
		"an owner that is there is no work": {
			act: func(g *graph) { g.set(thing, named("owner")); g.set(thing, named("child", ownedBy("owner", false))) },
		},
		"the children of one that goes are checked": {
			act: func(g *graph) {
				g.set(thing, named("owner"))
				g.set(thing, named("child", ownedBy("owner", false)))
				g.remove("owner")
			}, want: []string{"check child"},
		},
		"one that waits for its children has them checked, and itself": {
			act: func(g *graph) {
				g.set(thing, named("owner"))
				g.set(thing, named("child", ownedBy("owner", true)))
				g.set(thing, named("owner", going(metav1.FinalizerDeleteDependents)))
			}, want: []string{"check child", "check owner"},
		},
		"and again when the last child is gone": {
			act: func(g *graph) {
				g.set(thing, named("child", ownedBy("owner", true)))
				g.set(thing, named("owner", going(metav1.FinalizerDeleteDependents)))
				g.remove("child")
			}, want: []string{"check child", "check owner", "check owner", "check owner"},
		},
		"one that gives its children up": {
			act: func(g *graph) { g.set(thing, named("owner", going(metav1.FinalizerOrphanDependents))) }, want: []string{"orphan owner"},
		},
		"an owner in another namespace is none": {
			act: func(g *graph) {
				g.set(thing, named("owner"))
				g.set(thing, named("child", in("else"), ownedBy("owner", false)))
			}, want: []string{"check child", "warn child"},
		},
		"a kind that is no longer served takes its objects along": {
			act: func(g *graph) {
				g.set(thing, named("owner"))
				g.set(schema.GroupVersionKind{Version: "v1", Kind: "Other"}, named("child", ownedBy("owner", false)))
				g.removeKind(thing, nil)
			}, want: []string{"check child"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			tc.act(newGraph(func(w work) {
				got = append(got, map[act]string{check: "check ", orphan: "orphan ", warn: "warn "}[w.act]+string(w.uid))
			}))
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("work (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGraphForgetsOwnersNobodyNames(t *testing.T) {
	g := newGraph(func(work) {})
	g.set(thing, named("child", ownedBy("owner", false)))
	g.set(thing, named("child"))
	g.remove("child")
	if len(g.nodes) != 0 {
		t.Errorf("%d nodes left, want none", len(g.nodes))
	}
}

func TestJudge(t *testing.T) {
	orphans := func(o *metav1.PartialObjectMetadata) { o.Finalizers = []string{metav1.FinalizerOrphanDependents} }
	tests := map[string]struct {
		object     *metav1.PartialObjectMetadata
		owners     map[types.UID]standing
		dependents bool
		circle     bool
		delete     metav1.DeletionPropagation
		drop       []types.UID
		free       bool
	}{
		"nobody owns it":                     {object: named("o")},
		"its owner is there":                 {object: named("o", ownedBy("a", false)), owners: map[types.UID]standing{"a": solid}},
		"its only owner is gone":             {object: named("o", ownedBy("a", false)), owners: map[types.UID]standing{"a": absent}, delete: metav1.DeletePropagationBackground},
		"one of its owners is gone":          {object: named("o", ownedBy("a", false), ownedBy("b", false)), owners: map[types.UID]standing{"a": absent, "b": solid}, drop: []types.UID{"a"}},
		"one waits for it, another keeps it": {object: named("o", ownedBy("a", true), ownedBy("b", false)), owners: map[types.UID]standing{"a": waiting, "b": solid}, drop: []types.UID{"a"}},
		"its owner waits for it":             {object: named("o", ownedBy("a", true)), owners: map[types.UID]standing{"a": waiting}, delete: metav1.DeletePropagationBackground},
		"its owner waits for it and it has children": {
			object: named("o", ownedBy("a", true)), owners: map[types.UID]standing{"a": waiting}, dependents: true, delete: metav1.DeletePropagationForeground,
		},
		"they wait for each other in a circle": {
			object: named("o", ownedBy("a", true)), owners: map[types.UID]standing{"a": waiting}, dependents: true, circle: true,
			delete: metav1.DeletePropagationForeground, free: true,
		},
		"what was asked for before stays asked for": {
			object: named("o", ownedBy("a", false), orphans), owners: map[types.UID]standing{"a": absent}, delete: metav1.DeletePropagationOrphan,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := judge(tc.object, tc.owners, tc.dependents, tc.circle)
			if policy := ptr.Deref(got.delete, ""); policy != tc.delete || got.free != tc.free || !slices.Equal(got.drop, tc.drop) {
				t.Errorf("judge() deletes %q, drops %v, frees %v; want %q, %v, %v", policy, got.drop, got.free, tc.delete, tc.drop, tc.free)
			}
		})
	}
}

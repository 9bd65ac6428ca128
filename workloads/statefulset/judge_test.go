package statefulset

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type option func(*appsv1.StatefulSet)

func db(replicas int32, options ...option) *appsv1.StatefulSet {
	labels := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db", UID: "set", Generation: 2},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, ServiceName: "dbs",
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
		},
	}
	for _, o := range options {
		o(set)
	}
	return set
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }
func onDelete(s *appsv1.StatefulSet) {
	s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
}
func from(ordinal int32) option {
	return func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: ordinal} }
}
func rolling(partition int32, maxUnavailable intstr.IntOrString) option {
	return func(s *appsv1.StatefulSet) {
		s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition, MaxUnavailable: &maxUnavailable}
	}
}
func ripening(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 30 }
func deleted(s *appsv1.StatefulSet)  { s.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }

// pods reads "0:new:ready 1:old:ending": ordinal, revision, state.
func pods(set *appsv1.StatefulSet, described string) []*corev1.Pod {
	var all []*corev1.Pod
	for _, word := range strings.Fields(described) {
		part := strings.Split(word, ":")
		ordinal, err := strconv.Atoi(part[0])
		if err != nil {
			panic(err)
		}
		pod := newPod(set, ordinal, revision{name: part[1], template: &set.Spec.Template})
		pod.UID = types.UID(pod.Name)
		pod.Status.Phase = corev1.PodRunning
		ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-10 * time.Second))}
		switch part[2] {
		case "ready":
			pod.Status.Conditions = []corev1.PodCondition{ready}
		case "ending":
			pod.Status.Conditions = []corev1.PodCondition{ready}
			pod.DeletionTimestamp = ptr.To(metav1.NewTime(now))
		case "sick":
		case "pending":
			pod.Status.Phase = corev1.PodPending
		case "failed":
			pod.Status.Phase = corev1.PodFailed
		default:
			panic(part[2])
		}
		all = append(all, pod)
	}
	return all
}

// told is a plan in words: "+1@new" creates, "-2" deletes.
func told(p Plan) string {
	var words []string
	for _, b := range p.Births {
		if b.Pod != nil {
			words = append(words, "+"+strings.TrimPrefix(b.Name, "db-")+"@"+revisionOf(b.Pod))
		}
	}
	for _, d := range p.Deaths {
		words = append(words, "-"+strings.TrimPrefix(d.Pod.Name, "db-"))
	}
	return strings.Join(words, " ")
}

func look(set *appsv1.StatefulSet, described string) observed {
	template := &set.Spec.Template
	return observed{set: set, pods: pods(set, described), current: revision{"old", template}, update: revision{"new", template}}
}

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		set  *appsv1.StatefulSet
		pods string
		want string
	}{
		"an ordered set starts with its first pod":                    {set: db(3), want: "+0@new"},
		"the second follows when the first is ready":                  {set: db(3), pods: "0:new:ready", want: "+1@new"},
		"the second waits for a first that is not":                    {set: db(3), pods: "0:new:sick"},
		"a pod that is not ready for long enough is waited for":       {set: db(2, ripening), pods: "0:new:ready"},
		"a parallel set starts all at once":                           {set: db(3, parallel), want: "+0@new +1@new +2@new"},
		"ordinals start where they are told to":                       {set: db(2, parallel, from(5)), want: "+5@new +6@new"},
		"a gap is filled before anything above it moves":              {set: db(3), pods: "0:new:ready 2:old:ready", want: "+1@new"},
		"a pod that ends is waited for, not doubled":                  {set: db(1), pods: "0:new:ending"},
		"in a parallel set as well":                                   {set: db(2, parallel), pods: "0:new:ending", want: "+1@new"},
		"a failed pod is deleted before another takes its name":       {set: db(2), pods: "0:new:failed", want: "-0"},
		"scaling down takes the last pod first":                       {set: db(1), pods: "0:new:ready 1:new:ready 2:new:ready", want: "-2"},
		"and the next when that one is gone":                          {set: db(1), pods: "0:new:ready 1:new:ready 2:new:ending"},
		"a parallel set takes all at once":                            {set: db(1, parallel), pods: "0:new:ready 1:new:ready 2:new:ready", want: "-2 -1"},
		"scaling down halts while a pod that stays is sick":           {set: db(1), pods: "0:new:sick 1:new:ready"},
		"and while two that go are":                                   {set: db(0), pods: "0:new:sick 1:new:sick"},
		"but the lowest sick one may go":                              {set: db(0), pods: "0:new:sick", want: "-0"},
		"moving the start moves pods, the new first":                  {set: db(2, from(1)), pods: "0:new:ready 1:new:ready", want: "+2@new"},
		"and then the old go":                                         {set: db(2, from(1)), pods: "0:new:ready 1:new:ready 2:new:ready", want: "-0"},
		"an update replaces the last pod first":                       {set: db(3), pods: "0:old:ready 1:old:ready 2:old:ready", want: "-2"},
		"then creates it anew":                                        {set: db(3), pods: "0:old:ready 1:old:ready", want: "+2@new"},
		"then waits for it":                                           {set: db(3), pods: "0:old:ready 1:old:ready 2:new:sick"},
		"then takes the next":                                         {set: db(3), pods: "0:old:ready 1:old:ready 2:new:ready", want: "-1"},
		"a partition keeps the pods below it":                         {set: db(3, rolling(2, intstr.FromInt32(1))), pods: "0:old:ready 1:old:ready 2:new:ready"},
		"which come back as they were":                                {set: db(3, rolling(2, intstr.FromInt32(1))), pods: "0:old:ready", want: "+1@old"},
		"a partition beyond the last pod holds the update":            {set: db(2, rolling(9, intstr.FromInt32(1))), pods: "0:old:ready 1:old:ready"},
		"two may be unavailable":                                      {set: db(4, rolling(0, intstr.FromInt32(2))), pods: "0:old:ready 1:old:ready 2:old:ready 3:old:ready", want: "-3 -2"},
		"of which one is already":                                     {set: db(4, parallel, rolling(0, intstr.FromInt32(2))), pods: "0:old:ready 1:old:ready 2:old:ready 3:new:sick", want: "-2"},
		"a share of pods may be unavailable":                          {set: db(4, rolling(0, intstr.FromString("60%"))), pods: "0:old:ready 1:old:ready 2:old:ready 3:old:ready", want: "-3 -2 -1"},
		"an old pod that is sick never holds up its own replacement":  {set: db(3, parallel), pods: "0:old:sick 1:old:ready 2:old:ready", want: "-0"},
		"an old pod that is ready is left to become available":        {set: db(2, parallel, ripening), pods: "0:old:ready 1:old:ready"},
		"a set that updates on delete touches nothing":                {set: db(2, onDelete), pods: "0:old:ready 1:old:ready"},
		"and creates the new":                                         {set: db(2, onDelete), pods: "0:old:ready", want: "+1@new"},
		"a set that goes does nothing":                                {set: db(3, deleted), pods: "0:old:ready"},
		"a set of none has none":                                      {set: db(0)},
		"a pod of a name that is none of its ordinals is not touched": {set: db(1), pods: "0:new:ready"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := look(tc.set, tc.pods)
			stranger := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-007"}}
			o.pods = append(o.pods, stranger)
			if got := told(judge(o, now)); got != tc.want {
				t.Errorf("judge() = %q, want %q", got, tc.want)
			}
		})
	}
}

// TestJudgeArrives plays judge against a world that does what it says, from many states, and holds it to its promises.
func TestJudgeArrives(t *testing.T) {
	for _, policy := range []option{func(*appsv1.StatefulSet) {}, parallel} {
		for _, before := range []string{"", "0:old:ready 1:old:ready 2:old:ready 3:old:ready", "0:old:failed 2:old:pending", "1:new:ready 5:old:sick 7:old:ready"} {
			set := db(3, policy, rolling(0, intstr.FromInt32(1)))
			t.Run(fmt.Sprintf("%s from %q", set.Spec.PodManagementPolicy, before), func(t *testing.T) {
				world := map[int]string{}
				for _, word := range strings.Fields(before) {
					part := strings.SplitN(word, ":", 2)
					ordinal, _ := strconv.Atoi(part[0])
					world[ordinal] = part[1]
				}
				for range 100 {
					var described []string
					for ordinal, state := range world {
						described = append(described, strconv.Itoa(ordinal)+":"+state)
					}
					plan := judge(look(set, strings.Join(described, " ")), now)
					for ordinal, state := range world { // time passes
						revision, health, _ := strings.Cut(state, ":")
						switch health {
						case "ending":
							delete(world, ordinal)
						case "pending", "sick":
							world[ordinal] = revision + ":ready"
						}
					}
					for _, b := range plan.Births {
						ordinal, _ := ordinalOf(set, b.Name)
						if world[ordinal] != "" {
							t.Fatalf("a second pod %s was made", b.Name)
						}
						world[ordinal] = revisionOf(b.Pod) + ":pending"
					}
					for _, d := range plan.Deaths {
						ordinal, _ := ordinalOf(set, d.Pod.Name)
						world[ordinal] = revisionOf(d.Pod) + ":ending"
					}
				}
				want := map[int]string{0: "new:ready", 1: "new:ready", 2: "new:ready"}
				if diff := cmp.Diff(want, world); diff != "" {
					t.Errorf("after 100 passes (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestJudgeStatus(t *testing.T) {
	o := look(db(3, ripening), "0:old:ready 1:new:ready 2:new:sick 3:old:ending")
	o.pods[0].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Hour))
	got, ripe := judgeStatus(o, now)
	want := appsv1.StatefulSetStatus{
		ObservedGeneration: 2, Replicas: 4, ReadyReplicas: 3, AvailableReplicas: 1, CurrentReplicas: 1, UpdatedReplicas: 2,
		CurrentRevision: "old", UpdateRevision: "new", CollisionCount: ptr.To[int32](0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if ripe != 20*time.Second {
		t.Errorf("next pod available in %v, want 20s", ripe)
	}
	done, _ := judgeStatus(look(db(2), "0:new:ready 1:new:ready"), now)
	if done.CurrentRevision != "new" || done.CurrentReplicas != 2 {
		t.Errorf("after the last pod: %+v; want the new revision to be the current one", done)
	}
	canary, _ := judgeStatus(look(db(2, rolling(1, intstr.FromInt32(1))), "0:old:ready 1:new:ready"), now)
	if canary.CurrentRevision != "old" || canary.CurrentReplicas != 1 || canary.UpdatedReplicas != 1 {
		t.Errorf("with a partition: %+v; want the old revision to stay current", canary)
	}
}

func TestNewPodHasItsIdentity(t *testing.T) {
	set := db(3)
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	set.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}, {Name: "tmp"}}
	pod := newPod(set, 2, revision{"db-5f", &set.Spec.Template})
	wantLabels := map[string]string{
		"app": "db", "statefulset.kubernetes.io/pod-name": "db-2", "apps.kubernetes.io/pod-index": "2", "controller-revision-hash": "db-5f",
	}
	if diff := cmp.Diff(wantLabels, pod.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if pod.Name != "db-2" || pod.Spec.Hostname != "db-2" || pod.Spec.Subdomain != "dbs" {
		t.Errorf("name %q, hostname %q, subdomain %q", pod.Name, pod.Spec.Hostname, pod.Spec.Subdomain)
	}
	if v := pod.Spec.Volumes; len(v) != 2 || v[0].PersistentVolumeClaim.ClaimName != "data-db-2" || v[1].Name != "tmp" {
		t.Errorf("volumes %v; want the claim in place of its namesake", v)
	}
	if len(set.Spec.Template.Labels) != 1 {
		t.Error("the set's own template was changed")
	}
}

func TestOrdinalOf(t *testing.T) {
	for name, want := range map[string]int{"db-0": 0, "db-17": 17, "db-01": -1, "db--1": -1, "db-x": -1, "db-": -1, "other-1": -1, "db-1-1": -1} {
		got, member := ordinalOf(db(1), name)
		if member != (want >= 0) || (member && got != want) {
			t.Errorf("ordinalOf(%q) = %d, %v; want %d", name, got, member, want)
		}
	}
}

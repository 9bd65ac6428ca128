package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// finding is one difference between the API and the machine.
type finding struct{ Kind, What string }

// judge compares what the API says of the node's pods with what the machine has.
func judge(pods []corev1.Pod, w *world) []finding {
	j := &judgement{w: w, pods: map[string]*corev1.Pod{}, live: map[string]bool{}}
	for i := range pods {
		j.pods[string(pods[i].UID)] = &pods[i]
	}
	j.found = unsettled(pods)
	j.sandboxes()
	j.containers()
	j.processes()
	j.byName()
	j.network()
	slices.SortFunc(j.found, func(a, b finding) int { return strings.Compare(a.Kind+a.What, b.Kind+b.What) })
	return j.found
}

type judgement struct {
	w     *world
	pods  map[string]*corev1.Pod
	live  map[string]bool // ids of sandboxes that hold a pod's namespaces and of containers that run
	found []finding
}

func (j *judgement) add(kind, format string, args ...any) {
	j.found = append(j.found, finding{kind, fmt.Sprintf(format, args...)})
}

func ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// unsettled are the pods that are on their way.
func unsettled(pods []corev1.Pod) []finding {
	var found []finding
	for i := range pods {
		switch p := &pods[i]; {
		case p.DeletionTimestamp != nil:
			found = append(found, finding{"pod not ended", p.Name})
		case !ended(p) && !ready(p):
			found = append(found, finding{"pod not ready", p.Name + ": " + waiting(p)})
		case !ended(p) && outdated(p):
			found = append(found, finding{"container of another image", p.Name})
		}
	}
	return found
}

// outdated: a container runs an image its pod asked for before; it is about to be replaced.
func outdated(p *corev1.Pod) bool {
	for _, s := range p.Status.ContainerStatuses {
		for _, c := range p.Spec.Containers {
			if c.Name == s.Name && c.Image != s.Image {
				return true
			}
		}
	}
	return false
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func waiting(p *corev1.Pod) string {
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if w := s.State.Waiting; w != nil {
			return fmt.Sprintf("%s %s %s", s.Name, w.Reason, w.Message)
		}
	}
	return string(p.Status.Phase)
}

// sandboxes: one for each pod that runs, and of those that ended none that still holds anything.
func (j *judgement) sandboxes() {
	held := map[string]int{}
	for id, s := range j.w.Sandboxes {
		p := j.pods[s.UID]
		switch {
		case p == nil:
			j.add("sandbox of no pod", "%s", id)
		case s.Ready && ended(p):
			j.add("sandbox of an ended pod", "%s", p.Name)
		case !s.Ready && !ended(p):
			j.add("sandbox that was replaced", "%s %s", p.Name, id)
		}
		if s.Ready {
			held[s.UID]++
			j.live[id] = true
		}
	}
	for uid, p := range j.pods {
		if !ended(p) && held[uid] != 1 {
			j.add("pod without one sandbox", "%s has %d", p.Name, held[uid])
		}
	}
}

// containers: those that run are those the API says run.
func (j *judgement) containers() {
	told := map[string]string{}
	for _, p := range j.pods {
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if s.State.Running != nil {
				told[strings.TrimPrefix(s.ContainerID, "containerd://")] = p.Name + "/" + s.Name
			}
		}
	}
	for id, c := range j.w.Containers {
		name := id
		if p := j.pods[c.UID]; p != nil {
			name = p.Name + "/" + c.Name
		}
		switch c.State {
		case runtimeapi.ContainerState_CONTAINER_RUNNING:
			j.live[id] = true
			if told[id] == "" {
				j.add("container runs, the API does not say so", "%s", name)
			}
			delete(told, id)
		case runtimeapi.ContainerState_CONTAINER_CREATED:
			j.add("container made and never started", "%s", name)
		case runtimeapi.ContainerState_CONTAINER_UNKNOWN:
			j.add("container in an unknown state", "%s", name)
		}
		if j.pods[c.UID] == nil {
			j.add("container of no pod", "%s", name)
		}
	}
	for _, name := range told {
		j.add("container does not run, the API says so", "%s", name)
	}
}

// processes: a shim and a pause for each sandbox, something in each container, and nothing else.
func (j *judgement) processes() {
	held := map[string]int{}
	for id, s := range j.w.Sandboxes {
		if s.Ready {
			held[s.UID]++
			if n := len(j.w.Shims[id]); n != 1 {
				j.add("sandbox without one shim", "%s has %d", id, n)
			}
		}
	}
	for id, pids := range j.w.Shims {
		if !j.live[id] {
			j.add("shim", "%s %v", id, pids)
		}
	}
	for uid, pids := range j.w.Pauses {
		if len(pids) != held[uid] {
			j.add("pause process", "pod %s has %v", uid, pids)
		}
	}
	for id, c := range j.w.Containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING && len(j.w.Runs[id]) == 0 {
			j.add("container without a process", "%s", id)
		}
	}
	for id, pids := range j.w.Runs {
		if !j.live[id] {
			j.add("process of a container that is gone", "%s %v", id, pids)
		}
	}
	for pid, args := range j.w.Strays {
		j.add("process", "%d %s", pid, args)
	}
}

// byName: whatever bears the name of a container, a sandbox or a pod belongs to one that is there.
func (j *judgement) byName() {
	known := func(id string) bool {
		_, s := j.w.Sandboxes[id]
		_, c := j.w.Containers[id]
		return s || c
	}
	for kind, ids := range j.w.ByID {
		of := known
		switch kind {
		case "bundle", "work folder", "runc folder", "CNI result":
			of = func(id string) bool { return j.live[id] } // what ended gives these back at once
		}
		for _, id := range ids {
			if !of(id) {
				j.add(kind, "%s", id)
			}
		}
	}
	for kind, uids := range j.w.ByUID {
		seen := map[string]bool{}
		for _, uid := range uids {
			p := j.pods[uid]
			// An ended pod keeps its logs and last words; what it held of the machine it gives back.
			if !seen[uid] && (p == nil || ended(p) && (kind == "cgroup" || kind == "volumes")) {
				seen[uid] = true
				j.add(kind, "%s", uid)
			}
		}
	}
	for _, mount := range j.w.Mounts {
		if slices.Contains(j.w.Netns, mount) {
			continue // looked at with the network; its name is like a pod's
		}
		uid, id := uidIn.FindString(mount), idIn.FindString(mount)
		if p := j.pods[uid]; uid != "" && (p == nil || ended(p)) || id != "" && !j.live[id] {
			j.add("mount", "%s", mount)
		}
	}
}

// network: a lease, a namespace and a link for each sandbox that is not on the host's network, and no rule for others.
func (j *judgement) network() {
	leased, links, spaces := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, l := range j.w.Leases {
		if !j.live[l.ContainerID] {
			j.add("address lease", "%s of %s", l.Address, l.ContainerID)
		}
		if leased[l.ContainerID] {
			j.add("address lease", "a second one of %s: %s", l.ContainerID, l.Address)
		}
		leased[l.ContainerID], links[l.link()], spaces[l.Netns] = true, true, true
		delete(j.w.Addresses, l.Address)
	}
	for id, s := range j.w.Sandboxes {
		if p := j.pods[s.UID]; p != nil && s.Ready && !p.Spec.HostNetwork && !leased[id] {
			j.add("sandbox without an address", "%s", p.Name)
		}
	}
	for _, name := range j.w.Links {
		if !links[name] {
			j.add("link", "%s", name)
		}
	}
	for _, path := range j.w.Netns {
		if !spaces[path] {
			j.add("network namespace", "%s", path)
		}
	}
	for address, place := range j.w.Addresses {
		j.add("rule", "%s in %s", address, place)
	}
}

func TestJudge(t *testing.T) {
	const uid, id, run = "00000000-0000-0000-0000-000000000001", "5a", "c0"
	pod := func(change func(*corev1.Pod)) corev1.Pod {
		p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: types.UID(uid)}}
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{
			Name: "c", ContainerID: "containerd://" + run, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}
		if change != nil {
			change(&p)
		}
		return p
	}
	machine := func(change func(*world)) *world {
		w := &world{
			Sandboxes:  map[string]sandbox{id: {UID: uid, Ready: true}},
			Containers: map[string]container{run: {UID: uid, Name: "c", Sandbox: id, State: runtimeapi.ContainerState_CONTAINER_RUNNING}},
			Shims:      map[string][]int{id: {1}}, Pauses: map[string][]int{uid: {2}}, Runs: map[string][]int{run: {3}},
			ByID:   map[string][]string{"bundle": {id, run}, "stored sandbox": {id}},
			ByUID:  map[string][]string{"cgroup": {uid, uid}, "log folder": {uid}},
			Leases: []lease{{ContainerID: id, Netns: "/n"}}, Links: []string{lease{ContainerID: id}.link()}, Netns: []string{"/n"},
		}
		if change != nil {
			change(w)
		}
		return w
	}
	tests := map[string]struct {
		pods []corev1.Pod
		w    *world
		want []finding
	}{
		"a pod that runs has one of everything": {[]corev1.Pod{pod(nil)}, machine(nil), nil},
		"an empty machine has nothing":          {nil, &world{}, nil},
		"what is left of a pod the API does not have is named": {nil, machine(func(w *world) { w.Containers, w.Runs = nil, nil }), []finding{
			{"bundle", run}, {"cgroup", uid}, {"log folder", uid}, {"sandbox of no pod", id},
		}},
		"a container that was never started": {
			[]corev1.Pod{pod(func(p *corev1.Pod) { p.Status.ContainerStatuses = nil })},
			machine(func(w *world) {
				w.Containers[run] = container{UID: uid, Name: "c", State: runtimeapi.ContainerState_CONTAINER_CREATED}
			}),
			[]finding{{"bundle", run}, {"container made and never started", "p/c"}, {"process of a container that is gone", run + " [3]"}},
		},
		"an ended pod keeps its log and its record": {
			[]corev1.Pod{pod(func(p *corev1.Pod) { p.Status = corev1.PodStatus{Phase: corev1.PodSucceeded} })},
			machine(func(w *world) {
				*w = world{Sandboxes: map[string]sandbox{id: {UID: uid}}, ByUID: map[string][]string{"log folder": {uid}}, ByID: map[string][]string{"stored sandbox": {id}}}
			}), nil,
		},
		"a container that is about to be replaced": {
			[]corev1.Pod{pod(func(p *corev1.Pod) { p.Spec.Containers = []corev1.Container{{Name: "c", Image: "new"}} })},
			machine(nil), []finding{{"container of another image", "p"}},
		},
		"a namespace, a link and a rule of nobody": {
			[]corev1.Pod{pod(nil)},
			machine(func(w *world) {
				w.Netns, w.Links = append(w.Netns, "/m"), append(w.Links, "knp1")
			}),
			[]finding{{"link", "knp1"}, {"network namespace", "/m"}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, judge(tc.pods, tc.w)); diff != "" {
				t.Errorf("judge() (-want +got):\n%s", diff)
			}
		})
	}
}

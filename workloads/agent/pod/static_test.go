package pod

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/observed"
)

// files are static pods that tests put there.
type files struct {
	now     []*corev1.Pod
	changes chan []*corev1.Pod
}

func (f *files) Read() []*corev1.Pod { return f.now }

func (f *files) Run(ctx context.Context, changed func([]*corev1.Pod)) {
	for {
		select {
		case <-ctx.Done():
			return
		case pods := <-f.changes:
			changed(pods)
		}
	}
}

// fromFile is a static pod as workloads/agent/static makes one.
func fromFile(uid types.UID, args ...string) *corev1.Pod {
	pod := named("own-"+nodeName, app(args...))
	pod.Namespace, pod.UID = "default", uid
	pod.Annotations = map[string]string{"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": string(uid)}
	pod.Spec.NodeName, pod.Spec.HostNetwork, pod.Spec.RestartPolicy = nodeName, true, corev1.RestartPolicyAlways
	pod.Spec.TerminationGracePeriodSeconds = new(int64(2))
	return pod
}

func mirrorRuns(uid string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return p != nil && p.Annotations[corev1.MirrorPodAnnotationKey] == uid && p.Status.Phase == corev1.PodRunning
	}
}

func TestMirrors(t *testing.T) {
	pod := fromFile("one")
	mirror := mirrorOf(pod, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: "node"}})
	if owner := metav1.GetControllerOf(mirror); owner == nil || owner.Kind != "Node" || owner.UID != "node" {
		t.Errorf("the mirror's owner is %v, want the node", owner)
	}
	if isMirror(pod) || mirror.UID != "" {
		t.Error("mirrorOf() changed the pod, or gave the mirror its UID")
	}
	leaving, other := mirror.DeepCopy(), mirror.DeepCopy()
	leaving.DeletionTimestamp = &metav1.Time{}
	other.Annotations[corev1.MirrorPodAnnotationKey] = "two"
	for name, tc := range map[string]struct {
		mirror *corev1.Pod
		want   bool
	}{
		"its own":                    {mirror, true},
		"none":                       {nil, false},
		"one that is being deleted":  {leaving, false},
		"that of another file state": {other, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := mirrors(pod, tc.mirror); got != tc.want {
				t.Errorf("mirrors() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestStaticPods(t *testing.T) {
	own := &files{now: []*corev1.Pod{fromFile("one", "sleep")}, changes: make(chan []*corev1.Pod)}
	m := newMachine(t, func(m *machine) {
		m.change = func(c *Config) { c.Static = own }
		if err := m.api.Tracker().Add(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName, UID: "node"}}); err != nil {
			t.Fatal(err)
		}
	})
	first := m.await("own-"+nodeName, "mirrored", mirrorRuns("one")).Status.ContainerStatuses[0].ContainerID

	// Deleting the mirror ends nothing: the pod's picture comes back.
	if err := m.api.CoreV1().Pods("default").Delete(t.Context(), "own-"+nodeName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	again := m.await("own-"+nodeName, "mirrored again", mirrorRuns("one"))
	if id := again.Status.ContainerStatuses[0].ContainerID; id != first {
		t.Errorf("after its mirror was deleted the pod runs as %s, want %s as before", id, first)
	}
	// Nor does asking for it with a grace, as kubectl does.
	m.deletePod("own-"+nodeName, 30)
	m.await("own-"+nodeName, "mirrored once more", func(p *corev1.Pod) bool { return mirrorRuns("one")(p) && p.DeletionTimestamp == nil })

	// A file that changes is another pod, in the place of the old one.
	own.changes <- []*corev1.Pod{fromFile("two", "sleep")}
	m.await("own-"+nodeName, "replaced", mirrorRuns("two"))
	if got := m.liveContainers("one"); got != 0 {
		t.Errorf("%d containers of the old pod run beside the new one", got)
	}

	// Without its file it ends, and its mirror goes.
	own.changes <- nil
	m.await("own-"+nodeName, "gone", isGone)
	if got := m.liveContainers("two"); got != 0 {
		t.Errorf("%d containers run of a pod whose mirror is gone", got)
	}
}

// liveContainers are those the runtime has running of a pod.
func (m *machine) liveContainers(uid types.UID) int {
	m.t.Helper()
	all, err := observed.ReadAll(m.t.Context(), m.runtime)
	if err != nil {
		m.t.Fatal(err)
	}
	pod := all[uid]
	return len(pod.Running())
}

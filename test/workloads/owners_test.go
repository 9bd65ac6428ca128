package workloads_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Stories of the owners of pods that are neither Deployments nor ReplicaSets.

func TestAStatefulSetGrowsRollsGoesBackAndShrinksInOrder(t *testing.T) {
	addNode(t, "stateful")
	ns := newNamespace(t, "stateful")
	set := newStatefulSet(ns, "db", 3)
	seen := orderOf(t, ns)
	create(t, set)
	first := eventually(t, &appsv1.StatefulSet{}, ns, "db", "complete", settled(3))
	seen("db-0 db-1 db-2")
	for i := range 3 {
		name := fmt.Sprintf("db-%d", i)
		pod := eventually(t, &corev1.Pod{}, ns, name, "there", func(*corev1.Pod) bool { return true })
		if pod.Spec.Hostname != name || pod.Spec.Subdomain != "dbs" || pod.Labels[appsv1.ControllerRevisionHashLabelKey] != first.Status.CurrentRevision {
			t.Errorf("pod %s: hostname %q, subdomain %q, labels %v", name, pod.Spec.Hostname, pod.Spec.Subdomain, pod.Labels)
		}
	}

	patch(t, set, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	second := eventually(t, &appsv1.StatefulSet{}, ns, "db", "rolled", func(s *appsv1.StatefulSet) bool {
		return settled(3)(s) && s.Status.CurrentRevision != first.Status.CurrentRevision
	})
	seen("db-2 db-1 db-0")

	var revisions appsv1.ControllerRevisionList
	if err := api.List(t.Context(), &revisions, client.InNamespace(ns), client.MatchingLabels{"app": "db"}); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(revisions.Items, func(r appsv1.ControllerRevision) bool { return r.Revision == 1 })
	if len(revisions.Items) != 2 || at < 0 {
		t.Fatalf("revisions %v, want 1 and 2", revisions.Items)
	}
	patch(t, set, string(revisions.Items[at].Data.Raw)) // what kubectl rollout undo does
	eventually(t, &appsv1.StatefulSet{}, ns, "db", "rolled back", func(s *appsv1.StatefulSet) bool {
		return settled(3)(s) && s.Status.CurrentRevision == first.Status.CurrentRevision && s.Status.CurrentRevision != second.Status.CurrentRevision
	})
	seen("db-2 db-1 db-0")

	patch(t, set, `{"spec":{"replicas":1}}`)
	eventually(t, &appsv1.StatefulSet{}, ns, "db", "smaller", settled(1))
	eventuallyGone(t, &corev1.Pod{}, ns, "db-1")
	wantEvents(t, ns, "SuccessfulCreate", "SuccessfulDelete")
}

func TestAStatefulSetsCanaryStaysWhereThePartitionPutsIt(t *testing.T) {
	addNode(t, "canary")
	ns := newNamespace(t, "canary")
	set := newStatefulSet(ns, "db", 3)
	set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	set.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](2)}
	create(t, set)
	eventually(t, &appsv1.StatefulSet{}, ns, "db", "complete", settled(3))
	patch(t, set, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	eventually(t, &appsv1.StatefulSet{}, ns, "db", "one pod further", func(s *appsv1.StatefulSet) bool {
		return s.Status.UpdatedReplicas == 1 && s.Status.CurrentReplicas == 2 && s.Status.AvailableReplicas == 3
	})
	for name, image := range map[string]string{"db-0": "app:1", "db-2": "app:2"} { // whoever is lost comes back as it was
		pod := eventually(t, &corev1.Pod{}, ns, name, "there", func(*corev1.Pod) bool { return true })
		uid := pod.UID
		if err := api.Delete(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		eventually(t, &corev1.Pod{}, ns, name, "back", func(p *corev1.Pod) bool {
			return p.UID != uid && p.Spec.Containers[0].Image == image
		})
	}
	patch(t, set, `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	eventually(t, &appsv1.StatefulSet{}, ns, "db", "rolled", func(s *appsv1.StatefulSet) bool {
		return settled(3)(s) && s.Status.UpdatedReplicas == 3
	})
}

func TestAStatefulSetsClaimsGoAsItsPolicySays(t *testing.T) {
	ns := newNamespace(t, "claims")
	set := newStatefulSet(ns, "db", 2)
	set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}}
	set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
		WhenDeleted: appsv1.DeletePersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	}
	create(t, set)
	ownedBy := func(uid types.UID) func(*corev1.PersistentVolumeClaim) bool {
		return func(c *corev1.PersistentVolumeClaim) bool {
			return len(c.OwnerReferences) == 1 && c.OwnerReferences[0].UID == uid
		}
	}
	eventually(t, &corev1.PersistentVolumeClaim{}, ns, "data-db-0", "the set's", ownedBy(set.UID))
	eventually(t, &corev1.PersistentVolumeClaim{}, ns, "data-db-1", "the set's", ownedBy(set.UID))
	eventually(t, &corev1.Pod{}, ns, "db-1", "there", func(p *corev1.Pod) bool { return p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName == "data-db-1" })
	patch(t, set, `{"spec":{"replicas":1}}`)
	eventuallyClaimed(t, ns, "data-db-1", false)
	eventuallyClaimed(t, ns, "data-db-0", true)
	if err := api.Delete(t.Context(), set, client.PropagationPolicy(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	eventuallyClaimed(t, ns, "data-db-0", false)
}

func TestADaemonSetFollowsTheNodes(t *testing.T) {
	ns := newNamespace(t, "daemons")
	ds := newDaemonSet(ns, "log")
	ds.Spec.Template.Spec.NodeSelector = map[string]string{"story": t.Name()}
	create(t, ds)
	addNode(t, "daemon-1")
	addNode(t, "daemon-2")
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "on two nodes", everywhere(2))
	eventuallyOn(t, ns, "daemon-1", "daemon-2")

	addNode(t, "daemon-3")
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "on three nodes", everywhere(3))
	three := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "daemon-3"}}
	patch(t, three, `{"metadata":{"labels":{"story":"over"}}}`)
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "on two again", everywhere(2))
	patch(t, three, fmt.Sprintf(`{"metadata":{"labels":{"story":%q}}}`, t.Name()))
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "on three again", everywhere(3))

	patch(t, ds, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:2"}]}}}}`)
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "updated", func(d *appsv1.DaemonSet) bool {
		return d.Status.ObservedGeneration == d.Generation && everywhere(3)(d)
	})

	victim := podsOf(t, ns, "log")[0]
	before := victim.DeepCopy()
	victim.Status.Phase = corev1.PodFailed
	if err := api.Status().Patch(t.Context(), &victim, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &corev1.Pod{}, ns, victim.Name)
	eventuallyOn(t, ns, "daemon-1", "daemon-2", "daemon-3")
	wantEvents(t, ns, "SuccessfulCreate", "SuccessfulDelete", "FailedDaemonPod")
}

func TestABrokenDaemonStopsAtTheFirstNodeAndGoesBackWithoutRestarts(t *testing.T) {
	ns := newNamespace(t, "broken-daemon")
	ds := newDaemonSet(ns, "log")
	ds.Spec.Template.Spec.NodeSelector = map[string]string{"story": t.Name()}
	for _, node := range []string{"steady-1", "steady-2", "steady-3"} {
		addNode(t, node)
	}
	create(t, ds)
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "everywhere", everywhere(3))
	uids := map[types.UID]bool{}
	for _, pod := range podsOf(t, ns, "log") {
		uids[pod.UID] = true
	}
	patch(t, ds, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"broken"}]}}}}`)
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "stuck on one node", func(d *appsv1.DaemonSet) bool {
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedNumberScheduled == 1 && d.Status.NumberUnavailable == 1
	})
	patch(t, ds, `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"app:1"}]}}}}`)
	eventually(t, &appsv1.DaemonSet{}, ns, "log", "everywhere as before", func(d *appsv1.DaemonSet) bool {
		return d.Status.ObservedGeneration == d.Generation && everywhere(3)(d)
	})
	kept := 0
	for _, pod := range podsOf(t, ns, "log") {
		if uids[pod.UID] {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d of the first pods are left, want the 2 that worked", kept)
	}
}

func TestAReplicationControllerAdoptsReleasesAndScales(t *testing.T) {
	addNode(t, "old-school")
	ns := newNamespace(t, "old-school")
	container := []corev1.Container{{Name: "c", Image: "app:1"}}
	orphan := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "orphan", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{Containers: container},
	}
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: ptr.To[int32](1),
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{Containers: container}},
		},
	}
	create(t, orphan, rc)
	eventually(t, &corev1.Pod{}, ns, "orphan", "adopted", func(p *corev1.Pod) bool { return metav1.IsControlledBy(p, rc) })
	eventually(t, &corev1.ReplicationController{}, ns, "web", "of one pod", inControl(1))
	patch(t, orphan, `{"metadata":{"labels":{"app":"other"}}}`)
	eventually(t, &corev1.Pod{}, ns, "orphan", "released", func(p *corev1.Pod) bool { return len(p.OwnerReferences) == 0 })
	patch(t, rc, `{"spec":{"replicas":3}}`)
	eventually(t, &corev1.ReplicationController{}, ns, "web", "of three pods", inControl(3))
	patch(t, rc, `{"spec":{"replicas":0}}`)
	eventually(t, &corev1.ReplicationController{}, ns, "web", "of none", inControl(0))
}

// TestAReplicationControllerGivesWayToTheNextOne is an update as kubectl rolling-update made it, which users' scripts still do:
// two controllers, one label more to tell their pods apart, a pod at a time, and the name of the first for the second.
func TestAReplicationControllerGivesWayToTheNextOne(t *testing.T) {
	const size = 3
	addNode(t, "two-schools")
	ns := newNamespace(t, "two-schools")
	eventually(t, &corev1.ServiceAccount{}, ns, "default", "there", func(*corev1.ServiceAccount) bool { return true })
	controller := func(name, image string, replicas int32, labels map[string]string) *corev1.ReplicationController {
		return &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ReplicationControllerSpec{
			Replicas: &replicas, Selector: labels, Template: &corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
			},
		}}
	}
	first := controller("web", "app:1", size, map[string]string{"app": "web"})
	create(t, first)
	eventually(t, &corev1.ReplicationController{}, ns, "web", "complete", inControl(size))
	before := uids(podsOf(t, ns, "web"))

	patch(t, first, `{"spec":{"template":{"metadata":{"labels":{"version":"1"}}}}}`)
	for _, pod := range podsOf(t, ns, "web") {
		patch(t, &pod, `{"metadata":{"labels":{"version":"1"}}}`)
	}
	patch(t, first, `{"spec":{"selector":{"version":"1"}}}`)
	eventually(t, &corev1.ReplicationController{}, ns, "web", "complete under its new label", inControl(size))
	if got := uids(podsOf(t, ns, "web")); !slices.Equal(got, before) {
		t.Errorf("pods %v, want those from before the label, %v", got, before)
	}

	labels := map[string]string{"app": "web", "version": "2"}
	second := controller("web-next", "app:2", 0, labels)
	create(t, second)
	for n := int32(1); n <= size; n++ {
		patch(t, second, fmt.Sprintf(`{"spec":{"replicas":%d}}`, n))
		eventually(t, &corev1.ReplicationController{}, ns, "web-next", "larger", inControl(n))
		patch(t, first, fmt.Sprintf(`{"spec":{"replicas":%d}}`, size-n))
		eventually(t, &corev1.ReplicationController{}, ns, "web", "smaller", inControl(size-n))
	}
	updated := uids(podsOf(t, ns, "web"))

	orphaned := client.PropagationPolicy(metav1.DeletePropagationOrphan)
	for _, rc := range []*corev1.ReplicationController{first, second} {
		if err := api.Delete(t.Context(), rc, orphaned); err != nil {
			t.Fatal(err)
		}
		eventuallyGone(t, &corev1.ReplicationController{}, ns, rc.Name)
	}
	create(t, controller("web", "app:2", size, labels))
	eventually(t, &corev1.ReplicationController{}, ns, "web", "complete again", inControl(size))
	if got := uids(podsOf(t, ns, "web")); len(got) != size || !slices.Equal(got, updated) {
		t.Errorf("pods %v, want those of the second controller, %v", got, updated)
	}
}

func uids(pods []corev1.Pod) []types.UID {
	var all []types.UID
	for _, pod := range pods {
		all = append(all, pod.UID)
	}
	slices.Sort(all)
	return all
}

// inControl is a ReplicationController of that many pods with nothing left to do.
func inControl(n int32) func(*corev1.ReplicationController) bool {
	return func(rc *corev1.ReplicationController) bool {
		s := rc.Status
		return s.ObservedGeneration == rc.Generation && s.Replicas == n && s.AvailableReplicas == n && s.FullyLabeledReplicas == n
	}
}

func newStatefulSet(ns, name string, replicas int32) *appsv1.StatefulSet {
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: name + "s",
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: newDeployment(ns, name, "app:1", 0).Spec.Template,
		},
	}
}

func newDaemonSet(ns, name string) *appsv1.DaemonSet {
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: newDeployment(ns, name, "app:1", 0).Spec.Template,
		},
	}
}

// settled is a StatefulSet of that size with nothing left to do.
func settled(replicas int32) func(*appsv1.StatefulSet) bool {
	return func(set *appsv1.StatefulSet) bool {
		s := set.Status
		return s.ObservedGeneration == set.Generation && s.Replicas == replicas && s.AvailableReplicas == replicas &&
			s.UpdatedReplicas == replicas && s.CurrentRevision == s.UpdateRevision
	}
}

// everywhere is a DaemonSet that runs, up to date, on that many nodes and no others.
func everywhere(nodes int32) func(*appsv1.DaemonSet) bool {
	return func(ds *appsv1.DaemonSet) bool {
		s := ds.Status
		return s.DesiredNumberScheduled == nodes && s.CurrentNumberScheduled == nodes && s.UpdatedNumberScheduled == nodes &&
			s.NumberAvailable == nodes && s.NumberUnavailable == 0 && s.NumberMisscheduled == 0
	}
}

// orderOf watches pods come in a namespace; what it returns checks which came since it was last called, in order.
func orderOf(t *testing.T, ns string) func(want string) {
	t.Helper()
	w, err := api.Watch(t.Context(), &corev1.PodList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
	return func(want string) {
		t.Helper()
		var got []string
		deadline := time.After(20 * time.Second)
		for len(got) < len(strings.Fields(want)) {
			select {
			case e := <-w.ResultChan():
				if e.Type == "ADDED" {
					got = append(got, e.Object.(*corev1.Pod).Name)
				}
			case <-deadline:
				t.Fatalf("pods came in the order %v, want %s", got, want)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("pods came in the order %v, want %s", got, want)
		}
	}
}

func podsOf(t *testing.T, ns, app string) []corev1.Pod {
	t.Helper()
	var pods corev1.PodList
	if err := api.List(t.Context(), &pods, client.InNamespace(ns), client.MatchingLabels{"app": app}); err != nil {
		t.Fatal(err)
	}
	return pods.Items
}

// eventuallyOn waits until the pods called log are on these nodes, one each.
func eventuallyOn(t *testing.T, ns string, nodes ...string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var got []string
		for _, pod := range podsOf(t, ns, "log") {
			got = append(got, pod.Spec.NodeName)
		}
		slices.Sort(got)
		if slices.Equal(got, nodes) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("pods on nodes %v, want %v", got, nodes)
		case <-tick.C:
		}
	}
}

// eventuallyClaimed waits until a claim stays or goes; one that goes keeps its finalizer here, where nobody looks after
// volumes.
func eventuallyClaimed(t *testing.T, ns, name string, stays bool) {
	t.Helper()
	if stays {
		eventually(t, &corev1.PersistentVolumeClaim{}, ns, name, "kept", func(c *corev1.PersistentVolumeClaim) bool { return c.DeletionTimestamp == nil })
		return
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var claim corev1.PersistentVolumeClaim
		err := api.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &claim)
		if client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
		if err != nil || claim.DeletionTimestamp != nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("claim %s stays, owned by %v", name, claim.OwnerReferences)
		case <-tick.C:
		}
	}
}

func patch(t *testing.T, o client.Object, body string) {
	t.Helper()
	if err := api.Patch(t.Context(), o.DeepCopyObject().(client.Object), client.RawPatch(types.StrategicMergePatchType, []byte(body))); err != nil {
		t.Fatal(err)
	}
}

package workloads_test

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestANamespaceGetsWhatPodsNeed(t *testing.T) {
	ns := newNamespace(t, "equipped")
	eventually(t, &corev1.ServiceAccount{}, ns, "default", "there", func(*corev1.ServiceAccount) bool { return true })
	eventually(t, &corev1.ConfigMap{}, ns, "kube-root-ca.crt", "published", func(c *corev1.ConfigMap) bool {
		return strings.Contains(c.Data["ca.crt"], "BEGIN CERTIFICATE")
	})
}

func TestANodeGetsAddressesAndLosesItsTaint(t *testing.T) {
	addNode(t, "fresh")
	eventually(t, &corev1.Node{}, "", "fresh", "usable", func(n *corev1.Node) bool {
		return strings.HasPrefix(n.Spec.PodCIDR, "10.42.") && len(n.Spec.Taints) == 0
	})
}

func TestADeploymentIsPlacedServedRolledAndUndone(t *testing.T) {
	addNode(t, "worker")
	ns := newNamespace(t, "shop")
	d := newDeployment(ns, "web", "app:1", 3)
	create(t, d, newService(ns, "web"))

	eventually(t, &appsv1.Deployment{}, ns, "web", "rolled out", rolledOut)
	eventually(t, &discoveryv1.EndpointSlice{}, ns, sliceOf(t, ns, "web"), "ready", func(s *discoveryv1.EndpointSlice) bool {
		return len(s.Endpoints) == 3 && *s.Endpoints[0].Conditions.Ready
	})
	eventually(t, &corev1.Endpoints{}, ns, "web", "ready", func(e *corev1.Endpoints) bool {
		return len(e.Subsets) == 1 && len(e.Subsets[0].Addresses) == 3 && e.Subsets[0].Ports[0].Port == 8080
	})

	setImage(t, ns, "web", "app:2")
	second := eventually(t, &appsv1.Deployment{}, ns, "web", "rolled to 2", func(d *appsv1.Deployment) bool {
		return rolledOut(d) && d.Annotations["deployment.kubernetes.io/revision"] == "2"
	})
	if got := second.Status.Conditions; len(got) != 2 {
		t.Errorf("conditions %v, want Available and Progressing", got)
	}
	setImage(t, ns, "web", "app:1") // what kubectl rollout undo does
	eventually(t, &appsv1.Deployment{}, ns, "web", "rolled back", func(d *appsv1.Deployment) bool {
		return rolledOut(d) && d.Annotations["deployment.kubernetes.io/revision"] == "3"
	})
	var sets appsv1.ReplicaSetList
	if err := api.List(t.Context(), &sets, client.InNamespace(ns)); err != nil {
		t.Fatal(err)
	}
	if len(sets.Items) != 2 {
		t.Errorf("%d ReplicaSets, want 2: the first one is used again", len(sets.Items))
	}
	wantEvents(t, ns, "ScalingReplicaSet", "SuccessfulCreate", "SuccessfulDelete", "Scheduled")
}

func TestABrokenRolloutKeepsServing(t *testing.T) {
	addNode(t, "steady")
	ns := newNamespace(t, "steady")
	create(t, newDeployment(ns, "web", "app:1", 4))
	eventually(t, &appsv1.Deployment{}, ns, "web", "rolled out", rolledOut)
	setImage(t, ns, "web", "broken")
	eventually(t, &appsv1.Deployment{}, ns, "web", "stuck with one pod less and one too many", func(d *appsv1.Deployment) bool {
		return d.Status.AvailableReplicas == 3 && d.Status.UpdatedReplicas == 2
	})
}

func TestOwnersTakeTheirDependentsAlong(t *testing.T) {
	addNode(t, "owned")
	ns := newNamespace(t, "owned")
	for name, policy := range map[string]metav1.DeletionPropagation{
		"background": metav1.DeletePropagationBackground, "foreground": metav1.DeletePropagationForeground,
	} {
		d := newDeployment(ns, name, "app:1", 2)
		create(t, d)
		eventually(t, &appsv1.Deployment{}, ns, name, "rolled out", rolledOut)
		set := setOf(t, ns, name)
		if err := api.Delete(t.Context(), d, client.PropagationPolicy(policy)); err != nil {
			t.Fatal(err)
		}
		eventuallyGone(t, &appsv1.Deployment{}, ns, name)
		eventuallyGone(t, &appsv1.ReplicaSet{}, ns, set)
		eventuallyEmpty(t, ns, name)
	}
}

func TestOrphansStay(t *testing.T) {
	addNode(t, "orphanage")
	ns := newNamespace(t, "orphanage")
	d := newDeployment(ns, "web", "app:1", 2)
	create(t, d)
	eventually(t, &appsv1.Deployment{}, ns, "web", "rolled out", rolledOut)
	set := setOf(t, ns, "web")
	if err := api.Delete(t.Context(), d, client.PropagationPolicy(metav1.DeletePropagationOrphan)); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &appsv1.Deployment{}, ns, "web")
	eventually(t, &appsv1.ReplicaSet{}, ns, set, "given up", func(rs *appsv1.ReplicaSet) bool { return len(rs.OwnerReferences) == 0 })

	again := newDeployment(ns, "web", "app:1", 2)
	create(t, again)
	eventually(t, &appsv1.ReplicaSet{}, ns, set, "adopted", func(rs *appsv1.ReplicaSet) bool {
		return len(rs.OwnerReferences) == 1 && rs.OwnerReferences[0].UID == again.UID
	})
}

func TestANamespaceEndsWithItsContents(t *testing.T) {
	addNode(t, "ending")
	ns := newNamespace(t, "ending")
	create(t, newDeployment(ns, "web", "app:1", 2), newService(ns, "web"),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "settings"}})
	eventually(t, &appsv1.Deployment{}, ns, "web", "rolled out", rolledOut)
	if err := api.Delete(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &corev1.Namespace{}, "", ns)
	for _, list := range []client.ObjectList{
		&corev1.PodList{}, &appsv1.ReplicaSetList{}, &appsv1.DeploymentList{}, &corev1.ServiceList{}, &corev1.ConfigMapList{},
		&corev1.ServiceAccountList{}, &discoveryv1.EndpointSliceList{}, &corev1.EndpointsList{}, &corev1.EventList{},
	} {
		if err := api.List(t.Context(), list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		if n := meta.LenList(list); n != 0 {
			t.Errorf("%d left in %T after the namespace is gone", n, list)
		}
	}
}

// TestAPodIsPlacedAtOnce measures what an idle cluster adds between a pod's creation and its binding.
func TestAPodIsPlacedAtOnce(t *testing.T) {
	addNode(t, "quick")
	eventually(t, &corev1.Node{}, "", "quick", "usable", func(n *corev1.Node) bool { return len(n.Spec.Taints) == 0 })
	ns := newNamespace(t, "quick")
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "one"},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{corev1.LabelHostname: "quick"},
			Containers:   []corev1.Container{{Name: "c", Image: "broken"}},
		},
	}
	w, err := api.Watch(t.Context(), &corev1.PodList{}, client.InNamespace(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	began := time.Now()
	create(t, pod)
	for e := range w.ResultChan() {
		if p, ok := e.Object.(*corev1.Pod); ok && p.Spec.NodeName == "quick" {
			break
		}
	}
	t.Logf("created and bound in %s", time.Since(began))
}

func rolledOut(d *appsv1.Deployment) bool {
	want := *d.Spec.Replicas
	progressing := false
	for _, c := range d.Status.Conditions {
		progressing = progressing || c.Type == appsv1.DeploymentProgressing && c.Reason == "NewReplicaSetAvailable"
	}
	return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == want && d.Status.Replicas == want &&
		d.Status.AvailableReplicas == want && progressing
}

func setImage(t *testing.T, ns, name, image string) {
	t.Helper()
	var d appsv1.Deployment
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: name}, &d); err != nil {
		t.Fatal(err)
	}
	before := d.DeepCopy()
	d.Spec.Template.Spec.Containers[0].Image = image
	if err := api.Patch(t.Context(), &d, client.StrategicMergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

func setOf(t *testing.T, ns, app string) string {
	t.Helper()
	var sets appsv1.ReplicaSetList
	if err := api.List(t.Context(), &sets, client.InNamespace(ns), client.MatchingLabels{"app": app}); err != nil {
		t.Fatal(err)
	}
	if len(sets.Items) != 1 {
		t.Fatalf("%d ReplicaSets of %s, want 1", len(sets.Items), app)
	}
	return sets.Items[0].Name
}

func sliceOf(t *testing.T, ns, service string) string {
	t.Helper()
	for {
		var slices discoveryv1.EndpointSliceList
		if err := api.List(t.Context(), &slices, client.InNamespace(ns), client.MatchingLabels{discoveryv1.LabelServiceName: service}); err != nil {
			t.Fatal(err)
		}
		if len(slices.Items) == 1 {
			return slices.Items[0].Name
		}
	}
}

func eventuallyEmpty(t *testing.T, ns, app string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		var pods corev1.PodList
		if err := api.List(t.Context(), &pods, client.InNamespace(ns), client.MatchingLabels{"app": app}); err != nil {
			t.Fatal(err)
		}
		if len(pods.Items) == 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d pods of %s left", len(pods.Items), app)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func wantEvents(t *testing.T, ns string, reasons ...string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		var events corev1.EventList
		if err := api.List(t.Context(), &events, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, e := range events.Items {
			seen[e.Reason] = true
		}
		missing := ""
		for _, reason := range reasons {
			if !seen[reason] {
				missing += " " + reason
			}
		}
		if missing == "" {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("no events with reason%s", missing)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func create(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, o := range objects {
		if err := api.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func newDeployment(ns, name, image string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: "c", Image: image, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
				}}},
			},
		},
	}
}

func newService(ns, name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
}

package e2e

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/knarr/test/images"
)

// TestPodsWithNamesPodsOfNodesAndPodsOfOldClients is the life of a StatefulSet, a DaemonSet and a ReplicationController.
func TestPodsWithNamesPodsOfNodesAndPodsOfOldClients(t *testing.T) {
	c := start(t)
	t.Run("a StatefulSet", func(t *testing.T) { c.in(t).statefulSet() })
	t.Run("a DaemonSet", func(t *testing.T) { c.in(t).daemonSet() })
	t.Run("a ReplicationController", func(t *testing.T) { c.in(t).replicationController() })
}

// in is the same cluster for a part of a story.
func (c *cluster) in(t *testing.T) *cluster {
	part := *c
	part.t = t
	return &part
}

func (c *cluster) statefulSet() {
	c.t.Log("each pod has its name, in DNS as well")
	c.made(c.client.CoreV1().Services("default").Create(c.t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "dbs"},
		Spec: corev1.ServiceSpec{
			ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"app": "db"}, PublishNotReadyAddresses: true,
			Ports: []corev1.ServicePort{{Name: "http", Port: 8080}},
		},
	}, metav1.CreateOptions{}))
	c.made(c.client.AppsV1().StatefulSets("default").Create(c.t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(2)), ServiceName: "dbs",
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}, Template: template("db"),
		},
	}, metav1.CreateOptions{}))
	c.kubectl("rollout", "status", "statefulset/db", "--timeout=60s")
	c.eventually("db-0 answers by its name", c.says("db-1", "http://db-0.dbs:8080/", "hello from db-0 v1"))

	c.t.Log("a pod that is lost comes back under its name")
	before := c.awaitPod("db-1", "to be there", podReady)
	c.kubectl("delete", "pod", "db-1")
	c.awaitPod("db-1", "to be another", func(p *corev1.Pod) bool { return p.UID != before.UID && podReady(p) })

	c.t.Log("a new version is rolled out, and taken back")
	c.kubectl("set", "image", "statefulset/db", "app="+images.AppV2)
	c.kubectl("rollout", "status", "statefulset/db", "--timeout=60s")
	c.eventually("db-0 answers with version 2", c.says("db-1", "http://db-0.dbs:8080/", "v2"))
	c.kubectl("rollout", "undo", "statefulset/db")
	c.kubectl("rollout", "status", "statefulset/db", "--timeout=60s")
	c.eventually("db-0 answers with version 1", c.says("db-1", "http://db-0.dbs:8080/", "v1"))
	if out := c.kubectl("rollout", "undo", "statefulset/db", "--to-revision=3"); !strings.Contains(out, "skipped rollback") {
		c.t.Errorf("kubectl does not recognize the revision that is in force: %s", out)
	}

	c.t.Log("scaled down from the end")
	c.kubectl("scale", "statefulset/db", "--replicas=1")
	c.kubectl("wait", "--for=delete", "pod/db-1", "--timeout=60s")
	c.kubectl("delete", "statefulset/db", "service/dbs")
}

func (c *cluster) daemonSet() {
	c.made(c.client.AppsV1().DaemonSets("default").Create(c.t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "log"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "log"}}, Template: template("log"),
		},
	}, metav1.CreateOptions{}))
	c.kubectl("rollout", "status", "daemonset/log", "--timeout=60s")
	first := c.pods("log")
	if len(first) != 1 || first[0].Spec.NodeName != c.server.Name() {
		c.t.Fatalf("pods %v, want one on the only node", names(first))
	}

	c.t.Log("a cordoned node keeps its daemons, and gets them anew")
	c.kubectl("cordon", c.server.Name())
	c.kubectl("delete", "pod", first[0].Name)
	c.kubectl("rollout", "status", "daemonset/log", "--timeout=60s")
	c.kubectl("uncordon", c.server.Name())

	c.t.Log("updated and taken back")
	c.kubectl("set", "image", "daemonset/log", "app="+images.AppV2)
	c.kubectl("rollout", "status", "daemonset/log", "--timeout=60s")
	if got := c.pods("log"); len(got) != 1 || got[0].Spec.Containers[0].Image != images.AppV2 {
		c.t.Errorf("pods %v, want one of version 2", names(got))
	}
	c.kubectl("rollout", "undo", "daemonset/log")
	c.kubectl("rollout", "status", "daemonset/log", "--timeout=60s")
	if got := c.pods("log"); len(got) != 1 || got[0].Spec.Containers[0].Image != images.App {
		c.t.Errorf("pods %v, want one of version 1", names(got))
	}

	c.t.Log("a node that is not meant gets none")
	c.kubectl("patch", "daemonset/log", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"no":"such"}}}}}`)
	until(c.t, "the daemon set to be nowhere", c.named("daemonsets", "default", "log"), &appsv1.DaemonSet{}, func(_ watch.EventType, d *appsv1.DaemonSet) bool {
		return d.Status.ObservedGeneration == d.Generation && d.Status.DesiredNumberScheduled == 0 && d.Status.NumberMisscheduled == 0
	})
	c.kubectl("delete", "daemonset/log")
}

func (c *cluster) replicationController() {
	t := template("old")
	c.made(c.client.CoreV1().ReplicationControllers("default").Create(c.t.Context(), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "old"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: new(int32(2)), Template: &t},
	}, metav1.CreateOptions{}))
	available := func(n int32) {
		c.t.Helper()
		until(c.t, "the replication controller to be as large as it should", c.named("replicationcontrollers", "default", "old"), &corev1.ReplicationController{},
			func(_ watch.EventType, rc *corev1.ReplicationController) bool {
				return rc.Status.ObservedGeneration == rc.Generation && rc.Status.Replicas == n && rc.Status.AvailableReplicas == n
			})
	}
	available(2)
	c.t.Log("a pod that is renamed away is replaced, and stays")
	stray := c.pods("old")[0].Name
	c.kubectl("label", "pod", stray, "app=stray", "--overwrite")
	c.awaitPod(stray, "to be released", func(p *corev1.Pod) bool { return len(p.OwnerReferences) == 0 })
	available(2)
	c.kubectl("scale", "rc/old", "--replicas=1")
	available(1)
	c.kubectl("delete", "rc/old", "pod/"+stray)
}

// made is the end of a Create that must succeed.
func (c *cluster) made(_ any, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// template is of the test server's pods, labelled and named after their owner.
func template(name string) corev1.PodTemplateSpec {
	p := pod(name, app("serve", "8080"))
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec}
}

// says asks a URL from inside a pod, and fails unless the answer contains something.
func (c *cluster) says(pod, url, want string) func() error {
	return func() error {
		got, err := c.tryKubectl("exec", pod, "--", "/app", "get", url)
		if err == nil && !strings.Contains(got, want) {
			err = fmt.Errorf("answered %q; want %q in it", got, want)
		}
		return err
	}
}

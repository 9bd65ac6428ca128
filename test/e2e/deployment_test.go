package e2e

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/knarr/test/images"
)

// deploy creates a Deployment of the test server and a Service before it, both with that name.
func (c *cluster) deploy(name string, replicas int32) {
	c.t.Helper()
	labels := map[string]string{"app": name}
	server := app("serve", "8080")
	server.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	server.ReadinessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}},
		PeriodSeconds: 1, FailureThreshold: 1,
	}
	template := pod(name, server)
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template.Spec},
		},
	}
	if _, err := c.client.AppsV1().Deployments("default").Create(c.t.Context(), d, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: labels, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("http")}}},
	}
	if _, err := c.client.CoreV1().Services("default").Create(c.t.Context(), s, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// awaitDeployment waits until exactly that many replicas are there, up to date and available.
func (c *cluster) awaitDeployment(name string, replicas int32) {
	c.t.Helper()
	until(c.t, fmt.Sprintf("deployment %s to have %d replicas", name, replicas), c.named("deployments", "default", name), &appsv1.Deployment{},
		func(_ watch.EventType, d *appsv1.Deployment) bool {
			s := d.Status
			return s.ObservedGeneration >= d.Generation && s.Replicas == replicas && s.UpdatedReplicas == replicas && s.AvailableReplicas == replicas
		})
}

func (c *cluster) pods(label string) []corev1.Pod {
	c.t.Helper()
	list, err := c.client.CoreV1().Pods("default").List(c.t.Context(), metav1.ListOptions{LabelSelector: "app=" + label})
	if err != nil {
		c.t.Fatal(err)
	}
	var live []corev1.Pod
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			live = append(live, p)
		}
	}
	return live
}

// TestADeploymentIsRolledOutScaledRolledBackAndHealed is one application's life; its Service answers throughout.
func TestADeploymentIsRolledOutScaledRolledBackAndHealed(t *testing.T) {
	c := start(t)
	c.deploy("hello", 3)
	c.awaitDeployment("hello", 3)
	c.create(pod("client", app("sleep")))
	c.awaitPod("client", "to be ready", podReady)

	answer := func() (string, error) { return c.tryKubectl("exec", "client", "--", "/app", "get", "http://hello/") }
	answers := func(version string) func() error {
		return func() error {
			got, err := answer()
			if err == nil && !strings.HasSuffix(strings.TrimSpace(got), version) {
				err = fmt.Errorf("answered %q; want version %s", got, version)
			}
			return err
		}
	}
	c.eventually("the service answers", answers("v1"))

	t.Log("the service is shared out over all endpoints")
	seen := map[string]bool{}
	c.eventually("three pods answer", func() error {
		got, err := answer()
		if err != nil {
			return err
		}
		seen[got] = true
		if len(seen) < 3 {
			return fmt.Errorf("only %d pods have answered", len(seen))
		}
		return nil
	})

	t.Log("a new version is rolled out")
	c.kubectl("set", "image", "deployment/hello", "app="+images.AppV2)
	c.kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
	c.awaitDeployment("hello", 3)
	c.eventually("the new version answers", answers("v2"))

	t.Log("and rolled back")
	c.kubectl("rollout", "undo", "deployment/hello")
	c.kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
	c.awaitDeployment("hello", 3)
	c.eventually("the old version answers again", answers("v1"))
	if history := c.kubectl("rollout", "history", "deployment/hello"); !strings.Contains(history, "3") {
		t.Errorf("history has no third revision after the undo:\n%s", history)
	}

	t.Log("scaled up and down")
	c.kubectl("scale", "deployment/hello", "--replicas=5")
	c.awaitDeployment("hello", 5)
	c.kubectl("scale", "deployment/hello", "--replicas=2")
	c.awaitDeployment("hello", 2)

	t.Log("a pod that is deleted is replaced")
	victim := c.pods("hello")[0].Name
	c.kubectl("delete", "pod", victim)
	c.awaitDeployment("hello", 2)
	if left := c.pods("hello"); len(left) != 2 || left[0].Name == victim || left[1].Name == victim {
		t.Errorf("pods after deleting %s: %v", victim, names(left))
	}

	t.Log("a container that is killed is restarted in its pod")
	hurt := c.pods("hello")[0]
	c.kubectl("exec", "client", "--", "/app", "get", "http://"+hurt.Status.PodIP+":8080/fail") // unready, so that the next wait is for the restart
	_, _ = c.tryKubectl("exec", "client", "--", "/app", "get", "http://"+hurt.Status.PodIP+":8080/exit?code=3")
	healed := c.awaitPod(hurt.Name, "to be restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount == 1 && podReady(p)
	})
	last := healed.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 3 {
		t.Errorf("last state of the restarted container is %+v; want exit code 3", last)
	}
	if healed.UID != hurt.UID {
		t.Error("the pod was replaced; want its container restarted")
	}

	t.Log("the node's port answers from outside the cluster")
	service, err := c.client.CoreV1().Services("default").Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("%s:%d", c.server.IP(), service.Spec.Ports[0].NodePort)
	c.eventually("the node port answers", func() error {
		got, err := get("http://" + address + "/")
		if err == nil && !strings.HasPrefix(got, "hello from hello-") {
			err = fmt.Errorf("answered %q", got)
		}
		return err
	})

	t.Log("an unready pod gets no traffic")
	pods := c.pods("hello")
	c.exec("client", "get", "http://"+pods[0].Status.PodIP+":8080/fail")
	c.awaitPod(pods[0].Name, "to be unready", func(p *corev1.Pod) bool { return !podReady(p) })
	c.eventually("only the ready pod answers", func() error {
		for range 10 {
			got, err := answer()
			if err != nil {
				return err
			}
			if strings.Contains(got, pods[0].Name) {
				return fmt.Errorf("unready pod %s answered", pods[0].Name)
			}
		}
		return nil
	})
}

func names(pods []corev1.Pod) []string {
	var list []string
	for _, p := range pods {
		list = append(list, p.Name)
	}
	return list
}

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
)

// TestUsageIsShownAndActedUpon measures containers that burn CPU on two machines, with nothing installed.
func TestUsageIsShownAndActedUpon(t *testing.T) {
	c := start(t)
	c.joined("m2")

	t.Log("an autoscaler over a pod that burns twice what it should")
	burner := template("burner")
	burner.Spec.Containers = []corev1.Container{app("burn")}
	burner.Spec.Containers[0].Resources = corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")},
		Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m")},
	}
	made, err := c.client.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "burner"},
		Spec:       appsv1.DeploymentSpec{Replicas: ptr.To[int32](1), Selector: &metav1.LabelSelector{MatchLabels: burner.Labels}, Template: burner},
	}, metav1.CreateOptions{})
	c.made(made, err)
	scaler, err := c.client.AutoscalingV2().HorizontalPodAutoscalers("default").Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "burner"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "burner"},
			MinReplicas:    ptr.To[int32](1), MaxReplicas: 2,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
			}}},
		},
	}, metav1.CreateOptions{})
	c.made(scaler, err)

	t.Log("kubectl top shows nodes, and containers on both")
	for name, node := range map[string]string{"near": c.server.Name(), "far": "m2"} {
		p := pod(name, app("serve"))
		p.Spec.NodeName = node
		c.create(p)
	}
	c.eventually("both nodes are in kubectl top node", func() error { return topShows(c, "m1 +[0-9]+m +[0-9]+% +[0-9]+Mi.*\nm2 +[0-9]+m", "node") })
	c.eventually("both pods are in kubectl top pod", func() error {
		return topShows(c, "far +app +[0-9]+m +[0-9]+Mi.*\nnear +app +[0-9]+m", "pod", "--containers", "-l", "app in (near,far)")
	})

	t.Log("nodes count what dashboards ask for, for those who may ask")
	for path, line := range map[string]string{
		"metrics/cadvisor": `container_cpu_cfs_throttled_periods_total{container="app"`,
		"metrics/resource": `container_cpu_usage_seconds_total{container="app"`,
	} {
		c.eventually("a node says "+line, func() error {
			var all string
			for _, node := range []string{c.server.Name(), "m2"} {
				out, err := c.tryKubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/"+path)
				if err != nil {
					return err
				}
				all += out
			}
			if !strings.Contains(all, line) {
				return fmt.Errorf("no such line in %d bytes", len(all))
			}
			return nil
		})
	}

	t.Log("the autoscaler adds the pod it may")
	until(t, "the autoscaler to have scaled to 2", c.named("deployments", "default", "burner"), &appsv1.Deployment{},
		func(_ watch.EventType, d *appsv1.Deployment) bool { return *d.Spec.Replicas == 2 })
	c.eventually("describe tells why", func() error {
		out, err := c.tryKubectl("describe", "hpa", "burner")
		if err != nil {
			return err
		}
		for _, said := range []string{"New size: 2; reason: cpu resource utilization (percentage of request) above target", "ValidMetricFound"} {
			if !strings.Contains(out, said) {
				return fmt.Errorf("no %q in\n%s", said, out)
			}
		}
		return nil
	})
}

// topShows compares what kubectl top prints.
func topShows(c *cluster, pattern string, args ...string) error {
	out, err := c.tryKubectl(append([]string{"top"}, args...)...)
	if err != nil {
		return err
	}
	if !regexp.MustCompile(pattern).MatchString(out) {
		return fmt.Errorf("no %q in\n%s", pattern, out)
	}
	return nil
}

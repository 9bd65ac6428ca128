package workloads_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	"k8s.io/utils/ptr"
)

// adapter plays a server of external metrics that knows the length of one queue, and registers it. Of a negative length it
// does not know what to say.
func adapter(t *testing.T, ns string) *atomic.Int64 {
	t.Helper()
	length := &atomic.Int64{}
	const group = "/apis/external.metrics.k8s.io/v1beta1"
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		var answer any = metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "external.metrics.k8s.io/v1beta1"}
		if strings.HasPrefix(r.URL.Path, group+"/namespaces/"+ns+"/queue") {
			if length.Load() < 0 {
				http.Error(w, "the queue is not to be measured", http.StatusInternalServerError)
				return
			}
			answer = externalv1beta1.ExternalMetricValueList{
				TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: "external.metrics.k8s.io/v1beta1"},
				Items:    []externalv1beta1.ExternalMetricValue{{MetricName: "queue", Timestamp: metav1.Now(), Value: *resource.NewQuantity(length.Load(), resource.DecimalSI)}},
			}
		}
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(server.Close)
	port := int32(server.Listener.Addr().(*net.TCPAddr).Port)
	create(t, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "adapter"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeExternalName, ExternalName: "localhost", Ports: []corev1.ServicePort{{Port: port}},
	}})
	registrations, err := apiregistrationclient.NewForConfig(control.server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := registrations.APIServices().Create(t.Context(), &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.external.metrics.k8s.io"},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "external.metrics.k8s.io", Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: ns, Name: "adapter", Port: &port},
		},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// While a group is registered and does not answer, no namespace of any other story can end.
	t.Cleanup(func() {
		if err := registrations.APIServices().Delete(context.Background(), "v1beta1.external.metrics.k8s.io", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return length
}

// byQueue is the autoscaler of a Deployment of the same name: a pod for every ten in the queue, at once.
func byQueue(ns, name string, most int32) *autoscalingv2.HorizontalPodAutoscaler {
	now := &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To[int32](0)}
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: name},
			MinReplicas:    ptr.To[int32](0), MaxReplicas: most,
			Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: now, ScaleUp: now},
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
				Metric: autoscalingv2.MetricIdentifier{Name: "queue"},
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("10"))},
			}}},
		},
	}
}

// said finds a condition of an autoscaler.
func said(h *autoscalingv2.HorizontalPodAutoscaler, kind autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, c := range h.Status.Conditions {
		if c.Type == kind {
			return fmt.Sprintf("%s %s", c.Status, c.Reason)
		}
	}
	return ""
}

// TestAQueueScalesItsWorkersToZeroAndBack is the life of a consumer of a queue. Every change of the autoscaler's spec is a
// pass at once; the next would come a quarter of a minute later.
func TestAQueueScalesItsWorkersToZeroAndBack(t *testing.T) {
	addNode(t, "queued")
	ns := newNamespace(t, "queued")
	length := adapter(t, ns)
	length.Store(30)
	create(t, newDeployment(ns, "worker", "app:1", 1))
	eventually(t, &appsv1.Deployment{}, ns, "worker", "rolled out", rolledOut)
	scaler := byQueue(ns, "worker", 5)
	create(t, scaler)
	replicas := func(n int32) func(*appsv1.Deployment) bool {
		return func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == n && d.Status.Replicas == n }
	}
	eventually(t, &appsv1.Deployment{}, ns, "worker", "three for thirty", replicas(3))

	length.Store(0)
	patch(t, scaler, `{"spec":{"maxReplicas":6}}`)
	eventually(t, &appsv1.Deployment{}, ns, "worker", "none for nothing", replicas(0))
	eventually(t, &autoscalingv2.HorizontalPodAutoscaler{}, ns, "worker", "asleep", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return said(h, autoscalingv2.ScaledToZero) == "True ScaledToZero" && h.Status.DesiredReplicas == 0 && h.Status.LastScaleTime != nil
	})

	length.Store(5)
	patch(t, scaler, `{"spec":{"maxReplicas":7}}`)
	eventually(t, &appsv1.Deployment{}, ns, "worker", "one for some", replicas(1))
	eventually(t, &autoscalingv2.HorizontalPodAutoscaler{}, ns, "worker", "awake", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return said(h, autoscalingv2.ScaledToZero) == "False NotScaledToZero" && said(h, autoscalingv2.ScalingActive) == "True ValidMetricFound"
	})

	patch(t, newDeployment(ns, "worker", "app:1", 1), `{"spec":{"replicas":0}}`)
	eventually(t, &appsv1.Deployment{}, ns, "worker", "turned off", replicas(0))
	patch(t, scaler, `{"spec":{"maxReplicas":8}}`)
	eventually(t, &autoscalingv2.HorizontalPodAutoscaler{}, ns, "worker", "left alone", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return said(h, autoscalingv2.ScalingActive) == "False ScalingDisabled" && *h.Status.ObservedGeneration == h.Generation
	})
	wantEvents(t, ns, "SuccessfulRescale")
}

// TestAnAutoscalerSaysWhatIsMissing is for those who made a mistake.
func TestAnAutoscalerSaysWhatIsMissing(t *testing.T) {
	ns := newNamespace(t, "mistaken")
	create(t, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "nobody"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "nobody"}, MaxReplicas: 3,
		},
	})
	h := eventually(t, &autoscalingv2.HorizontalPodAutoscaler{}, ns, "nobody", "unable", func(h *autoscalingv2.HorizontalPodAutoscaler) bool {
		return said(h, autoscalingv2.AbleToScale) == "False FailedGetScale"
	})
	if got, want := h.Status.Conditions[0].Message, `the HPA controller was unable to get the target's current scale: deployments.apps "nobody" not found`; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	wantEvents(t, ns, "FailedGetScale")
}

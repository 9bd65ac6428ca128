package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
)

// reading is what a metric says now, in thousandths: of each pod, or of one thing.
type reading struct {
	pods  map[string]podReading
	value int64
}

type podReading struct {
	value  int64
	at     time.Time
	window time.Duration
}

// defaultWindow is that of custom metrics whose server does not say.
const defaultWindow = time.Minute

// readings asks the three metrics APIs.
type readings struct {
	usage    metricsclient.PodMetricsesGetter
	custom   custom_metrics.CustomMetricsClient
	versions custom_metrics.AvailableAPIsGetter // which version of custom.metrics.k8s.io is served
	external external_metrics.ExternalMetricsClient
}

// of reads one metric of an autoscaler.
func (r *readings) of(ctx context.Context, namespace string, pods labels.Selector, m *autoscalingv2.MetricSpec) (reading, error) {
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		return r.resource(ctx, namespace, pods, m.Resource.Name, "")
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		return r.resource(ctx, namespace, pods, m.ContainerResource.Name, m.ContainerResource.Container)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		return r.ofPods(namespace, pods, m.Pods.Metric)
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		of := m.Object.DescribedObject
		got, err := r.ofObject(namespace, of, m.Object.Metric)
		if err != nil {
			return got, fmt.Errorf("unable to get metric %s: %s on %s %s/%w", m.Object.Metric.Name, of.Kind, namespace, of.Name, err)
		}
		return got, nil
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		got, err := r.outside(namespace, m.External.Metric)
		if err != nil {
			return got, fmt.Errorf("unable to get external metric %s/%s/%+v: %w", namespace, m.External.Metric.Name, m.External.Metric.Selector, err)
		}
		return got, nil
	}
	return reading{}, fmt.Errorf("unknown metric source type %q", string(m.Type))
}

// resource reads what pods use, or one container of each.
func (r *readings) resource(ctx context.Context, namespace string, pods labels.Selector, name corev1.ResourceName, container string) (reading, error) {
	got, err := r.usage.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: pods.String()})
	switch {
	case err != nil:
		err = fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	case len(got.Items) == 0:
		err = errors.New("no metrics returned from resource metrics API")
	default:
		var out reading
		if out, err = ofUsage(got.Items, name, container); err == nil {
			return out, nil
		}
	}
	return reading{}, fmt.Errorf("unable to get metrics for resource %s: %w", name, err)
}

// ofUsage adds up what the containers of each pod use. A pod of which one container has no figure has none.
func ofUsage(items []metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) (reading, error) {
	out := reading{pods: make(map[string]podReading, len(items))}
	for i := range items {
		pod, found, whole := &items[i], container == "", len(items[i].Containers) > 0
		read := podReading{at: pod.Timestamp.Time, window: pod.Window.Duration}
		for j := range pod.Containers {
			c := &pod.Containers[j]
			if container != "" && c.Name != container {
				continue
			}
			found = true
			used, known := c.Usage[name]
			whole = whole && known
			read.value += used.MilliValue()
		}
		if !found {
			return reading{}, fmt.Errorf("container %s not present in metrics for pod %s/%s", container, pod.Namespace, pod.Name)
		}
		if whole {
			out.pods[pod.Name] = read
		}
	}
	return out, nil
}

// selects narrows a metric; without a selector it is not narrowed.
func selects(metric autoscalingv2.MetricIdentifier) (labels.Selector, error) {
	if metric.Selector == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(metric.Selector)
}

var (
	errNoCustom   = errors.New("no metrics returned from custom metrics API")
	errNoExternal = errors.New("no metrics returned from external metrics API")
)

func (r *readings) ofPods(namespace string, pods labels.Selector, metric autoscalingv2.MetricIdentifier) (reading, error) {
	selector, err := selects(metric)
	if err != nil {
		return reading{}, err
	}
	got, err := r.custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, pods, metric.Name, selector)
	if err != nil {
		return reading{}, r.unfetched(err)
	}
	if len(got.Items) == 0 {
		return reading{}, errNoCustom
	}
	out := reading{pods: make(map[string]podReading, len(got.Items))}
	for i := range got.Items {
		m := &got.Items[i]
		read := podReading{value: m.Value.MilliValue(), at: m.Timestamp.Time, window: defaultWindow}
		if m.WindowSeconds != nil {
			read.window = time.Duration(*m.WindowSeconds) * time.Second
		}
		out.pods[m.DescribedObject.Name] = read
	}
	return out, nil
}

func (r *readings) ofObject(namespace string, of autoscalingv2.CrossVersionObjectReference, metric autoscalingv2.MetricIdentifier) (reading, error) {
	selector, err := selects(metric)
	if err != nil {
		return reading{}, err
	}
	version, err := schema.ParseGroupVersion(of.APIVersion)
	if err != nil {
		return reading{}, err
	}
	kind := version.WithKind(of.Kind).GroupKind()
	client := r.custom.NamespacedMetrics(namespace)
	if kind == (schema.GroupKind{Kind: "Namespace"}) { // a namespace describes itself from outside
		client = r.custom.RootScopedMetrics()
	}
	got, err := client.GetForObject(kind, of.Name, metric.Name, selector)
	if err != nil {
		return reading{}, r.unfetched(err)
	}
	return reading{value: got.Value.MilliValue()}, nil
}

// unfetched lets the next attempt look anew which version is served: the server may have been replaced.
func (r *readings) unfetched(err error) error {
	r.versions.Invalidate()
	return fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
}

// outside adds up the values of an external metric.
func (r *readings) outside(namespace string, metric autoscalingv2.MetricIdentifier) (reading, error) {
	selector, err := selects(metric)
	if err != nil {
		return reading{}, err
	}
	got, err := r.external.NamespacedMetrics(namespace).List(metric.Name, selector)
	if err != nil {
		return reading{}, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(got.Items) == 0 {
		return reading{}, errNoExternal
	}
	var out reading
	for i := range got.Items {
		out.value += got.Items[i].Value.MilliValue()
	}
	return out, nil
}

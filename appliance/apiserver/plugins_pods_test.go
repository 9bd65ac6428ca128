package apiserver_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

func amount(name corev1.ResourceName, value string) corev1.ResourceList {
	return corev1.ResourceList{name: apiresource.MustParse(value)}
}

// asking is a pod whose container wants something.
func asking(requests, limits corev1.ResourceList) *corev1.Pod {
	p := pod("web")
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	return p
}

// refusedSoon waits until creating it is refused with some words.
func refusedSoon(ctx context.Context, c *kubernetes.Clientset, ns string, p *corev1.Pod, words string) error {
	return soon(ctx, func() error {
		_, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
		return refused(err, words)
	})
}

func limited(ctx context.Context, c *kubernetes.Clientset, ns string, item corev1.LimitRangeItem) error {
	_, err := c.CoreV1().LimitRanges(ns).Create(ctx, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}}, forReal)
	return err
}

// podPluginCases are about what pods are given and refused.
func podPluginCases() map[string]pluginCase {
	return map[string]pluginCase{
		"NamespaceLifecycle knows which namespaces there are": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			_, err := c.CoreV1().ConfigMaps(ns+"-no").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, forReal)
			if !apierrors.IsNotFound(err) {
				return errOrNone(err)
			}
			return nil
		},
		"LimitRanger keeps containers below the most": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := limited(ctx, c, ns, corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: amount(corev1.ResourceCPU, "1")}); err != nil {
				return err
			}
			return refusedSoon(ctx, c, ns, asking(nil, amount(corev1.ResourceCPU, "2")), "maximum cpu usage per Container is 1, but limit is 2")
		},
		"LimitRanger adds up what is in a pod": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := limited(ctx, c, ns, corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: amount(corev1.ResourceCPU, "1")}); err != nil {
				return err
			}
			p := asking(nil, amount(corev1.ResourceCPU, "600m"))
			p.Spec.Containers = append(p.Spec.Containers, *p.Spec.Containers[0].DeepCopy())
			p.Spec.Containers[1].Name = "second"
			return refusedSoon(ctx, c, ns, p, "maximum cpu usage per Pod is 1, but limit is 1200m")
		},
		"LimitRanger looks at claims as well": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := limited(ctx, c, ns, corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: amount(corev1.ResourceStorage, "2Gi")}); err != nil {
				return err
			}
			return soon(ctx, func() error {
				_, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(ptr.To("")), try)
				return refused(err, "minimum storage usage per PersistentVolumeClaim is 2Gi, but request is 1Gi")
			})
		},
		"LimitRanger looks again when a pod is resized": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if _, err := c.CoreV1().Pods(ns).Create(ctx, asking(amount(corev1.ResourceCPU, "500m"), amount(corev1.ResourceCPU, "1")), forReal); err != nil {
				return err
			}
			if err := limited(ctx, c, ns, corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Max: amount(corev1.ResourceCPU, "2")}); err != nil {
				return err
			}
			return soon(ctx, func() error {
				_, err := c.CoreV1().Pods(ns).Patch(ctx, "web", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"3"}}}]}}`),
					metav1.PatchOptions{DryRun: try.DryRun}, "resize")
				return refused(err, "maximum cpu usage per Container is 2, but limit is 3")
			})
		},
		"ServiceAccount keeps secrets from mirror pods": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			mirror := pod("web")
			mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			mirror.Spec.NodeName = "one"
			mirror.Spec.Volumes = []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "a"}}}}
			_, err := c.CoreV1().Pods(ns).Create(ctx, mirror, try)
			return refused(err, "a mirror pod may not reference secrets")
		},
		"ServiceAccount pulls images as its account": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "registry"}}}
			if _, err := c.CoreV1().ServiceAccounts(ns).Create(ctx, account, forReal); err != nil {
				return err
			}
			p := pod("web")
			p.Spec.ServiceAccountName = "puller"
			got, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
			if err == nil && (len(got.Spec.ImagePullSecrets) != 1 || got.Spec.ImagePullSecrets[0].Name != "registry") {
				err = fmt.Errorf("image pull secrets %v", got.Spec.ImagePullSecrets)
			}
			return err
		},
		"PodSecurity warns of what it lets pass": func(ctx context.Context, _ *kubernetes.Clientset, ns string) error {
			heard := &heardWarnings{}
			config := server.Admin()
			config.WarningHandler = heard
			c, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			if _, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/warn":"restricted"}}}`), metav1.PatchOptions{}); err != nil {
				return err
			}
			return soon(ctx, func() error {
				if _, err := c.CoreV1().Pods(ns).Create(ctx, pod("web"), try); err != nil {
					return err
				}
				return heard.about(`would violate PodSecurity "restricted:latest"`)
			})
		},
		"PodSecurity says which pods a new level is too late for": func(ctx context.Context, _ *kubernetes.Clientset, ns string) error {
			heard := &heardWarnings{}
			config := server.Admin()
			config.WarningHandler = heard
			c, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			if _, err := c.CoreV1().Pods(ns).Create(ctx, pod("early"), forReal); err != nil {
				return err
			}
			return soon(ctx, func() error { // it counts pods in a cache
				_, err := c.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted"}}}`), metav1.PatchOptions{DryRun: try.DryRun})
				if err != nil {
					return err
				}
				return heard.about(`existing pods in namespace "` + ns + `" violate the new PodSecurity enforce level "restricted:latest"`)
			})
		},
		"Priority allows one default class": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			// Its value is that of pods without a class: other tests see no difference.
			class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, GlobalDefault: true}
			if _, err := c.SchedulingV1().PriorityClasses().Create(ctx, class, forReal); err != nil {
				return err
			}
			defer func() { _ = c.SchedulingV1().PriorityClasses().Delete(ctx, ns, metav1.DeleteOptions{}) }()
			return soon(ctx, func() error {
				got, err := c.CoreV1().Pods(ns).Create(ctx, pod("web"), try)
				if err != nil {
					return err
				}
				if got.Spec.PriorityClassName != ns {
					return fmt.Errorf("class %q", got.Spec.PriorityClassName)
				}
				second := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: ns + "-2"}, GlobalDefault: true}
				_, err = c.SchedulingV1().PriorityClasses().Create(ctx, second, try)
				return refused(err, "is already marked as default")
			})
		},
		"Priority is not a number to be chosen": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			p := pod("web")
			p.Spec.Priority = ptr.To[int32](7)
			_, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
			return refused(err, "the integer value of priority (7) must not be provided in pod spec")
		},
		"DefaultTolerationSeconds adds what a pod does not say": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			p := pod("web")
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](5)}}
			got, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
			if err != nil {
				return err
			}
			seconds := map[string]int64{}
			for _, toleration := range got.Spec.Tolerations {
				seconds[toleration.Key] = ptr.Deref(toleration.TolerationSeconds, -1)
			}
			if len(got.Spec.Tolerations) != 2 || seconds[corev1.TaintNodeNotReady] != 5 || seconds[corev1.TaintNodeUnreachable] != 300 {
				return fmt.Errorf("tolerations %v", got.Spec.Tolerations)
			}
			return nil
		},
		"DefaultTolerationSeconds leaves alone what tolerates everything": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			p := pod("web")
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
			got, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
			if err == nil && len(got.Spec.Tolerations) != 1 {
				err = fmt.Errorf("tolerations %v", got.Spec.Tolerations)
			}
			return err
		},
		"TaintNodesByCondition adds its taint once": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}}}
			got, err := c.CoreV1().Nodes().Create(ctx, node, try)
			if err == nil && len(got.Spec.Taints) != 1 {
				err = fmt.Errorf("taints %v", got.Spec.Taints)
			}
			return err
		},
		"RuntimeClass has to be there": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			p := pod("web")
			p.Spec.RuntimeClassName = ptr.To(ns)
			_, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
			return refused(err, `pod rejected: RuntimeClass "`+ns+`" not found`)
		},
		"RuntimeClass refuses pods that go elsewhere": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, Handler: "vm", Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}}}
			if _, err := c.NodeV1().RuntimeClasses().Create(ctx, class, forReal); err != nil {
				return err
			}
			p := pod("web")
			p.Spec.RuntimeClassName, p.Spec.NodeSelector = &ns, map[string]string{"vm": "no"}
			_, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
			return refused(err, "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no")
		},
		"RuntimeClass says what pods cost, nobody else": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			p := pod("web")
			p.Spec.Overhead = amount(corev1.ResourceMemory, "1Mi")
			_, err := c.CoreV1().Pods(ns).Create(ctx, p, try)
			return refused(err, "Pod Overhead set without corresponding RuntimeClass defined Overhead")
		},
	}
}

// heardWarnings are those of a server, as a client hears them.
type heardWarnings struct {
	mu   sync.Mutex
	text []string
}

// HandleWarningHeader implements rest.WarningHandler.
func (w *heardWarnings) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, text)
}

func (w *heardWarnings) about(words string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.ContainsFunc(w.text, func(text string) bool { return strings.Contains(text, words) }) {
		return fmt.Errorf("warnings %q, none about %q", w.text, words)
	}
	return nil
}

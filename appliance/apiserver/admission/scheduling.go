package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// evictAfterSeconds is how long a pod stays on a node that is gone, unless it says otherwise.
const evictAfterSeconds = 300

// taintNewNodes keeps pods away from a node until its controller has seen it ready.
func taintNewNodes() *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"nodes"},
		admit: func(_ context.Context, a admission.Attributes) error {
			node, err := object[*corev1.Node](a)
			if err != nil {
				return err
			}
			notReady := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
			for i := range node.Spec.Taints {
				if node.Spec.Taints[i].MatchTaint(&notReady) {
					return nil
				}
			}
			node.Spec.Taints = append(node.Spec.Taints, notReady)
			return nil
		},
	}
}

// defaultTolerations lets a pod stay a while where its node has trouble.
func defaultTolerations() *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		on:      []string{"pods"},
		admit: func(_ context.Context, a admission.Attributes) error {
			pod, err := object[*corev1.Pod](a)
			if err != nil {
				return err
			}
			for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
				if !toleratesExecution(pod.Spec.Tolerations, taint) {
					pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
						Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](evictAfterSeconds),
					})
				}
			}
			return nil
		},
	}
}

func toleratesExecution(tolerations []corev1.Toleration, taint string) bool {
	for _, t := range tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

// priority turns a pod's class into a number, and allows one default class.
func priority(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		on:      []string{"pods", "priorityclasses"},
		admit: func(ctx context.Context, a admission.Attributes) error {
			if a.GetResource().Resource != "pods" {
				return nil
			}
			pod, err := object[*corev1.Pod](a)
			if err != nil {
				return err
			}
			if a.GetOperation() == admission.Update {
				old, ok := a.GetOldObject().(*corev1.Pod)
				if ok && pod.Spec.Priority == nil {
					pod.Spec.Priority = old.Spec.Priority
				}
				if ok && pod.Spec.PreemptionPolicy == nil {
					pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
				}
				return nil
			}
			class, err := classOf(ctx, env, pod)
			if err != nil {
				return admission.NewForbidden(a, err)
			}
			if err := applyClass(pod, class); err != nil {
				return admission.NewForbidden(a, err)
			}
			return nil
		},
		validate: func(ctx context.Context, a admission.Attributes) error {
			if a.GetResource().Resource != "priorityclasses" {
				return nil
			}
			class, err := object[*schedulingv1.PriorityClass](a)
			if err != nil || !class.GlobalDefault {
				return err
			}
			found, err := defaultClass(ctx, env)
			if err != nil {
				return fmt.Errorf("look for the default priority class: %w", err)
			}
			if found != nil && found.Name != class.Name {
				return admission.NewForbidden(a, fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", found.Name))
			}
			return nil
		},
	}
}

// classOf is a pod's class, nil when it has none.
func classOf(ctx context.Context, env *resource.Env, pod *corev1.Pod) (*schedulingv1.PriorityClass, error) {
	if pod.Spec.PriorityClassName == "" {
		return defaultClass(ctx, env)
	}
	class, err := get[*schedulingv1.PriorityClass](ctx, env, schedulingv1.Resource("priorityclasses"), "", pod.Spec.PriorityClassName)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("no PriorityClass with name %v was found", pod.Spec.PriorityClassName)
	}
	return class, err
}

// defaultClass is the one for pods that name none. Should there be several, the lowest does the least harm.
func defaultClass(ctx context.Context, env *resource.Env) (*schedulingv1.PriorityClass, error) {
	classes, err := list[*schedulingv1.PriorityClassList](ctx, env, schedulingv1.Resource("priorityclasses"), "")
	if err != nil {
		return nil, err
	}
	var found *schedulingv1.PriorityClass
	for i := range classes.Items {
		if c := &classes.Items[i]; c.GlobalDefault && (found == nil || c.Value < found.Value) {
			found = c
		}
	}
	return found, nil
}

// applyClass writes what a class means into a pod, which may have said the same but nothing else.
func applyClass(pod *corev1.Pod, class *schedulingv1.PriorityClass) error {
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		pod.Spec.PriorityClassName = class.Name
		value, policy = class.Value, ptr.Deref(class.PreemptionPolicy, policy)
	}
	if p := pod.Spec.Priority; p != nil && *p != value {
		return fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, value)
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy)
	}
	pod.Spec.Priority, pod.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// runtimeClass adds what a runtime costs and where it is.
func runtimeClass(env *resource.Env) *rule {
	find := func(ctx context.Context, a admission.Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
		pod, err := object[*corev1.Pod](a)
		if err != nil || pod.Spec.RuntimeClassName == nil {
			return pod, nil, err
		}
		class, err := get[*nodev1.RuntimeClass](ctx, env, nodev1.Resource("runtimeclasses"), "", *pod.Spec.RuntimeClassName)
		if apierrors.IsNotFound(err) {
			return nil, nil, admission.NewForbidden(a, fmt.Errorf("pod rejected: RuntimeClass %q not found", *pod.Spec.RuntimeClassName))
		}
		return pod, class, err
	}
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"pods"},
		admit: func(ctx context.Context, a admission.Attributes) error {
			pod, class, err := find(ctx, a)
			if err != nil || class == nil {
				return err
			}
			if class.Overhead != nil && len(class.Overhead.PodFixed) > 0 {
				if len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
					return admission.NewForbidden(a, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
				}
				pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
			}
			if err := restrict(pod, class.Scheduling); err != nil {
				return admission.NewForbidden(a, err)
			}
			return nil
		},
		validate: func(ctx context.Context, a admission.Attributes) error {
			pod, class, err := find(ctx, a)
			if err != nil || len(pod.Spec.Overhead) == 0 {
				return err
			}
			if class == nil || class.Overhead == nil {
				return admission.NewForbidden(a, errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
			}
			if !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
				return admission.NewForbidden(a, errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
			}
			return nil
		},
	}
}

// restrict sends a pod to the nodes that have the runtime.
func restrict(pod *corev1.Pod, scheduling *nodev1.Scheduling) error {
	if scheduling == nil {
		return nil
	}
	for key, value := range scheduling.NodeSelector {
		if have, found := pod.Spec.NodeSelector[key]; found && have != value {
			return fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, have)
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	for _, t := range scheduling.Tolerations {
		if !hasToleration(pod.Spec.Tolerations, t) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}

func hasToleration(tolerations []corev1.Toleration, want corev1.Toleration) bool {
	for _, t := range tolerations {
		if apiequality.Semantic.DeepEqual(t, want) {
			return true
		}
	}
	return false
}

// podTopology labels a pod with where its node is, while it is bound.
func podTopology(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"pods/binding"},
		admit: func(ctx context.Context, a admission.Attributes) error {
			binding, err := object[*corev1.Binding](a)
			if err != nil || binding.Target.Kind != "" && binding.Target.Kind != "Node" {
				return err
			}
			node, err := get[*corev1.Node](ctx, env, corev1.Resource("nodes"), "", binding.Target.Name)
			if apierrors.IsNotFound(err) {
				return nil // bound to a node that is yet to come
			}
			if err != nil {
				return err
			}
			for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
				value, found := node.Labels[key]
				if !found {
					continue
				}
				if binding.Labels == nil {
					binding.Labels = map[string]string{}
				}
				binding.Labels[key] = value
			}
			return nil
		},
	}
}

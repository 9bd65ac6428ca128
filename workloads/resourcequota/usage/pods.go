package usage

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/sets"
	quota "k8s.io/apiserver/pkg/quota/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// plain are the resources that a quota may also name without "requests.".
var plain = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}

// Pods measures pods: those that have ended use nothing any more but their place in count/pods. now is the time of day.
func Pods(now func() time.Time, list List) quota.Evaluator {
	return &evaluator[*corev1.Pod]{
		resource: corev1.Resource("pods"), list: list, on: []string{"create", "update", "update/resize"}, // an update may move a pod to another scope
		concerns: aboutPods, measure: func(pod *corev1.Pod) corev1.ResourceList { return measurePod(pod, now()) }, within: podWithin, demand: demandOfPod,
	}
}

func aboutPods(name corev1.ResourceName) bool {
	switch name {
	case "count/pods", corev1.ResourcePods,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
		return true
	case corev1.ResourceRequestsStorage:
		return false
	}
	return slices.Contains(plain, name) || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
}

func measurePod(pod *corev1.Pod, now time.Time) corev1.ResourceList {
	used := corev1.ResourceList{"count/pods": whole(1)}
	if !Uses(pod, now) {
		return used
	}
	used[corev1.ResourcePods] = whole(1)
	for name, value := range resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
		if slices.Contains(plain, name) || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			used[name] = value
		}
		used[corev1.DefaultResourceRequestsPrefix+name] = value
	}
	for name, value := range resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}) {
		if slices.Contains(plain, name) {
			used["limits."+name] = value
		}
	}
	return used
}

// Uses says whether a pod takes anything: it has not ended, and its node has not run out of the time to end it.
func Uses(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return false
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return true
	}
	return !now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second))
}

// demandOfPod wants every container to say what a quota bounds: what is not said cannot be summed up.
func demandOfPod(pod *corev1.Pod, required sets.Set[corev1.ResourceName]) error {
	missing := map[corev1.ResourceName][]string{}
	forPod := ptrOr(pod.Spec.Resources)
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, c := range containers {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				_, requested := c.Resources.Requests[name]
				_, requestedForPod := forPod.Requests[name]
				_, limited := c.Resources.Limits[name]
				_, limitedForPod := forPod.Limits[name]
				for _, wanted := range []struct {
					name corev1.ResourceName
					said bool
				}{
					{name, requested || requestedForPod}, {corev1.DefaultResourceRequestsPrefix + name, requested || requestedForPod}, {"limits." + name, limited || limitedForPod},
				} {
					if required.Has(wanted.name) && !wanted.said {
						missing[wanted.name] = append(missing[wanted.name], c.Name)
					}
				}
			}
		}
	}
	return lacking(missing)
}

func ptrOr(r *corev1.ResourceRequirements) corev1.ResourceRequirements {
	if r == nil {
		return corev1.ResourceRequirements{}
	}
	return *r
}

func podWithin(pod *corev1.Pod, scope corev1.ScopedResourceSelectorRequirement) (bool, error) {
	ends := pod.Spec.ActiveDeadlineSeconds != nil
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return ends, nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !ends, nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(pod), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(pod), nil
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(scope, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return looksElsewhere(pod.Spec.Affinity), nil
	}
	return false, nil
}

// bestEffort says whether a pod asks for neither processor nor memory.
func bestEffort(pod *corev1.Pod) bool {
	asks := func(r corev1.ResourceRequirements) bool {
		for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
			for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if value := list[name]; value.Sign() > 0 {
					return true
				}
			}
		}
		return false
	}
	asking := func(c corev1.Container) bool { return asks(c.Resources) }
	return !asks(ptrOr(pod.Spec.Resources)) && !slices.ContainsFunc(pod.Spec.Containers, asking) && !slices.ContainsFunc(pod.Spec.InitContainers, asking)
}

// selects compares the value that an object has, "" for none, with a selector.
func selects(scope corev1.ScopedResourceSelectorRequirement, value string) (bool, error) {
	operators := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	requirement, err := labels.NewRequirement(string(scope.ScopeName), operators[scope.Operator], scope.Values)
	if err != nil {
		return false, fmt.Errorf("read the selector: %w", err)
	}
	has := labels.Set{}
	if value != "" {
		has[string(scope.ScopeName)] = value
	}
	return requirement.Matches(has), nil
}

// looksElsewhere says whether a pod places itself by pods of other namespaces.
func looksElsewhere(affinity *corev1.Affinity) bool {
	if affinity == nil {
		return false
	}
	elsewhere := func(namespaces []string, selector *metav1.LabelSelector) bool {
		return len(namespaces) > 0 || selector != nil
	}
	required, preferred := []corev1.PodAffinityTerm{}, []corev1.WeightedPodAffinityTerm{}
	if a := affinity.PodAffinity; a != nil {
		required, preferred = append(required, a.RequiredDuringSchedulingIgnoredDuringExecution...), append(preferred, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		required, preferred = append(required, a.RequiredDuringSchedulingIgnoredDuringExecution...), append(preferred, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	return slices.ContainsFunc(required, func(t corev1.PodAffinityTerm) bool { return elsewhere(t.Namespaces, t.NamespaceSelector) }) ||
		slices.ContainsFunc(preferred, func(t corev1.WeightedPodAffinityTerm) bool {
			return elsewhere(t.PodAffinityTerm.Namespaces, t.PodAffinityTerm.NamespaceSelector)
		})
}

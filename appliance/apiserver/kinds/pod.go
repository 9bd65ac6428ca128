package kinds

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Pod is created Pending, changes little after that, and leaves in its own time.
var Pod = resource.Hooks[*corev1.Pod]{
	Warnings:      hints(podHints),
	PrepareCreate: preparePod,
	PrepareStatus: preparePodStatus,
	Validate: func(_ context.Context, pod *corev1.Pod) field.ErrorList {
		errs := podspec.Validate(&pod.Spec, &pod.ObjectMeta, specPath)
		if len(pod.Spec.EphemeralContainers) > 0 {
			errs = append(errs, field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create"))
		}
		return errs
	},
	ValidateUpdate: func(_ context.Context, pod, old *corev1.Pod) field.ErrorList { return podspec.ValidateUpdate(pod, old) },
	ValidateStatus: func(_ context.Context, pod, old *corev1.Pod) field.ErrorList {
		return podspec.ValidateStatusUpdate(pod, old)
	},
	GracefulDelete: gracefulPod,
	Fields: func(pod *corev1.Pod) fields.Set {
		ip := pod.Status.PodIP
		if len(pod.Status.PodIPs) > 0 {
			ip = pod.Status.PodIPs[0].IP
		}
		return fields.Set{
			"spec.nodeName":            pod.Spec.NodeName,
			"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
			"spec.schedulerName":       pod.Spec.SchedulerName,
			"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
			"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
			"status.phase":             string(pod.Status.Phase),
			"status.podIP":             ip,
			"status.nominatedNodeName": pod.Status.NominatedNodeName,
		}
	},
}

func preparePod(_ context.Context, pod *corev1.Pod) {
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: podspec.QOS(&pod.Spec)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	narrowByLabels(pod)
}

// narrowByLabels turns matchLabelKeys into selectors with this pod's values, so that the scheduler compares
// pods of one revision with each other.
func narrowByLabels(pod *corev1.Pod) {
	add := func(selector *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator) {
		for _, key := range keys {
			if value, ok := pod.Labels[key]; ok && selector != nil {
				selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		add(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		add(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	all := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		for i := range required {
			term(&required[i])
		}
		for i := range preferred {
			term(&preferred[i].PodAffinityTerm)
		}
	}
	if affinity := pod.Spec.Affinity; affinity != nil {
		if a := affinity.PodAffinity; a != nil {
			all(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a := affinity.PodAntiAffinity; a != nil {
			all(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		add(pod.Spec.TopologySpreadConstraints[i].LabelSelector, pod.Spec.TopologySpreadConstraints[i].MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// preparePodStatus keeps what a node may not say about its pods: who owns them and which class they have.
func preparePodStatus(_ context.Context, pod, old *corev1.Pod) {
	pod.OwnerReferences = old.OwnerReferences
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = old.DeletionTimestamp, old.DeletionGracePeriodSeconds
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = old.Status.QOSClass
	}
}

// gracefulPod gives a pod the time it asked for, and none where nothing runs.
func gracefulPod(_ context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	period := int64(0)
	switch {
	case pod.Spec.NodeName == "", pod.Status.Phase == corev1.PodFailed, pod.Status.Phase == corev1.PodSucceeded:
		// no containers to wait for
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		period = *pod.Spec.TerminationGracePeriodSeconds
	}
	if period < 0 {
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

// PodTemplate is a template that lives on its own.
var PodTemplate = resource.Hooks[*corev1.PodTemplate]{
	Warnings: hints(podTemplateHints),
	Validate: func(_ context.Context, t *corev1.PodTemplate) field.ErrorList {
		return podspec.ValidateTemplate(&t.Template, field.NewPath("template"))
	},
}

func defaultPodTemplate(t *corev1.PodTemplate) { podspec.DefaultTemplate(&t.Template) }

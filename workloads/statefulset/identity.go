package statefulset

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// revision is a template pods are made of.
type revision struct {
	name     string
	template *corev1.PodTemplateSpec
}

// replicas is how many pods set wants, start the ordinal of the first.
func replicas(set *appsv1.StatefulSet) int { return int(ptr.Deref(set.Spec.Replicas, 1)) }

func start(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// wanted says whether set, at its present size, has a pod of that ordinal.
func wanted(set *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= start(set) && ordinal < start(set)+replicas(set)
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

// ordinalOf reads a pod's ordinal off its name; it is no member when it has none. One ordinal has one spelling, so
// that web-1 and web-01 are not both taken for the second pod.
func ordinalOf(set *appsv1.StatefulSet, pod string) (ordinal int, member bool) {
	digits, found := strings.CutPrefix(pod, set.Name+"-")
	ordinal, err := strconv.Atoi(digits)
	return ordinal, found && err == nil && ordinal >= 0 && podName(set, ordinal) == pod
}

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.ControllerRevisionHashLabelKey] }

// identity is what the labels of an ordinal's pod say whatever its revision.
func identity(set *appsv1.StatefulSet, ordinal int) map[string]string {
	return map[string]string{
		appsv1.StatefulSetPodNameLabel: podName(set, ordinal),
		appsv1.PodIndexLabel:           strconv.Itoa(ordinal),
	}
}

// identified says whether a pod carries its identity; an adopted one may not.
func identified(set *appsv1.StatefulSet, ordinal int, pod *corev1.Pod) bool {
	for key, value := range identity(set, ordinal) {
		if pod.Labels[key] != value {
			return false
		}
	}
	return true
}

// newPod is an ordinal's pod as a revision describes it.
func newPod(set *appsv1.StatefulSet, ordinal int, of revision) *corev1.Pod {
	template := of.template.DeepCopy()
	labels := template.Labels
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, identity(set, ordinal))
	labels[appsv1.ControllerRevisionHashLabelKey] = of.name
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       set.Namespace,
			Name:            podName(set, ordinal),
			GenerateName:    set.Name + "-",
			Labels:          labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)},
		},
		Spec: template.Spec,
	}
	pod.Spec.Hostname = pod.Name
	pod.Spec.Subdomain = set.Spec.ServiceName
	pod.Spec.Volumes = volumes(set, ordinal, template.Spec.Volumes)
	return pod
}

// volumes are the template's with those of the set's claims in front, which take the place of namesakes.
func volumes(set *appsv1.StatefulSet, ordinal int, template []corev1.Volume) []corev1.Volume {
	var all []corev1.Volume
	for i := range set.Spec.VolumeClaimTemplates {
		claim := &set.Spec.VolumeClaimTemplates[i]
		all = append(all, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, claim, ordinal)},
		}})
	}
	for _, v := range template {
		if !slices.ContainsFunc(all, func(c corev1.Volume) bool { return c.Name == v.Name }) {
			all = append(all, v)
		}
	}
	return all
}

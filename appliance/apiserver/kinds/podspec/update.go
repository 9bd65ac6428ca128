package podspec

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

// frozen is what clients are told when they change anything else; they match on its beginning.
const frozen = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// ValidateUpdate reports changes a pod that exists may not see.
func ValidateUpdate(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if pod.Annotations[corev1.MirrorPodAnnotationKey] != old.Annotations[corev1.MirrorPodAnnotationKey] {
		errs = append(errs, check.Unchanged(field.NewPath("metadata", "annotations").Key(corev1.MirrorPodAnnotationKey),
			pod.Annotations[corev1.MirrorPodAnnotationKey], old.Annotations[corev1.MirrorPodAnnotationKey])...)
	}
	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		return append(errs, field.Forbidden(path.Child("containers"), "pod updates may not add or remove containers"))
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(path.Child("initContainers"), "pod updates may not add or remove containers"))
	}
	for _, c := range containersOf(&pod.Spec, path) {
		if c.Image == "" {
			errs = append(errs, field.Required(c.path.Child("image"), ""))
		}
	}
	errs = append(errs, deadlineOnlyShrinks(pod, old, path.Child("activeDeadlineSeconds"))...)
	errs = append(errs, gatesOnlyGo(pod.Spec.SchedulingGates, old.Spec.SchedulingGates, path.Child("schedulingGates"))...)
	errs = append(errs, tolerationsOnlyGrow(pod.Spec.Tolerations, old.Spec.Tolerations, path.Child("tolerations"))...)
	if len(errs) > 0 {
		return errs
	}

	// What may change is taken from the old pod; the rest must then be equal.
	same := pod.Spec.DeepCopy()
	for i := range same.Containers {
		same.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range same.InitContainers {
		same.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	same.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	same.Tolerations = old.Spec.Tolerations
	same.SchedulingGates = old.Spec.SchedulingGates
	if grace := old.Spec.TerminationGracePeriodSeconds; grace != nil && *grace < 0 && ptr.Equal(same.TerminationGracePeriodSeconds, ptr.To[int64](1)) {
		same.TerminationGracePeriodSeconds = grace
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, placementOnlyTightens(same, &old.Spec, path)...)
	}
	if !apiequality.Semantic.DeepEqual(same, &old.Spec) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("%s\n%v", frozen, diff.Diff(old.Spec, *same))))
	}
	return errs
}

func deadlineOnlyShrinks(pod, old *corev1.Pod, at *field.Path) field.ErrorList {
	now, before := pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds
	switch {
	case now != nil && *now < 0:
		return field.ErrorList{field.Invalid(at, *now, "must be greater than or equal to 0")}
	case now != nil && before != nil && *now > *before:
		return field.ErrorList{field.Invalid(at, *now, "must be less than or equal to previous value")}
	case now == nil && before != nil:
		return field.ErrorList{field.Invalid(at, now, "must not update from a positive integer to nil value")}
	}
	return nil
}

func gatesOnlyGo(gates, old []corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
	for i, gate := range gates {
		if !slices.Contains(old, gate) {
			return field.ErrorList{field.Forbidden(at.Index(i), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", gate.Name))}
		}
	}
	return nil
}

// tolerationsOnlyGrow allows more of them and another time on those for NoExecute.
func tolerationsOnlyGrow(tolerations, old []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, before := range old {
		kept := slices.ContainsFunc(tolerations, func(t corev1.Toleration) bool {
			t.TolerationSeconds = before.TolerationSeconds
			return t == before
		})
		if !kept {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return ValidateTolerations(tolerations, at)
}

// placementOnlyTightens lets a pod that still waits at a gate become choosier about nodes. What it allows, it takes
// over into spec, so that the comparison that follows finds no difference.
func placementOnlyTightens(spec *corev1.PodSpec, old *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for key, value := range old.NodeSelector {
		if spec.NodeSelector[key] != value {
			errs = append(errs, field.Invalid(path.Child("nodeSelector"), spec.NodeSelector, "only additions are allowed (no mutations or deletions)"))
			break
		}
	}
	spec.NodeSelector = old.NodeSelector

	affinity, before := ptr.Deref(spec.Affinity, corev1.Affinity{}), ptr.Deref(old.Affinity, corev1.Affinity{})
	if !required(affinity.NodeAffinity).narrows(required(before.NodeAffinity)) {
		errs = append(errs, field.Invalid(path.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"),
			spec.Affinity, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
	}
	affinity.NodeAffinity = before.NodeAffinity
	if apiequality.Semantic.DeepEqual(affinity, before) {
		spec.Affinity = old.Affinity
	}
	return errs
}

// terms are alternatives; each is a list of requirements that must all hold.
type terms []corev1.NodeSelectorTerm

func required(affinity *corev1.NodeAffinity) terms {
	if affinity == nil || affinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

// narrows says whether every requirement of the old terms is still there.
func (t terms) narrows(old terms) bool {
	if len(old) == 0 {
		return true
	}
	if len(t) != len(old) {
		return false
	}
	for i := range old {
		for _, requirement := range old[i].MatchExpressions {
			if !containsEqual(t[i].MatchExpressions, requirement) {
				return false
			}
		}
		for _, requirement := range old[i].MatchFields {
			if !containsEqual(t[i].MatchFields, requirement) {
				return false
			}
		}
	}
	return true
}

func containsEqual(list []corev1.NodeSelectorRequirement, want corev1.NodeSelectorRequirement) bool {
	return slices.ContainsFunc(list, func(r corev1.NodeSelectorRequirement) bool {
		return apiequality.Semantic.DeepEqual(r, want)
	})
}

// ValidateStatusUpdate reports what nobody may say of a pod: that an ended container runs again though the pod
// does not restart it, or that its class changed.
func ValidateStatusUpdate(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	if pod.Status.NominatedNodeName != "" {
		errs = append(errs, check.Text(path.Child("nominatedNodeName"), pod.Status.NominatedNodeName, check.Subdomain)...)
	}
	if old.Status.QOSClass != "" {
		errs = append(errs, check.Unchanged(path.Child("qosClass"), pod.Status.QOSClass, old.Status.QOSClass)...)
	}
	if old.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, staysEnded(pod.Status.ContainerStatuses, old.Status.ContainerStatuses, old, path.Child("containerStatuses"))...)
	}
	for i, ip := range pod.Status.PodIPs {
		errs = append(errs, validateIP(path.Child("podIPs").Index(i), ip.IP)...)
	}
	if len(pod.Status.PodIPs) > 0 && pod.Status.PodIP != pod.Status.PodIPs[0].IP {
		errs = append(errs, field.Invalid(path.Child("podIPs").Index(0).Child("ip"), pod.Status.PodIPs[0].IP, "must be equal to `podIP`"))
	}
	return errs
}

func staysEnded(statuses, old []corev1.ContainerStatus, pod *corev1.Pod, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, before := range old {
		ended := before.State.Terminated
		if ended == nil || ended.ExitCode != 0 && pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure || restartsItself(pod, before.Name) {
			continue
		}
		for i, now := range statuses {
			if now.Name == before.Name && now.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

// restartsItself is true for containers with a restart policy of their own.
func restartsItself(pod *corev1.Pod, name string) bool {
	for _, c := range pod.Spec.Containers {
		if c.Name == name {
			return c.RestartPolicy != nil
		}
	}
	return false
}

// ValidateEphemeral reports changes of the ephemeral containers that exist, and of anything beside them.
func ValidateEphemeral(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := Validate(&pod.Spec, &pod.ObjectMeta, path)
	for _, before := range old.Spec.EphemeralContainers {
		i := slices.IndexFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == before.Name })
		switch {
		case i < 0:
			errs = append(errs, field.Forbidden(path.Child("ephemeralContainers"), fmt.Sprintf("existing ephemeral containers %q may not be removed", before.Name)))
		case !apiequality.Semantic.DeepEqual(before, pod.Spec.EphemeralContainers[i]):
			errs = append(errs, field.Forbidden(path.Child("ephemeralContainers"), fmt.Sprintf("existing ephemeral containers %q may not be changed", before.Name)))
		}
	}
	return errs
}

// ValidateResize reports changes of anything but the resources of containers.
func ValidateResize(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := Validate(&pod.Spec, &pod.ObjectMeta, path)
	if QOS(&pod.Spec) != QOS(&old.Spec) {
		errs = append(errs, field.Invalid(path, QOS(&pod.Spec), "Pod QOS Class may not change as a result of resizing"))
	}
	if len(pod.Spec.Containers) != len(old.Spec.Containers) || len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return append(errs, field.Forbidden(path, "only cpu and memory resources for containers are mutable"))
	}
	for i, c := range pod.Spec.Containers {
		if c.Name != old.Spec.Containers[i].Name {
			errs = append(errs, field.Forbidden(path, "containers may not be renamed or reordered on resize"))
		}
	}
	same := pod.Spec.DeepCopy()
	same.Resources = old.Spec.Resources
	for i := range same.Containers {
		same.Containers[i].Resources = old.Spec.Containers[i].Resources
	}
	for i, c := range same.InitContainers {
		if (located{Container: &c, role: initContainer}).sidecar() {
			same.InitContainers[i].Resources = old.Spec.InitContainers[i].Resources
		}
	}
	if !apiequality.Semantic.DeepEqual(same, &old.Spec) {
		errs = append(errs, field.Forbidden(path, "only cpu and memory resources are mutable"))
	}
	return errs
}

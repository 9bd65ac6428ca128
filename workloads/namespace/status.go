package namespace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// judgeStatus words what is left of a namespace as upstream does.
func judgeStatus(namespace *corev1.Namespace, left *leftovers, now time.Time) corev1.NamespaceStatus {
	status := *namespace.Status.DeepCopy()
	status.Phase = corev1.NamespaceTerminating
	set := func(kind corev1.NamespaceConditionType, trouble string, bad, good, fine string) {
		c := corev1.NamespaceCondition{
			Type: kind, Status: corev1.ConditionFalse, Reason: good, Message: fine, LastTransitionTime: metav1.NewTime(now),
		}
		if trouble != "" {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, bad, trouble
		}
		at := slices.IndexFunc(status.Conditions, func(was corev1.NamespaceCondition) bool { return was.Type == kind })
		if at < 0 {
			status.Conditions = append(status.Conditions, c)
			return
		}
		if was := status.Conditions[at]; was.Status == c.Status {
			c.LastTransitionTime = was.LastTransitionTime
		}
		status.Conditions[at] = c
	}
	set(corev1.NamespaceDeletionDiscoveryFailure, undiscovered(left.unknown),
		"DiscoveryFailed", "ResourcesDiscovered", "All resources successfully discovered")
	set(corev1.NamespaceDeletionGVParsingFailure, says(left.unreadable),
		"GroupVersionParsingFailed", "ParsedGroupVersions", "All legacy kube types successfully parsed")
	set(corev1.NamespaceDeletionContentFailure, left.refused(),
		"ContentDeletionFailed", "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	set(corev1.NamespaceContentRemaining, left.contents(),
		"SomeResourcesRemain", "ContentRemoved", "All content successfully removed")
	set(corev1.NamespaceFinalizersRemaining, left.waiting(),
		"SomeFinalizersRemain", "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	return status
}

func says(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func undiscovered(err error) string {
	if groups, partly := discovery.GroupDiscoveryFailedErrorGroups(err); partly {
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(groups), err)
	}
	return says(err)
}

// refused says of which kinds not everything could be deleted.
func (l *leftovers) refused() string {
	if len(l.undeleted) == 0 {
		return ""
	}
	var parts []string
	for _, err := range l.undeleted {
		parts = append(parts, err.Error())
	}
	slices.Sort(parts)
	return fmt.Sprintf("Failed to delete all resource types, %d remaining: %s", len(parts), strings.Join(parts, ", "))
}

func (l *leftovers) contents() string {
	var parts []string
	for res, n := range l.remaining {
		parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances", res.Resource, res.Group, n))
	}
	return sentence("Some resources are remaining: ", parts)
}

func (l *leftovers) waiting() string {
	var parts []string
	for finalizer, n := range l.finalizers {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", finalizer, n))
	}
	return sentence("Some content in the namespace has finalizers remaining: ", parts)
}

func sentence(start string, parts []string) string {
	if len(parts) == 0 {
		return ""
	}
	slices.Sort(parts)
	return start + strings.Join(parts, ", ")
}

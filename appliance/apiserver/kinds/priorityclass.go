package kinds

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// The classes every cluster has, for pods that a node or the cluster cannot be without.
const (
	SystemClusterCritical         = "system-cluster-critical"
	SystemNodeCritical            = "system-node-critical"
	SystemClusterCriticalPriority = 2 * highestUserPriority
	SystemNodeCriticalPriority    = SystemClusterCriticalPriority + 1000
)

const (
	systemPrefix        = "system-"
	highestUserPriority = 1_000_000_000
)

// PriorityClass keeps its value: the pods that have it would not follow.
var PriorityClass = resource.Hooks[*schedulingv1.PriorityClass]{
	Validate: always(func(c *schedulingv1.PriorityClass) field.ErrorList {
		system := c.Name == SystemClusterCritical || c.Name == SystemNodeCritical
		if strings.HasPrefix(c.Name, systemPrefix) && !system {
			return field.ErrorList{field.Forbidden(metaPath.Child("name"), "priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+c.Name+" is not a known system priority class")}
		}
		if c.Value > highestUserPriority && !system {
			return field.ErrorList{field.Forbidden(field.NewPath("value"), fmt.Sprintf("maximum allowed value of a user defined priority is %v", highestUserPriority))}
		}
		return check.OneOfOptional(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}),
	ValidateUpdate: onUpdate(func(*schedulingv1.PriorityClass) field.ErrorList { return nil }, func(c, old *schedulingv1.PriorityClass) field.ErrorList {
		var errs field.ErrorList
		if c.Value != old.Value {
			errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		return append(errs, check.Unchanged(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy)...)
	}),
}

func defaultPriorityClass(c *schedulingv1.PriorityClass) {
	set.Pointer(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
}

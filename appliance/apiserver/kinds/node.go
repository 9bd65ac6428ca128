package kinds

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Node keeps its identity and its pod range once it has them.
var Node = resource.Hooks[*corev1.Node]{
	Warnings:       hints(nodeHints),
	PrepareCreate:  func(_ context.Context, node *corev1.Node) { matchPodCIDRs(node, &corev1.Node{}) },
	PrepareUpdate:  func(_ context.Context, node, old *corev1.Node) { matchPodCIDRs(node, old) },
	Validate:       always(validateNewNode),
	ValidateUpdate: onUpdate(validateNode, nodeStays),
	ValidateStatus: func(_ context.Context, node, _ *corev1.Node) field.ErrorList { return validateNodeStatus(node) },
	Fields: func(node *corev1.Node) fields.Set {
		return fields.Set{"spec.unschedulable": strconv.FormatBool(node.Spec.Unschedulable)}
	},
}

// validateNewNode: a node is registered together with its status.
func validateNewNode(node *corev1.Node) field.ErrorList {
	return append(validateNode(node), validateNodeStatus(node)...)
}

func defaultNode(node *corev1.Node) {
	if node.Status.Allocatable == nil && node.Status.Capacity != nil {
		node.Status.Allocatable = node.Status.Capacity.DeepCopy()
	}
	for i := range node.Spec.Taints {
		if taint := &node.Spec.Taints[i]; taint.TimeAdded != nil && taint.TimeAdded.IsZero() {
			taint.TimeAdded = nil
		}
	}
}

// matchPodCIDRs keeps podCIDR and podCIDRs[0] the same: clients set the one they know.
func matchPodCIDRs(node, old *corev1.Node) {
	spec := &node.Spec
	switch {
	case spec.PodCIDR != "" && (len(spec.PodCIDRs) == 0 || spec.PodCIDR != old.Spec.PodCIDR && slices.Equal(spec.PodCIDRs, old.Spec.PodCIDRs)):
		spec.PodCIDRs = []string{spec.PodCIDR}
	case spec.PodCIDR == "" && len(spec.PodCIDRs) > 0:
		spec.PodCIDR = spec.PodCIDRs[0]
	}
}

func validateNode(node *corev1.Node) field.ErrorList {
	errs := validateTaints(node.Spec.Taints)
	at := specPath.Child("podCIDRs")
	for i, cidr := range node.Spec.PodCIDRs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), cidr, false, nil)...)
	}
	if len(node.Spec.PodCIDRs) > 2 {
		errs = append(errs, field.Invalid(at, node.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
	}
	return append(errs, validateNodeStatus(node)...)
}

func validateTaints(taints []corev1.Taint) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	base := specPath.Child("taints")
	for i, taint := range taints {
		at := base.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(taint.Key, at.Child("key"))...)
		errs = append(errs, check.Text(at.Child("value"), taint.Value, validation.IsValidLabelValue)...)
		errs = append(errs, podspec.ValidateTaintEffect(taint.Effect, at.Child("effect"))...)
		key := fmt.Sprintf("%s/%s", taint.Key, taint.Effect)
		if seen.Has(key) {
			duplicate := field.Duplicate(at, taint)
			duplicate.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, duplicate)
		}
		seen.Insert(key)
	}
	return errs
}

func nodeStays(node, old *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(node.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(specPath.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && node.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(specPath.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	return errs
}

func validateNodeStatus(node *corev1.Node) field.ErrorList {
	errs := podspec.ValidateResources(node.Status.Capacity, statusPath.Child("capacity"))
	errs = append(errs, podspec.ValidateResources(node.Status.Allocatable, statusPath.Child("allocatable"))...)
	return append(errs, check.Unique(statusPath.Child("addresses"), node.Status.Addresses, func(a corev1.NodeAddress) corev1.NodeAddress { return a }, "")...)
}

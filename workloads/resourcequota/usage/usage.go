// Package usage measures what objects use of a quota.
//
// In:       pods, services, claims to volumes and devices; and for sums, functions that list a namespace's.
// Out:      quota evaluators of k8s.io/apiserver, for the controller that sums up and the admission that refuses.
// Promise:  both measure by the same rule, so that neither corrects the other for ever.
// Not here: counting objects of which nothing matters but that they exist (generic evaluators of k8s.io/apiserver).
package usage

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// List lists the objects of one kind in a namespace. Admission needs none.
type List = generic.ListFuncByNamespace

// Evaluators measure the kinds of which more counts than their number. now is the time of day.
func Evaluators(now func() time.Time, pods, services, claims, devices List) []quota.Evaluator {
	return []quota.Evaluator{Pods(now, pods), Services(services), Claims(claims), Devices(devices)}
}

// Aliases are the names that count objects from the time before count/RESOURCE.
var Aliases = map[corev1.ResourceName]schema.GroupResource{
	corev1.ResourceConfigMaps:             corev1.Resource("configmaps"),
	corev1.ResourceSecrets:                corev1.Resource("secrets"),
	corev1.ResourceReplicationControllers: corev1.Resource("replicationcontrollers"),
	corev1.ResourceQuotas:                 corev1.Resource("resourcequotas"),
}

// Counted is the kind of object that a name counts.
func Counted(name corev1.ResourceName) (schema.GroupResource, bool) {
	if of, found := Aliases[name]; found {
		return of, true
	}
	of, found := strings.CutPrefix(string(name), "count/")
	return schema.ParseGroupResource(of), found
}

// evaluator is what the kinds differ in.
type evaluator[T runtime.Object] struct {
	resource schema.GroupResource
	list     List
	// on says which requests may change the usage: "create", "update", "update/resize".
	on []string
	// concerns says whether a name of a quota is about this kind.
	concerns func(corev1.ResourceName) bool
	measure  func(T) corev1.ResourceList
	// within says whether an object is in a scope; nil for kinds that know no scopes.
	within func(T, corev1.ScopedResourceSelectorRequirement) (bool, error)
	// demand says what an object leaves out that a quota of these names needs; nil for nothing.
	demand func(T, sets.Set[corev1.ResourceName]) error
}

var _ quota.Evaluator = &evaluator[*corev1.Pod]{}

func (e *evaluator[T]) GroupResource() schema.GroupResource { return e.resource }

func (e *evaluator[T]) Handles(a admission.Attributes) bool {
	operation := strings.ToLower(string(a.GetOperation()))
	if sub := a.GetSubresource(); sub != "" {
		operation += "/" + sub
	}
	return slices.Contains(e.on, operation)
}

func (e *evaluator[T]) Constraints(required []corev1.ResourceName, item runtime.Object) error {
	object, err := as[T](item)
	if err != nil || e.demand == nil {
		return err
	}
	return e.demand(object, sets.New(required...))
}

func (e *evaluator[T]) Matches(q *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(q, item, e.MatchingResources, e.scoped)
}

func (e *evaluator[T]) MatchingResources(input []corev1.ResourceName) []corev1.ResourceName {
	return slices.DeleteFunc(slices.Clone(input), func(name corev1.ResourceName) bool { return !e.concerns(name) })
}

func (e *evaluator[T]) MatchingScopes(item runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	matched := []corev1.ScopedResourceSelectorRequirement{}
	for _, scope := range scopes {
		within, err := e.scoped(scope, item)
		if err != nil {
			return matched, fmt.Errorf("match scope %s: %w", scope.ScopeName, err)
		}
		if within {
			matched = append(matched, scope)
		}
	}
	return matched, nil
}

func (e *evaluator[T]) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	uncovered := []corev1.ScopedResourceSelectorRequirement{}
	for _, scope := range limited {
		if !slices.ContainsFunc(matched, func(m corev1.ScopedResourceSelectorRequirement) bool { return m.ScopeName == scope.ScopeName }) {
			uncovered = append(uncovered, scope)
		}
	}
	return uncovered, nil
}

func (e *evaluator[T]) Usage(item runtime.Object) (corev1.ResourceList, error) {
	object, err := as[T](item)
	if err != nil {
		return nil, err
	}
	return e.measure(object), nil
}

func (e *evaluator[T]) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(options, e.list, e.scoped, e.Usage)
}

func (e *evaluator[T]) scoped(scope corev1.ScopedResourceSelectorRequirement, item runtime.Object) (bool, error) {
	object, err := as[T](item)
	if err != nil || e.within == nil {
		return false, err
	}
	return e.within(object, scope)
}

func as[T runtime.Object](item runtime.Object) (T, error) {
	object, ok := item.(T)
	if !ok {
		return object, fmt.Errorf("expected %T, got %T", object, item)
	}
	return object, nil
}

func whole(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

// lacking words what objects leave out: "must specify limits.cpu for: a,b; limits.memory for: b".
func lacking(missing map[corev1.ResourceName][]string) error {
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		slices.Sort(missing[name])
		parts = append(parts, string(name)+" for: "+strings.Join(slices.Compact(missing[name]), ","))
	}
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

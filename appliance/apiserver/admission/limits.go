package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	resourcehelpers "k8s.io/component-helpers/resource"

	apiresource "knarr.dev/knarr/appliance/apiserver/resource"
)

// limitAnnotation tells a pod's reader what was not its author's choice.
const limitAnnotation = "kubernetes.io/limit-ranger"

// limitRanger fills in and enforces the limit ranges of a namespace.
func limitRanger(env *apiresource.Env) *rule {
	ranges := func(ctx context.Context, a admission.Attributes) ([]corev1.LimitRange, error) {
		found, err := list[*corev1.LimitRangeList](ctx, env, corev1.Resource("limitranges"), a.GetNamespace())
		if err != nil {
			return nil, fmt.Errorf("read limit ranges of %s: %w", a.GetNamespace(), err)
		}
		return found.Items, nil
	}
	return &rule{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		on:      []string{"pods", "pods/resize", "persistentvolumeclaims"},
		admit: func(ctx context.Context, a admission.Attributes) error {
			pod, ok := a.GetObject().(*corev1.Pod)
			if !ok || a.GetOperation() != admission.Create {
				return nil
			}
			all, err := ranges(ctx, a)
			if err != nil {
				return err
			}
			for i := range all {
				defaultLimits(pod, &all[i])
			}
			return nil
		},
		validate: func(ctx context.Context, a admission.Attributes) error {
			// Nothing of a pod that limits are about changes by a plain update.
			if a.GetOperation() == admission.Update && a.GetResource().Resource == "pods" && a.GetSubresource() == "" {
				return nil
			}
			all, err := ranges(ctx, a)
			if err != nil {
				return err
			}
			for i := range all {
				if err := withinLimits(&all[i], a); err != nil {
					return admission.NewForbidden(a, err)
				}
			}
			return nil
		},
	}
}

// defaultLimits gives containers that ask for nothing what the range says.
func defaultLimits(pod *corev1.Pod, limits *corev1.LimitRange) {
	requests, caps := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range limits.Spec.Limits {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for name, value := range item.DefaultRequest {
			requests[name] = value
		}
		for name, value := range item.Default {
			caps[name] = value
		}
	}
	var notes []string
	for _, group := range []struct {
		kind       string
		containers []corev1.Container
	}{{"container", pod.Spec.Containers}, {"init container", pod.Spec.InitContainers}} {
		for i := range group.containers {
			c := &group.containers[i]
			if set := fill(&c.Resources.Requests, requests, c.Resources.Limits); set != "" {
				notes = append(notes, fmt.Sprintf("%s request for %s %s", set, group.kind, c.Name))
			}
			if set := fill(&c.Resources.Limits, caps, nil); set != "" {
				notes = append(notes, fmt.Sprintf("%s limit for %s %s", set, group.kind, c.Name))
			}
		}
	}
	if len(notes) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
}

// fill sets what is missing and names it. A limit the author set stands for the request as well.
func fill(into *corev1.ResourceList, defaults, authors corev1.ResourceList) string {
	var set []string
	for _, name := range sets.List(sets.KeySet(defaults)) {
		if _, found := (*into)[name]; found {
			continue
		}
		value := defaults[name]
		if limit, found := authors[name]; found {
			value = limit
		}
		if *into == nil {
			*into = corev1.ResourceList{}
		}
		(*into)[name] = value.DeepCopy()
		set = append(set, string(name))
	}
	return strings.Join(set, ", ")
}

// withinLimits reports everything a pod or claim has too little or too much of.
func withinLimits(limits *corev1.LimitRange, a admission.Attributes) error {
	var problems []error
	for i := range limits.Spec.Limits {
		item := &limits.Spec.Limits[i]
		switch obj := a.GetObject().(type) {
		case *corev1.Pod:
			problems = append(problems, podWithin(item, obj)...)
		case *corev1.PersistentVolumeClaim:
			if item.Type == corev1.LimitTypePersistentVolumeClaim {
				problems = append(problems, within(item, obj.Spec.Resources.Requests, nil, false)...)
			}
		}
	}
	return utilerrors.NewAggregate(problems)
}

func podWithin(item *corev1.LimitRangeItem, pod *corev1.Pod) []error {
	switch item.Type {
	case corev1.LimitTypeContainer:
		var problems []error
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			problems = append(problems, within(item, c.Resources.Requests, c.Resources.Limits, true)...)
		}
		return problems
	case corev1.LimitTypePod:
		return within(item, resourcehelpers.PodRequests(pod, resourcehelpers.PodResourcesOptions{}), resourcehelpers.PodLimits(pod, resourcehelpers.PodResourcesOptions{}), true)
	}
	return nil
}

// within compares one thing with one item. Capped says whether the thing has limits besides requests.
func within(item *corev1.LimitRangeItem, requests, limits corev1.ResourceList, capped bool) []error {
	var problems []error
	for _, name := range sets.List(sets.KeySet(item.Min)) {
		problems = append(problems, atLeast(item, name, item.Min[name], requests, limits))
	}
	for _, name := range sets.List(sets.KeySet(item.Max)) {
		if capped {
			problems = append(problems, atMost(item, name, item.Max[name], requests, limits))
		} else if request, max := requests[name], item.Max[name]; request.Cmp(max) > 0 {
			problems = append(problems, fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, max.String(), request.String()))
		}
	}
	for _, name := range sets.List(sets.KeySet(item.MaxLimitRequestRatio)) {
		problems = append(problems, withinRatio(item, name, item.MaxLimitRequestRatio[name], requests, limits))
	}
	return slices.DeleteFunc(problems, func(err error) bool { return err == nil })
}

func atLeast(item *corev1.LimitRangeItem, name corev1.ResourceName, least resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !asked:
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, item.Type, least.String())
	case request.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, item.Type, least.String(), request.String())
	case limited && limit.Cmp(least) < 0:
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, item.Type, least.String(), limit.String())
	}
	return nil
}

func atMost(item *corev1.LimitRangeItem, name corev1.ResourceName, most resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !limited:
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, item.Type, most.String())
	case limit.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, item.Type, most.String(), limit.String())
	case asked && request.Cmp(most) > 0:
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, item.Type, most.String(), request.String())
	}
	return nil
}

func withinRatio(item *corev1.LimitRangeItem, name corev1.ResourceName, ratio resource.Quantity, requests, limits corev1.ResourceList) error {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !asked || request.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, item.Type, ratio.String())
	case !limited || limit.IsZero():
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, item.Type, ratio.String())
	}
	observed := limit.AsApproximateFloat64() / request.AsApproximateFloat64()
	if observed > ratio.AsApproximateFloat64() {
		return fmt.Errorf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, item.Type, ratio.String(), observed)
	}
	return nil
}

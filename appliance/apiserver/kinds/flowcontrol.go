package kinds

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	defaultPrecedence = 1000
	maxPrecedence     = 10000
	defaultShares     = 30
)

// FlowSchema sorts requests into priority levels.
var FlowSchema = resource.Hooks[*flowcontrolv1.FlowSchema]{
	Validate: always(func(f *flowcontrolv1.FlowSchema) field.ErrorList {
		var errs field.ErrorList
		if p := f.Spec.MatchingPrecedence; p <= 0 || p > maxPrecedence {
			errs = append(errs, field.Invalid(specPath.Child("matchingPrecedence"), p, "must be between 1 and 10000"))
		}
		errs = append(errs, check.Needed(specPath.Child("priorityLevelConfiguration", "name"), f.Spec.PriorityLevelConfiguration.Name, check.Subdomain)...)
		if m := f.Spec.DistinguisherMethod; m != nil {
			errs = append(errs, check.OneOf(specPath.Child("distinguisherMethod", "type"), m.Type, flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
		}
		for i := range f.Spec.Rules {
			errs = append(errs, validateFlowRule(&f.Spec.Rules[i], specPath.Child("rules").Index(i))...)
		}
		return errs
	}),
}

func defaultFlowSchema(f *flowcontrolv1.FlowSchema) {
	set.Default(&f.Spec.MatchingPrecedence, defaultPrecedence)
}

// PriorityLevelConfiguration says how many requests of a level run at a time.
var PriorityLevelConfiguration = resource.Hooks[*flowcontrolv1.PriorityLevelConfiguration]{
	Validate: always(func(p *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
		errs := check.OneOf(specPath.Child("type"), p.Spec.Type, flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited)
		if p.Spec.Type == flowcontrolv1.PriorityLevelEnablementLimited && p.Spec.Limited == nil {
			errs = append(errs, field.Required(specPath.Child("limited"), "must not be empty when type is Limited"))
		}
		if e := p.Spec.Exempt; e != nil {
			errs = append(errs, validateShares(e.NominalConcurrencyShares, e.LendablePercent, specPath.Child("exempt"))...)
		}
		if l := p.Spec.Limited; l != nil {
			errs = append(errs, validateLimitedLevel(l, specPath.Child("limited"))...)
		}
		return errs
	}),
}

func defaultPriorityLevel(p *flowcontrolv1.PriorityLevelConfiguration) {
	switch p.Spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		set.Pointer(&p.Spec.Exempt, flowcontrolv1.ExemptPriorityLevelConfiguration{})
		set.Pointer(&p.Spec.Exempt.NominalConcurrencyShares, int32(0))
		set.Pointer(&p.Spec.Exempt.LendablePercent, int32(0))
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if p.Spec.Limited == nil {
			return
		}
		set.Pointer(&p.Spec.Limited.NominalConcurrencyShares, int32(defaultShares))
		set.Pointer(&p.Spec.Limited.LendablePercent, int32(0))
		if queuing := p.Spec.Limited.LimitResponse.Queuing; queuing != nil {
			set.Default(&queuing.Queues, 64)
			set.Default(&queuing.HandSize, 8)
			set.Default(&queuing.QueueLengthLimit, 50)
		}
	}
}

package kinds

import (
	"context"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// ResourceClaim asks for devices; what it asks for stays.
var ResourceClaim = resource.Hooks[*resourcev1.ResourceClaim]{
	Validate: always(func(c *resourcev1.ResourceClaim) field.ErrorList {
		return validateDeviceClaim(&c.Spec.Devices, specPath.Child("devices"), nil)
	}),
	ValidateUpdate: func(_ context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
		return check.Unchanged(specPath, c.Spec, old.Spec)
	},
	ValidateStatus: func(_ context.Context, c, old *resourcev1.ResourceClaim) field.ErrorList {
		return validateReservations(c, old)
	},
}

// ResourceClaimTemplate is what claims of pods are made from; it stays as well.
var ResourceClaimTemplate = resource.Hooks[*resourcev1.ResourceClaimTemplate]{
	Validate: always(func(t *resourcev1.ResourceClaimTemplate) field.ErrorList {
		return validateDeviceClaim(&t.Spec.Spec.Devices, specPath.Child("spec", "devices"), nil)
	}),
	ValidateUpdate: func(_ context.Context, t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
		return check.Unchanged(specPath, t.Spec, old.Spec)
	},
}

func defaultResourceClaim(c *resourcev1.ResourceClaim) {
	defaultDevices(&c.Spec.Devices)
	dropUnreadableStatus(&c.Status)
}

func defaultResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) {
	defaultDevices(&t.Spec.Spec.Devices)
}

func defaultDevices(claim *resourcev1.DeviceClaim) {
	for i := range claim.Config {
		dropParameters(&claim.Config[i].DeviceConfiguration)
	}
	for i := range claim.Requests {
		if one := claim.Requests[i].Exactly; one != nil {
			defaultDevice(&one.AllocationMode, &one.Count, one.Tolerations)
		}
		for j := range claim.Requests[i].FirstAvailable {
			one := &claim.Requests[i].FirstAvailable[j]
			defaultDevice(&one.AllocationMode, &one.Count, one.Tolerations)
		}
	}
}

func defaultDevice(mode *resourcev1.DeviceAllocationMode, count *int64, tolerations []resourcev1.DeviceToleration) {
	set.Default(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		set.Default(count, 1)
	}
	for i := range tolerations {
		set.Default(&tolerations[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}

// validateDeviceClaim says what is wrong with the requests of a claim, and with what else speaks of them. Known are
// expressions that are stored already.
func validateDeviceClaim(claim *resourcev1.DeviceClaim, at *field.Path, known map[string]bool) field.ErrorList {
	requests := at.Child("requests")
	errs := check.Unique(requests, claim.Requests, func(r resourcev1.DeviceRequest) string { return r.Name }, "name")
	if count := len(claim.Requests); count > resourcev1.DeviceRequestsMaxSize {
		errs = append(errs, field.TooMany(requests, count, resourcev1.DeviceRequestsMaxSize))
	}
	names := sets.New[string]()
	for i := range claim.Requests {
		r := &claim.Requests[i]
		names.Insert(r.Name)
		for j := range r.FirstAvailable {
			names.Insert(r.Name + "/" + r.FirstAvailable[j].Name)
		}
		errs = append(errs, validateDeviceRequest(r, requests.Index(i), known)...)
	}
	for i := range claim.Constraints {
		c, here := &claim.Constraints[i], at.Child("constraints").Index(i)
		errs = append(errs, validateRequestNames(c.Requests, names, here.Child("requests"))...)
		switch {
		case c.MatchAttribute != nil && c.DistinctAttribute != nil:
			errs = append(errs, field.Invalid(here, "<value omitted>", "exactly one of `matchAttribute`, `distinctAttribute` may be set"))
		case c.MatchAttribute != nil:
			errs = append(errs, validateFullName(string(*c.MatchAttribute), here.Child("matchAttribute"))...)
		case c.DistinctAttribute != nil:
			errs = append(errs, validateFullName(string(*c.DistinctAttribute), here.Child("distinctAttribute"))...)
		default:
			errs = append(errs, field.Required(here, "exactly one of `matchAttribute`, `distinctAttribute` is required"))
		}
	}
	for i := range claim.Config {
		here := at.Child("config").Index(i)
		errs = append(errs, validateRequestNames(claim.Config[i].Requests, names, here.Child("requests"))...)
		errs = append(errs, validateDeviceConfiguration(&claim.Config[i].DeviceConfiguration, here)...)
	}
	return errs
}

func validateDeviceRequest(r *resourcev1.DeviceRequest, at *field.Path, known map[string]bool) field.ErrorList {
	errs := check.Needed(at.Child("name"), r.Name, validation.IsDNS1123Label)
	switch {
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		errs = append(errs, field.Invalid(at, "<value omitted>", "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		errs = append(errs, validateWantedDevice(wantedDevice{e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, e.Capacity}, at.Child("exactly"), known)...)
	case len(r.FirstAvailable) == 0:
		errs = append(errs, field.Required(at, "exactly one of `exactly` or `firstAvailable` is required"))
	}
	first := at.Child("firstAvailable")
	errs = append(errs, check.Unique(first, r.FirstAvailable, func(s resourcev1.DeviceSubRequest) string { return s.Name }, "name")...)
	if count := len(r.FirstAvailable); count > resourcev1.FirstAvailableDeviceRequestMaxSize {
		errs = append(errs, field.TooMany(first, count, resourcev1.FirstAvailableDeviceRequestMaxSize))
	}
	for i, s := range r.FirstAvailable {
		errs = append(errs, check.Needed(first.Index(i).Child("name"), s.Name, validation.IsDNS1123Label)...)
		errs = append(errs, validateWantedDevice(wantedDevice{s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, s.Capacity}, first.Index(i), known)...)
	}
	return errs
}

// wantedDevice is what a request and its alternatives have in common.
type wantedDevice struct {
	class       string
	selectors   []resourcev1.DeviceSelector
	mode        resourcev1.DeviceAllocationMode
	count       int64
	tolerations []resourcev1.DeviceToleration
	capacity    *resourcev1.CapacityRequirements
}

func validateWantedDevice(d wantedDevice, at *field.Path, known map[string]bool) field.ErrorList {
	errs := check.Needed(at.Child("deviceClassName"), d.class, check.Subdomain)
	errs = append(errs, validateDeviceSelectors(d.selectors, at.Child("selectors"), known)...)
	switch d.mode {
	case resourcev1.DeviceAllocationModeAll:
		if d.count != 0 {
			errs = append(errs, field.Invalid(at.Child("count"), d.count, "must not be specified when allocationMode is 'All'"))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		errs = append(errs, check.Positive(at.Child("count"), d.count)...)
	default:
		errs = append(errs, field.NotSupported(at.Child("allocationMode"), d.mode, []resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	if count := len(d.tolerations); count > resourcev1.DeviceTolerationsMaxLength {
		errs = append(errs, field.TooMany(at.Child("tolerations"), count, resourcev1.DeviceTolerationsMaxLength))
	}
	for i := range d.tolerations {
		errs = append(errs, validateDeviceToleration(&d.tolerations[i], at.Child("tolerations").Index(i))...)
	}
	if d.capacity != nil {
		for _, name := range sets.List(sets.KeySet(d.capacity.Requests)) {
			here := at.Child("capacity", "requests").Key(string(name))
			errs = append(errs, check.Text(here, string(name), validation.IsQualifiedName)...)
			if amount := d.capacity.Requests[name]; amount.Sign() < 0 {
				errs = append(errs, field.Invalid(here, amount.String(), "must be greater than or equal to zero"))
			}
		}
	}
	return errs
}

func validateDeviceToleration(t *resourcev1.DeviceToleration, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, check.Text(at.Child("key"), t.Key, validation.IsQualifiedName)...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, check.Text(at.Child("value"), t.Value, validation.IsValidLabelValue)...)
		if t.Key == "" {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "must be `Exists` when `key` is empty, which means \"match all keys and all values\""))
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	effects := []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNone, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNoExecute}
	if t.Effect != "" && !slices.Contains(effects, t.Effect) {
		errs = append(errs, field.NotSupported(at.Child("effect"), t.Effect, effects))
	}
	return errs
}

func validateRequestNames(wanted []string, known sets.Set[string], at *field.Path) field.ErrorList {
	errs := check.Unique(at, wanted, func(name string) string { return name }, "")
	if count := len(wanted); count > resourcev1.DeviceRequestsMaxSize {
		errs = append(errs, field.TooMany(at, count, resourcev1.DeviceRequestsMaxSize))
	}
	for i, name := range wanted {
		if !known.Has(name) {
			errs = append(errs, field.Invalid(at.Index(i), name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"))
		}
	}
	return errs
}

// validateFullName wants a domain before the name of an attribute.
func validateFullName(name string, at *field.Path) field.ErrorList {
	domain, id, qualified := strings.Cut(name, "/")
	if !qualified {
		return field.ErrorList{field.Invalid(at, name, "must include a domain")}
	}
	errs := check.Text(at, domain, validation.IsDNS1123Subdomain)
	return append(errs, check.Text(at, id, validation.IsCIdentifier)...)
}

// validateReservations wants devices that are there before somebody counts on them, and nobody new on a claim that goes.
func validateReservations(c, old *resourcev1.ResourceClaim) field.ErrorList {
	at := statusPath.Child("reservedFor")
	if len(c.Status.ReservedFor) > 0 && c.Status.Allocation == nil {
		return field.ErrorList{field.Forbidden(at, "may not be specified when `allocated` is not set")}
	}
	var errs field.ErrorList
	had := sets.New[string]()
	for _, r := range old.Status.ReservedFor {
		had.Insert(string(r.UID))
	}
	for i, r := range c.Status.ReservedFor {
		here := at.Index(i)
		errs = append(errs, check.Needed(here.Child("resource"), r.Resource, nil)...)
		errs = append(errs, check.Needed(here.Child("name"), r.Name, nil)...)
		errs = append(errs, check.Needed(here.Child("uid"), string(r.UID), nil)...)
		if old.DeletionTimestamp != nil && !had.Has(string(r.UID)) {
			errs = append(errs, field.Forbidden(here, "new reservations may not be added while the claim is being deleted"))
		}
	}
	if c.Status.Allocation != nil && old.Status.Allocation == nil && old.DeletionTimestamp != nil && !slices.Contains(old.Finalizers, resourcev1.Finalizer) {
		errs = append(errs, field.Forbidden(statusPath.Child("allocation"), "a claim that is being deleted may not be allocated"))
	}
	return errs
}

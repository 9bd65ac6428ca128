package kinds

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/version"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// mostValidValues bounds the amounts a capacity can be asked for in.
const mostValidValues = 10

// ResourceSlice is what a driver says of its devices. What it says it about stays: nodes may write slices of their own.
var ResourceSlice = resource.Hooks[*resourcev1.ResourceSlice]{
	PrepareCreate: func(_ context.Context, s *resourcev1.ResourceSlice) { stampDeviceTaints(s, metav1.Now()) },
	PrepareUpdate: func(_ context.Context, s, _ *resourcev1.ResourceSlice) { stampDeviceTaints(s, metav1.Now()) },
	Validate:      always(validateResourceSlice),
	ValidateUpdate: onUpdate(validateResourceSlice, func(s, old *resourcev1.ResourceSlice) field.ErrorList {
		errs := check.Unchanged(specPath.Child("driver"), s.Spec.Driver, old.Spec.Driver)
		errs = append(errs, check.Unchanged(specPath.Child("pool", "name"), s.Spec.Pool.Name, old.Spec.Pool.Name)...)
		return append(errs, check.Unchanged(specPath.Child("nodeName"), s.Spec.NodeName, old.Spec.NodeName)...)
	}),
	Fields: func(s *resourcev1.ResourceSlice) fields.Set {
		set := fields.Set{resourcev1.ResourceSliceSelectorNodeName: "", resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver, resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name}
		if s.Spec.NodeName != nil {
			set[resourcev1.ResourceSliceSelectorNodeName] = *s.Spec.NodeName
		}
		return set
	},
}

// stampDeviceTaints dates taints that bring no date: evictions are counted from it.
func stampDeviceTaints(s *resourcev1.ResourceSlice, now metav1.Time) {
	for i := range s.Spec.Devices {
		for j := range s.Spec.Devices[i].Taints {
			stampDeviceTaint(&s.Spec.Devices[i].Taints[j], now)
		}
	}
}

func validateResourceSlice(s *resourcev1.ResourceSlice) field.ErrorList {
	spec := &s.Spec
	errs := validateDriverName(spec.Driver, specPath.Child("driver"))
	errs = append(errs, validatePool(&spec.Pool, specPath.Child("pool"))...)
	perDevice := spec.PerDeviceNodeSelection != nil && *spec.PerDeviceNodeSelection
	where := deviceNodes{spec.NodeName, spec.NodeSelector, spec.AllNodes}
	chosen := where.count()
	if perDevice {
		chosen++
	}
	if chosen != 1 {
		errs = append(errs, field.Invalid(specPath, "<value omitted>", "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"))
	}
	errs = append(errs, where.validate(specPath)...)
	if spec.PerDeviceNodeSelection != nil && !perDevice {
		errs = append(errs, field.Invalid(specPath.Child("perDeviceNodeSelection"), false, "must be either unset or set to true"))
	}
	if len(spec.Devices) > 0 && len(spec.SharedCounters) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("sharedCounters"), "only one of `sharedCounters` and `devices` may be set"))
	}
	errs = append(errs, validateCounterSets(spec.SharedCounters, specPath.Child("sharedCounters"))...)
	return append(errs, validateDevices(spec.Devices, perDevice, specPath.Child("devices"))...)
}

func validatePool(pool *resourcev1.ResourcePool, at *field.Path) field.ErrorList {
	errs := validatePoolName(pool.Name, at.Child("name"))
	errs = append(errs, check.NotNegative(at.Child("generation"), pool.Generation)...)
	return append(errs, check.Positive(at.Child("resourceSliceCount"), pool.ResourceSliceCount)...)
}

func validatePoolName(name string, at *field.Path) field.ErrorList {
	switch {
	case name == "":
		return field.ErrorList{field.Required(at, "")}
	case len(name) > resourcev1.PoolNameMaxLength:
		return field.ErrorList{field.TooLong(at, "", resourcev1.PoolNameMaxLength)}
	}
	var errs field.ErrorList
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, check.Text(at, part, validation.IsDNS1123Subdomain)...)
	}
	return errs
}

// deviceNodes says from where devices can be used: a slice's or one device's choice.
type deviceNodes struct {
	name     *string
	selector *corev1.NodeSelector
	all      *bool
}

func (n deviceNodes) count() int {
	count := 0
	for _, set := range []bool{n.name != nil, n.selector != nil, n.all != nil && *n.all} {
		if set {
			count++
		}
	}
	return count
}

func (n deviceNodes) validate(at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if n.name != nil {
		errs = append(errs, check.Needed(at.Child("nodeName"), *n.name, check.Subdomain)...)
	}
	if n.selector != nil {
		errs = append(errs, podspec.ValidateNodeSelector(n.selector, at.Child("nodeSelector"))...)
		if count := len(n.selector.NodeSelectorTerms); count > 1 {
			errs = append(errs, field.Invalid(at.Child("nodeSelector", "nodeSelectorTerms"), count, "must have exactly one node selector term"))
		}
	}
	if n.all != nil && !*n.all {
		errs = append(errs, field.Invalid(at.Child("allNodes"), false, "must be either unset or set to true"))
	}
	return errs
}

func validateCounterSets(sets []resourcev1.CounterSet, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if count := len(sets); count > resourcev1.ResourceSliceMaxCounterSets {
		errs = append(errs, field.TooMany(at, count, resourcev1.ResourceSliceMaxCounterSets))
	}
	for i, set := range sets {
		errs = append(errs, check.Needed(at.Index(i).Child("name"), set.Name, validation.IsDNS1123Label)...)
		errs = append(errs, validateCounters(set.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, at.Index(i).Child("counters"))...)
	}
	return append(errs, check.Unique(at, sets, func(s resourcev1.CounterSet) string { return s.Name }, "name")...)
}

func validateCounters(counters map[string]resourcev1.Counter, most int, at *field.Path) field.ErrorList {
	if len(counters) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(counters) > most {
		errs = append(errs, field.TooMany(at, len(counters), most))
	}
	for name, counter := range counters {
		errs = append(errs, check.Text(at, name, validation.IsDNS1123Label)...)
		errs = append(errs, quantityNotNegative(at.Key(name).Child("value"), &counter.Value)...)
	}
	return errs
}

func validateDevices(devices []resourcev1.Device, perDevice bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	most := resourcev1.ResourceSliceMaxDevices
	for i := range devices {
		d := &devices[i]
		if len(d.Taints) > 0 || len(d.ConsumesCounters) > 0 {
			most = resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures // such devices are larger, and a slice is one object
		}
		errs = append(errs, validateDevice(d, perDevice, at.Index(i))...)
	}
	if len(devices) > most {
		errs = append(errs, field.TooMany(at, len(devices), most))
	}
	return append(errs, check.Unique(at, devices, func(d resourcev1.Device) string { return d.Name }, "name")...)
}

func validateDevice(d *resourcev1.Device, perDevice bool, at *field.Path) field.ErrorList {
	errs := check.Needed(at.Child("name"), d.Name, validation.IsDNS1123Label)
	where := deviceNodes{d.NodeName, d.NodeSelector, d.AllNodes}
	switch {
	case perDevice && where.count() != 1:
		errs = append(errs, field.Invalid(at, "<value omitted>", "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	case !perDevice && where != deviceNodes{}:
		errs = append(errs, field.Invalid(at, "<value omitted>", "`nodeName`, `nodeSelector`, and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"))
	}
	errs = append(errs, where.validate(at)...)
	if count := len(d.Attributes) + len(d.Capacity); count > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(at, count, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	errs = append(errs, validateAttributes(d.Attributes, at.Child("attributes"))...)
	shared := d.AllowMultipleAllocations != nil && *d.AllowMultipleAllocations
	for name, capacity := range d.Capacity {
		errs = append(errs, validateDeviceName(name, at.Child("capacity").Key(string(name)))...)
		errs = append(errs, validateDeviceCapacity(&capacity, shared, at.Child("capacity").Key(string(name)))...)
	}
	errs = append(errs, validateConsumption(d.ConsumesCounters, at.Child("consumesCounters"))...)
	errs = append(errs, validateDeviceTaints(d.Taints, at.Child("taints"))...)
	errs = append(errs, validateConditionTypes(d.BindingConditions, resourcev1.BindingConditionsMaxSize, at.Child("bindingConditions"))...)
	errs = append(errs, validateConditionTypes(d.BindingFailureConditions, resourcev1.BindingFailureConditionsMaxSize, at.Child("bindingFailureConditions"))...)
	if len(d.BindingConditions) == 0 && len(d.BindingFailureConditions) > 0 {
		errs = append(errs, field.Required(at.Child("bindingConditions"), "bindingConditions are required to use bindingFailureConditions"))
	}
	return errs
}

func validateConditionTypes(types []string, most int, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(types) > most {
		errs = append(errs, field.TooMany(at, len(types), most))
	}
	for i, name := range types {
		errs = append(errs, check.Needed(at.Index(i), name, validation.IsQualifiedName)...)
	}
	return append(errs, check.Unique(at, types, func(name string) string { return name }, "")...)
}

// deviceID is an identifier as C knows it.
var deviceID = regexp.MustCompile("^[a-zA-Z_][a-zA-Z0-9_]*$")

// validateDeviceName checks the name of an attribute or capacity: an identifier, with or without a domain before it.
func validateDeviceName(name resourcev1.QualifiedName, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	id := string(name)
	if domain, rest, qualified := strings.Cut(id, "/"); qualified {
		id = rest
		errs = append(errs, check.Needed(at, domain, validation.IsDNS1123Subdomain)...)
		if len(domain) > resourcev1.DeviceMaxDomainLength {
			errs = append(errs, field.TooLong(at, "", resourcev1.DeviceMaxDomainLength))
		}
	}
	switch {
	case id == "":
		errs = append(errs, field.Required(at, "the name must not be empty"))
	case len(id) > resourcev1.DeviceMaxIDLength:
		errs = append(errs, field.TooLong(at, "", resourcev1.DeviceMaxIDLength))
	case !deviceID.MatchString(id):
		errs = append(errs, field.Invalid(at, id, "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'"))
	}
	return errs
}

func validateAttributes(attributes map[resourcev1.QualifiedName]resourcev1.DeviceAttribute, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	values := 0
	for name, a := range attributes {
		at := at.Key(string(name))
		errs = append(errs, validateDeviceName(name, at)...)
		errs = append(errs, validateAttribute(&a, at)...)
		values += max(1, len(a.IntValues)+len(a.BoolValues)+len(a.StringValues)+len(a.VersionValues))
	}
	if values > resourcev1.ResourceSliceMaxAttributeValuesPerDevice {
		errs = append(errs, field.Invalid(at, values, fmt.Sprintf("the total number of attribute values must not exceed %d", resourcev1.ResourceSliceMaxAttributeValuesPerDevice)))
	}
	return errs
}

func validateAttribute(a *resourcev1.DeviceAttribute, at *field.Path) field.ErrorList {
	set := 0
	for _, one := range []bool{a.IntValue != nil, a.BoolValue != nil, a.StringValue != nil, a.VersionValue != nil, len(a.IntValues) > 0, len(a.BoolValues) > 0, len(a.StringValues) > 0, len(a.VersionValues) > 0} {
		if one {
			set++
		}
	}
	if set != 1 {
		return field.ErrorList{field.Invalid(at, "<value omitted>", "exactly one value must be specified")}
	}
	var errs field.ErrorList
	texts := func(at *field.Path, isVersion bool, values ...string) {
		for _, value := range values {
			if len(value) > resourcev1.DeviceAttributeMaxValueLength {
				errs = append(errs, field.TooLong(at, "", resourcev1.DeviceAttributeMaxValueLength))
			} else if _, err := version.ParseSemantic(value); isVersion && (err != nil || strings.HasPrefix(value, "v")) {
				errs = append(errs, field.Invalid(at, value, "must be a string compatible with semver.org spec 2.0.0"))
			}
		}
	}
	if a.StringValue != nil {
		texts(at.Child("string"), false, *a.StringValue)
	}
	if a.VersionValue != nil {
		texts(at.Child("version"), true, *a.VersionValue)
	}
	texts(at.Child("strings"), false, a.StringValues...)
	texts(at.Child("versions"), true, a.VersionValues...)
	return errs
}

// validateDeviceCapacity checks in which amounts a shared device gives of what it has.
func validateDeviceCapacity(c *resourcev1.DeviceCapacity, shared bool, at *field.Path) field.ErrorList {
	errs := quantityNotNegative(at.Child("value"), &c.Value)
	policy := c.RequestPolicy
	if policy == nil {
		return errs
	}
	at = at.Child("requestPolicy")
	if !shared {
		errs = append(errs, field.Forbidden(at, "allowMultipleAllocations must be true"))
	}
	byValues, byRange := len(policy.ValidValues) > 0, policy.ValidRange != nil
	switch {
	case byValues && byRange:
		return append(errs, field.Forbidden(at, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`))
	case (byValues || byRange) && policy.Default == nil:
		return append(errs, field.Required(at.Child("default"), "required when validValues or validRange is defined"))
	case byValues:
		return append(errs, validateAmounts(policy, c, at)...)
	case byRange:
		return append(errs, validateAmountRange(policy, c, at)...)
	case policy.Default != nil && policy.Default.Cmp(c.Value) > 0:
		return append(errs, field.Invalid(at.Child("default"), policy.Default.String(), "default is larger than capacity value "+c.Value.String()))
	}
	return errs
}

func validateAmounts(policy *resourcev1.CapacityRequestPolicy, c *resourcev1.DeviceCapacity, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	values := at.Child("validValues")
	if count := len(policy.ValidValues); count > mostValidValues {
		errs = append(errs, field.TooMany(values, count, mostValidValues))
	}
	defaulted := false
	for i, value := range policy.ValidValues {
		defaulted = defaulted || value.Cmp(*policy.Default) == 0
		if value.Cmp(c.Value) > 0 {
			errs = append(errs, field.Invalid(values.Index(i), value.String(), "option is larger than capacity value "+c.Value.String()))
		}
		if i > 0 && value.Cmp(policy.ValidValues[i-1]) <= 0 {
			errs = append(errs, field.Invalid(values.Index(i), value.String(), "values must be sorted in ascending order"))
		}
	}
	if !defaulted {
		errs = append(errs, field.Invalid(at.Child("default"), policy.Default.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func validateAmountRange(policy *resourcev1.CapacityRequestPolicy, c *resourcev1.DeviceCapacity, at *field.Path) field.ErrorList {
	r, within := policy.ValidRange, at.Child("validRange")
	if r.Min == nil {
		return field.ErrorList{field.Required(within.Child("min"), "required when validRange is defined")}
	}
	errs := quantityNotNegative(within.Child("min"), r.Min)
	most := c.Value
	if r.Max != nil {
		if r.Max.Cmp(c.Value) > 0 {
			errs = append(errs, field.Invalid(within.Child("max"), r.Max.String(), "max is larger than capacity value "+c.Value.String()))
		}
		most = *r.Max
	}
	if r.Min.Cmp(most) > 0 {
		errs = append(errs, field.Invalid(within.Child("min"), r.Min.String(), "min is larger than "+most.String()))
	}
	if policy.Default.Cmp(*r.Min) < 0 || policy.Default.Cmp(most) > 0 {
		errs = append(errs, field.Invalid(at.Child("default"), policy.Default.String(), "default is not within the valid range"))
	}
	if r.Step == nil {
		return errs
	}
	step := r.Step.Value()
	if step <= 0 {
		return append(errs, field.Invalid(within.Child("step"), r.Step.String(), "must be greater than 0"))
	}
	if (policy.Default.Value()-r.Min.Value())%step != 0 {
		errs = append(errs, field.Invalid(at.Child("default"), policy.Default.String(), "default is not a multiple of the step "+r.Step.String()))
	}
	if r.Max != nil && (r.Max.Value()-r.Min.Value())%step != 0 {
		errs = append(errs, field.Invalid(within.Child("max"), r.Max.String(), "max is not a multiple of the step "+r.Step.String()))
	}
	if r.Min.Value()+step > c.Value.Value() {
		errs = append(errs, field.Invalid(within.Child("step"), r.Step.String(), "one step from min is larger than capacity value "+c.Value.String()))
	}
	return errs
}

func validateConsumption(consumption []resourcev1.DeviceCounterConsumption, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if count := len(consumption); count > resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice {
		errs = append(errs, field.TooMany(at, count, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice))
	}
	for i, c := range consumption {
		errs = append(errs, check.Needed(at.Index(i).Child("counterSet"), c.CounterSet, validation.IsDNS1123Label)...)
		errs = append(errs, validateCounters(c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, at.Index(i).Child("counters"))...)
	}
	return append(errs, check.Unique(at, consumption, func(c resourcev1.DeviceCounterConsumption) string { return c.CounterSet }, "counterSet")...)
}

func validateDeviceTaints(taints []resourcev1.DeviceTaint, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if count := len(taints); count > resourcev1.DeviceTaintsMaxLength {
		errs = append(errs, field.TooMany(at, count, resourcev1.DeviceTaintsMaxLength))
	}
	for i := range taints {
		errs = append(errs, validateDeviceTaint(&taints[i], at.Index(i))...)
	}
	return errs
}

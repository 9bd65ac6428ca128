package kinds

import (
	"context"
	"encoding/json"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// DeviceClass says which devices claims may get by its name, and how those are set up.
var DeviceClass = resource.Hooks[*resourcev1.DeviceClass]{
	Validate: always(func(c *resourcev1.DeviceClass) field.ErrorList { return validateDeviceClass(c, nil) }),
	ValidateUpdate: func(_ context.Context, c, old *resourcev1.DeviceClass) field.ErrorList {
		known := map[string]bool{}
		for _, selector := range old.Spec.Selectors {
			if selector.CEL != nil {
				known[selector.CEL.Expression] = true
			}
		}
		return validateDeviceClass(c, known)
	},
}

func validateDeviceClass(c *resourcev1.DeviceClass, known map[string]bool) field.ErrorList {
	errs := validateDeviceSelectors(c.Spec.Selectors, specPath.Child("selectors"), known)
	config := specPath.Child("config")
	if count := len(c.Spec.Config); count > resourcev1.DeviceConfigMaxSize {
		errs = append(errs, field.TooMany(config, count, resourcev1.DeviceConfigMaxSize))
	}
	for i := range c.Spec.Config {
		errs = append(errs, validateDeviceConfiguration(&c.Spec.Config[i].DeviceConfiguration, config.Index(i))...)
	}
	if name := c.Spec.ExtendedResourceName; name != nil {
		errs = append(errs, validateExtendedResource(*name, specPath.Child("extendedResourceName"))...)
	}
	return errs
}

// deviceFeatures are those of the version of Kubernetes this API is of, as they are by default.
var deviceFeatures = dracel.Features{EnableConsumableCapacity: true}

func validateDeviceSelectors(selectors []resourcev1.DeviceSelector, at *field.Path, known map[string]bool) field.ErrorList {
	var errs field.ErrorList
	if count := len(selectors); count > resourcev1.DeviceSelectorsMaxSize {
		errs = append(errs, field.TooMany(at, count, resourcev1.DeviceSelectorsMaxSize))
	}
	for i, selector := range selectors {
		cel := at.Index(i).Child("cel")
		switch {
		case selector.CEL == nil:
			errs = append(errs, field.Required(cel, ""))
		case selector.CEL.Expression == "":
			errs = append(errs, field.Required(cel.Child("expression"), ""))
		case len(selector.CEL.Expression) > resourcev1.CELSelectorExpressionMaxLength:
			errs = append(errs, field.TooLong(cel.Child("expression"), "", resourcev1.CELSelectorExpressionMaxLength))
		default:
			errs = append(errs, compileDeviceSelector(selector.CEL.Expression, known[selector.CEL.Expression], cel.Child("expression"))...)
		}
	}
	return errs
}

// compileDeviceSelector refuses what the scheduler could not evaluate, or not in time.
func compileDeviceSelector(expression string, known bool, at *field.Path) field.ErrorList {
	mode := environment.NewExpressions
	if known { // see expressions
		mode = environment.StoredExpressions
	}
	result := dracel.GetCompiler(deviceFeatures).CompileCELExpression(expression, dracel.Options{EnvType: &mode})
	switch {
	case result.Error != nil && result.Error.Type == apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(at, result.Error.Detail)}
	case result.Error != nil:
		return field.ErrorList{field.Invalid(at, expression, result.Error.Detail)}
	case result.MaxCost > resourcev1.CELSelectorExpressionMaxCost:
		return field.ErrorList{field.Forbidden(at, "too complex, exceeds cost limit")}
	}
	return nil
}

func validateDeviceConfiguration(c *resourcev1.DeviceConfiguration, at *field.Path) field.ErrorList {
	at = at.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validateDriverName(c.Opaque.Driver, at.Child("driver"))
	var object map[string]any
	parameters := at.Child("parameters")
	switch raw := c.Opaque.Parameters.Raw; {
	case len(raw) == 0:
		errs = append(errs, field.Required(parameters, ""))
	case len(raw) > resourcev1.OpaqueParametersMaxLength:
		errs = append(errs, field.TooLong(parameters, "", resourcev1.OpaqueParametersMaxLength))
	case json.Unmarshal(raw, &object) != nil:
		errs = append(errs, field.Invalid(parameters, "<value omitted>", "parameters must be a valid JSON object"))
	}
	return errs
}

// validateExtendedResource wants a name that containers can ask for and that is not Kubernetes' own.
func validateExtendedResource(name string, at *field.Path) field.ErrorList {
	domain, _, qualified := strings.Cut(name, "/")
	if !qualified || domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || strings.HasPrefix(name, "requests.") {
		return field.ErrorList{field.Invalid(at, name, "must be the name of an extended resource, such as example.com/device, outside of kubernetes.io")}
	}
	// A quota counts it with this prefix, which has to fit as well.
	return check.Text(at, "requests."+name, validation.IsQualifiedName)
}

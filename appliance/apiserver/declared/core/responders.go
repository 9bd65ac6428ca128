package core

import (
	"context"
	"strings"

	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateCustom_EvictionResponder_Name is called by the generated rules.
func ValidateCustom_EvictionResponder_Name(_ context.Context, _ operation.Operation, at *field.Path, name, _ *string) field.ErrorList {
	domain, _, _ := strings.Cut(*name, "/")
	for _, reserved := range []string{"k8s.io", "kubernetes.io"} {
		if domain == reserved || strings.HasSuffix(domain, "."+reserved) {
			return field.ErrorList{field.Invalid(at, *name, "domain names *.k8s.io and *.kubernetes.io are reserved")}
		}
	}
	return nil
}

// reservedPriorities are below this number.
const reservedPriorities = 1000

// ValidateCustom_EvictionResponder_Priority is called by the generated rules. The low priorities belong to responders
// of domains that nobody may name.
func ValidateCustom_EvictionResponder_Priority(_ context.Context, _ operation.Operation, at *field.Path, priority, _ *int32) field.ErrorList {
	if priority != nil && *priority < reservedPriorities {
		return field.ErrorList{field.Invalid(at, *priority, "priorities from 0 to 999 are reserved for responders of *.k8s.io")}
	}
	return nil
}

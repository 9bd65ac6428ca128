// Package meta holds the rules that types every group shares declare: conditions above all.
//
// In:       the +k8s: markers of k8s.io/apimachinery/pkg/apis/meta/v1, at the version in go.mod.
// Out:      functions the rules of the groups call, generated and committed (make generate).
// Promise:  what a marker says is checked; see declared.
// Not here: an object's own metadata, which k8s.io/apiserver checks.
//
// +k8s:validation-gen=TypesWithField=TypeMeta
// +k8s:validation-gen-input=k8s.io/apimachinery/pkg/apis/meta/v1
// +k8s:validation-gen-scheme-registry=nil
package meta

import (
	"context"

	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateCustom_Condition_LastTransitionTime is called by the generated rules.
func ValidateCustom_Condition_LastTransitionTime(ctx context.Context, op operation.Operation, at *field.Path, moment, old *metav1.Time) field.ErrorList {
	return validation.ValidateCustom_Condition_LastTransitionTime(ctx, op, at, moment, old)
}

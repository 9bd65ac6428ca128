// Package declared checks what the types of k8s.io/api declare about themselves in their +k8s: markers.
//
// In:       objects as they would be stored, and as they are; the rules generated from the markers.
// Out:      Check: what they find wrong and the hand-written rules of kinds did not.
// Promise:  a marker upstream enforces (all but the alpha ones) is enforced here, on create and on update, where an
//
//	unchanged value passes; a test fails when go.mod moved on and the generated rules did not.
//
// Not here: rules that no marker says (kinds).
package declared

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/declared/admissionregistration"
	"knarr.dev/knarr/appliance/apiserver/declared/apps"
	"knarr.dev/knarr/appliance/apiserver/declared/authorization"
	"knarr.dev/knarr/appliance/apiserver/declared/autoscaling"
	"knarr.dev/knarr/appliance/apiserver/declared/batch"
	"knarr.dev/knarr/appliance/apiserver/declared/certificates"
	"knarr.dev/knarr/appliance/apiserver/declared/coordination"
	"knarr.dev/knarr/appliance/apiserver/declared/core"
	"knarr.dev/knarr/appliance/apiserver/declared/discovery"
	"knarr.dev/knarr/appliance/apiserver/declared/flowcontrol"
	"knarr.dev/knarr/appliance/apiserver/declared/networking"
	"knarr.dev/knarr/appliance/apiserver/declared/node"
	"knarr.dev/knarr/appliance/apiserver/declared/policy"
	"knarr.dev/knarr/appliance/apiserver/declared/rbac"
	"knarr.dev/knarr/appliance/apiserver/declared/resource"
	"knarr.dev/knarr/appliance/apiserver/declared/scheduling"
	"knarr.dev/knarr/appliance/apiserver/declared/storage"
	"knarr.dev/knarr/appliance/apiserver/declared/storagemigration"
)

//go:generate go tool validation-gen --output-file zz_generated.validations.go --go-header-file ../openapi/header.txt --readonly-pkg k8s.io/api/scheduling/v1alpha3,k8s.io/apimachinery/pkg/api/resource,k8s.io/apimachinery/pkg/conversion,k8s.io/apimachinery/pkg/runtime,k8s.io/apimachinery/pkg/runtime/schema,k8s.io/apimachinery/pkg/types,k8s.io/apimachinery/pkg/util/intstr,time ./admissionregistration ./apps ./authorization ./autoscaling ./batch ./certificates ./coordination ./core ./discovery ./flowcontrol ./meta ./networking ./node ./policy ./rbac ./resource ./scheduling ./storage ./storagemigration

// AddToScheme registers the rules of every type.
func AddToScheme(s *runtime.Scheme) error {
	for _, add := range []func(*runtime.Scheme) error{
		admissionregistration.AddToScheme, apps.AddToScheme, authorization.AddToScheme,
		autoscaling.AddToScheme, batch.AddToScheme, certificates.AddToScheme, coordination.AddToScheme, core.AddToScheme,
		discovery.AddToScheme, flowcontrol.AddToScheme, networking.AddToScheme, node.AddToScheme, policy.AddToScheme,
		rbac.AddToScheme, resource.AddToScheme, scheduling.AddToScheme, storage.AddToScheme, storagemigration.AddToScheme,
	} {
		if err := add(s); err != nil {
			return fmt.Errorf("register declared rules: %w", err)
		}
	}
	return nil
}

// options are what rules ask for that hold only where a feature is on. Autoscalers may scale to zero here; the others
// are alpha, and off.
var options = map[string]bool{
	"DRAPartitionableDevicesType":                  false,
	"HPAScaleToZero":                               true,
	"InPlacePodVerticalScalingSchedulerPreemption": false,
	"WorkloadWithJob":                              false,
}

// Check adds to what the hand-written rules found. Old is nil on creation. A write of a part, such as status, is
// checked as a whole: all the rest is unchanged, and passes.
func Check(ctx context.Context, s *runtime.Scheme, obj, old runtime.Object, found field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	if old == nil {
		errs = s.Validate(ctx, options, obj)
	} else {
		errs = s.ValidateUpdate(ctx, options, obj, old)
	}
	return merge(found, validate.FilterEnforcedDeclarativeErrors(ctx, errs, true))
}

// merge leaves out what is said already: of a field, the same kind of thing is wrong once.
func merge(found, more field.ErrorList) field.ErrorList {
	type place struct {
		what  field.ErrorType
		where string
	}
	said := map[place]bool{}
	for _, err := range found {
		said[place{err.Type, err.Field}] = true
	}
	for _, err := range more {
		if !said[place{err.Type, err.Field}] {
			found = append(found, err)
		}
	}
	return found
}

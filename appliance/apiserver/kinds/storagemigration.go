package kinds

import (
	"context"
	"strconv"

	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// StorageVersionMigration rewrites all objects of a resource. Which one never changes, and what ended stays ended.
var StorageVersionMigration = resource.Hooks[*storagemigrationv1.StorageVersionMigration]{
	NeedResourceVersion: true,
	Validate: always(func(m *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		at := specPath.Child("resource")
		errs := check.Needed(at.Child("resource"), m.Spec.Resource.Resource, check.Subdomain)
		if group := m.Spec.Resource.Group; group != "" { // the core group has no name
			errs = append(errs, check.Text(at.Child("group"), group, check.Subdomain)...)
		}
		return errs
	}),
	ValidateUpdate: func(_ context.Context, m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		return check.Unchanged(specPath, m.Spec, old.Spec)
	},
	ValidateStatus: func(_ context.Context, m, old *storagemigrationv1.StorageVersionMigration) field.ErrorList {
		return validateMigrationStatus(&m.Status, &old.Status)
	},
}

func validateMigrationStatus(s, old *storagemigrationv1.StorageVersionMigrationStatus) field.ErrorList {
	conditions := statusPath.Child("conditions")
	errs := metavalidation.ValidateConditions(s.Conditions, conditions)
	is := func(s *storagemigrationv1.StorageVersionMigrationStatus, kind storagemigrationv1.MigrationConditionType) bool {
		return apimeta.IsStatusConditionTrue(s.Conditions, string(kind))
	}
	running, succeeded, failed := is(s, storagemigrationv1.MigrationRunning), is(s, storagemigrationv1.MigrationSucceeded), is(s, storagemigrationv1.MigrationFailed)
	if succeeded && failed {
		errs = append(errs, field.Invalid(conditions, s.Conditions, "Both success and failed conditions cannot be true at the same time"))
	}
	if running && (succeeded || failed) {
		errs = append(errs, field.Invalid(conditions, s.Conditions, "Running condition cannot be true when succeeded condition or failed condition is true"))
	}
	if is(old, storagemigrationv1.MigrationSucceeded) && !succeeded {
		errs = append(errs, field.Invalid(conditions, s.Conditions, "Success condition cannot be set to false once it is true"))
	}
	if is(old, storagemigrationv1.MigrationFailed) && !failed {
		errs = append(errs, field.Invalid(conditions, s.Conditions, "Failed condition cannot be set to false once it is true"))
	}
	at := statusPath.Child("resourceVersion")
	if old.ResourceVersion != "" {
		return append(errs, check.Unchanged(at, s.ResourceVersion, old.ResourceVersion)...)
	}
	if s.ResourceVersion != "" {
		if _, err := strconv.ParseUint(s.ResourceVersion, 10, 64); err != nil {
			errs = append(errs, field.Invalid(at, s.ResourceVersion, "resource version must be a number"))
		}
	}
	return errs
}

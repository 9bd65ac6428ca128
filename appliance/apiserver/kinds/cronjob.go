package kinds

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// maxCronName leaves room for the eleven characters that a job's name adds.
const maxCronName = 63 - 11

// CronJob makes jobs by the clock.
var CronJob = resource.Hooks[*batchv1.CronJob]{
	Warnings: hints(cronJobHints),
	Validate: always(func(c *batchv1.CronJob) field.ErrorList {
		errs := validateCronJob(c)
		if len(c.Name) > maxCronName {
			errs = append(errs, field.Invalid(metaPath.Child("name"), c.Name, fmt.Sprintf("must be no more than %d characters", maxCronName)))
		}
		return errs
	}),
	ValidateUpdate: onUpdate(validateCronJob, func(_, _ *batchv1.CronJob) field.ErrorList { return nil }),
	ValidateName:   apivalidation.NameIsDNSSubdomain,
}

func defaultCronJob(c *batchv1.CronJob) {
	podspec.DefaultTemplate(&c.Spec.JobTemplate.Spec.Template)
	set.Default(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	set.Pointer(&c.Spec.Suspend, false)
	set.Pointer(&c.Spec.SuccessfulJobsHistoryLimit, int32(3))
	set.Pointer(&c.Spec.FailedJobsHistoryLimit, int32(1))
}

func validateCronJob(c *batchv1.CronJob) field.ErrorList {
	var errs field.ErrorList
	at := specPath.Child("schedule")
	switch {
	case c.Spec.Schedule == "":
		errs = append(errs, field.Required(at, ""))
	case strings.Contains(c.Spec.Schedule, "TZ="):
		errs = append(errs, field.Invalid(at, c.Spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	default:
		if problem := scheduleProblem(c.Spec.Schedule); problem != "" {
			errs = append(errs, field.Invalid(at, c.Spec.Schedule, problem))
		}
	}
	if zone := c.Spec.TimeZone; zone != nil {
		at := specPath.Child("timeZone")
		switch {
		case *zone == "":
			errs = append(errs, field.Invalid(at, *zone, "timeZone must be nil or non-empty string"))
		case strings.EqualFold(*zone, "Local"):
			errs = append(errs, field.Invalid(at, *zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
		default:
			if _, err := time.LoadLocation(*zone); err != nil {
				errs = append(errs, field.Invalid(at, *zone, err.Error()))
			}
		}
	}
	errs = append(errs, check.NotNegativeOptional(specPath.Child("startingDeadlineSeconds"), c.Spec.StartingDeadlineSeconds)...)
	errs = append(errs, check.OneOf(specPath.Child("concurrencyPolicy"), c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	errs = append(errs, check.NotNegativeOptional(specPath.Child("successfulJobsHistoryLimit"), c.Spec.SuccessfulJobsHistoryLimit)...)
	errs = append(errs, check.NotNegativeOptional(specPath.Child("failedJobsHistoryLimit"), c.Spec.FailedJobsHistoryLimit)...)
	template := specPath.Child("jobTemplate", "spec")
	if c.Spec.JobTemplate.Spec.ManualSelector != nil && *c.Spec.JobTemplate.Spec.ManualSelector {
		errs = append(errs, field.NotSupported(template.Child("manualSelector"), "true", []string{"nil", "false"}))
	}
	if c.Spec.JobTemplate.Spec.Selector != nil {
		errs = append(errs, field.Invalid(template.Child("selector"), c.Spec.JobTemplate.Spec.Selector, "`selector` will be auto-generated"))
	}
	return append(errs, validateJobSpec(&c.Spec.JobTemplate.Spec, template)...)
}

// scheduleProblem says what is wrong with a schedule; "" is nothing. The controller reads it with the same library.
func scheduleProblem(schedule string) string {
	if _, err := cron.ParseStandard(schedule); err != nil {
		return err.Error()
	}
	return ""
}

package kinds

import (
	"fmt"
	"strconv"
	"strings"
	"time"

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
	switch problem := scheduleProblem(c.Spec.Schedule); {
	case c.Spec.Schedule == "":
		errs = append(errs, field.Required(at, ""))
	case strings.Contains(c.Spec.Schedule, "TZ="):
		errs = append(errs, field.Invalid(at, c.Spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case problem != "":
		errs = append(errs, field.Invalid(at, c.Spec.Schedule, problem))
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

// cronFields are the places of a schedule with their bounds and names.
var cronFields = []struct {
	name     string
	min, max int
	names    []string
}{
	{"minute", 0, 59, nil},
	{"hour", 0, 23, nil},
	{"day of month", 1, 31, nil},
	{"month", 1, 12, []string{"jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"}},
	{"day of week", 0, 6, []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}},
}

// scheduleProblem says what is wrong with a schedule in the format of cron; "" is nothing.
func scheduleProblem(schedule string) string {
	if every, found := strings.CutPrefix(schedule, "@every "); found {
		if _, err := time.ParseDuration(every); err != nil {
			return fmt.Sprintf("failed to parse duration %s: %v", schedule, err)
		}
		return ""
	}
	if strings.HasPrefix(schedule, "@") {
		switch schedule {
		case "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly":
			return ""
		}
		return fmt.Sprintf("unrecognized descriptor: %s", schedule)
	}
	places := strings.Fields(schedule)
	if len(places) != len(cronFields) {
		return fmt.Sprintf("expected exactly %d fields, found %d: %v", len(cronFields), len(places), places)
	}
	for i, place := range places {
		for _, part := range strings.Split(place, ",") {
			if problem := rangeProblem(part, i); problem != "" {
				return problem
			}
		}
	}
	return ""
}

// rangeProblem looks at one of "*", "5", "1-5", "*/2", "1-5/2", "mon-fri".
func rangeProblem(expression string, at int) string {
	place := cronFields[at]
	span, step, stepped := strings.Cut(expression, "/")
	if stepped {
		if n, err := strconv.Atoi(step); err != nil || n <= 0 {
			return fmt.Sprintf("step of range should be a positive number: %s", expression)
		}
	}
	if span == "*" || span == "?" {
		return ""
	}
	first, last, ranged := strings.Cut(span, "-")
	if !ranged {
		last = first
	}
	var bounds [2]int
	for i, text := range []string{first, last} {
		number, err := strconv.Atoi(text)
		for j, name := range place.names {
			if strings.EqualFold(text, name) {
				number, err = place.min+j, nil
			}
		}
		if err != nil {
			return fmt.Sprintf("failed to parse %s from %s: %s is neither a number nor a name", place.name, expression, text)
		}
		if number < place.min || number > place.max {
			return fmt.Sprintf("%s %d is out of range (%d-%d): %s", place.name, number, place.min, place.max, expression)
		}
		bounds[i] = number
	}
	if bounds[0] > bounds[1] {
		return fmt.Sprintf("beginning of range (%d) beyond end of range (%d): %s", bounds[0], bounds[1], expression)
	}
	return ""
}

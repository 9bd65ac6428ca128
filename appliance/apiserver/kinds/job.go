package kinds

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// maxManagedBy is how long the name of a job's controller may be.
const maxManagedBy = 63

// maxPolicyRules bounds the rules of one policy.
const maxPolicyRules = 20

// maxIndexedParallelism keeps the status of an indexed job small enough for one object.
const maxIndexedParallelism = 100000

// Job selects its pods by its own UID unless its author takes that over.
var Job = resource.Hooks[*batchv1.Job]{
	Warnings: hints(jobHints),
	PrepareCreate: func(_ context.Context, job *batchv1.Job) {
		job.Status = batchv1.JobStatus{}
		selectOwnPods(job)
	},
	Validate:       always(validateJob),
	ValidateUpdate: onUpdate(validateJob, jobStays),
	ValidateStatus: func(_ context.Context, job, old *batchv1.Job) field.ErrorList { return validateJobStatus(job, old) },
	Fields: func(job *batchv1.Job) fields.Set {
		return fields.Set{"status.successful": strconv.Itoa(int(job.Status.Succeeded))}
	},
}

func defaultJob(job *batchv1.Job) {
	spec := &job.Spec
	podspec.DefaultTemplate(&spec.Template)
	if spec.Completions == nil && spec.Parallelism == nil {
		spec.Completions = ptr.To[int32](1)
	}
	set.Pointer(&spec.Parallelism, int32(1))
	if spec.BackoffLimitPerIndex != nil {
		set.Pointer(&spec.BackoffLimit, int32(math.MaxInt32))
	}
	set.Pointer(&spec.BackoffLimit, int32(6))
	if len(job.Labels) == 0 {
		job.Labels = maps.Clone(spec.Template.Labels)
	}
	set.Pointer(&spec.CompletionMode, batchv1.NonIndexedCompletion)
	set.Pointer(&spec.Suspend, false)
	if spec.PodFailurePolicy != nil {
		for _, rule := range spec.PodFailurePolicy.Rules {
			for i := range rule.OnPodConditions {
				set.Default(&rule.OnPodConditions[i].Status, corev1.ConditionTrue)
			}
		}
		set.Pointer(&spec.PodReplacementPolicy, batchv1.Failed)
	}
	set.Pointer(&spec.PodReplacementPolicy, batchv1.TerminatingOrFailed)
}

// The labels a job puts on its pods: those before the prefix existed, and those with it.
const (
	legacyControllerUID = "controller-uid"
	legacyJobName       = "job-name"
)

func selectOwnPods(job *batchv1.Job) {
	if ptr.Deref(job.Spec.ManualSelector, false) {
		return
	}
	if job.Spec.Template.Labels == nil {
		job.Spec.Template.Labels = map[string]string{}
	}
	for key, value := range map[string]string{
		legacyJobName: job.Name, legacyControllerUID: string(job.UID),
		batchv1.JobNameLabel: job.Name, batchv1.ControllerUidLabel: string(job.UID),
	} {
		// A value of another job is the author's mistake, and validation's to report.
		if _, taken := job.Spec.Template.Labels[key]; !taken {
			job.Spec.Template.Labels[key] = value
		}
	}
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, taken := job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !taken {
		job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(job.UID)
	}
}

func validateJob(job *batchv1.Job) field.ErrorList {
	errs := validateJobSpec(&job.Spec, specPath)
	if job.Spec.Selector == nil {
		return append(errs, field.Required(specPath.Child("selector"), ""))
	}
	errs = append(errs, selects(job.Spec.Selector, job.Spec.Template.Labels, "job")...)
	if !ptr.Deref(job.Spec.ManualSelector, false) && job.UID != "" {
		at := specPath.Child("template", "metadata", "labels")
		for _, key := range []string{batchv1.ControllerUidLabel, legacyControllerUID} {
			if value, found := job.Spec.Template.Labels[key]; found && value != string(job.UID) {
				errs = append(errs, field.Invalid(at, job.Spec.Template.Labels, "must be '"+string(job.UID)+"'"))
			}
		}
	}
	return errs
}

// validateJobSpec is shared with the templates of cron jobs, which have no defaults and no selector yet.
func validateJobSpec(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, number := range []struct {
		name  string
		value *int32
	}{
		{"parallelism", spec.Parallelism}, {"completions", spec.Completions}, {"backoffLimit", spec.BackoffLimit},
		{"ttlSecondsAfterFinished", spec.TTLSecondsAfterFinished}, {"backoffLimitPerIndex", spec.BackoffLimitPerIndex}, {"maxFailedIndexes", spec.MaxFailedIndexes},
	} {
		errs = append(errs, check.NotNegativeOptional(path.Child(number.name), number.value)...)
	}
	errs = append(errs, check.NotNegativeOptional(path.Child("activeDeadlineSeconds"), spec.ActiveDeadlineSeconds)...)
	errs = append(errs, check.OneOfOptional(path.Child("completionMode"), spec.CompletionMode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	errs = append(errs, check.OneOfOptional(path.Child("podReplacementPolicy"), spec.PodReplacementPolicy, batchv1.Failed, batchv1.TerminatingOrFailed)...)
	indexed := ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
	if indexed {
		if spec.Completions == nil {
			errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
		}
		if p := ptr.Deref(spec.Parallelism, 0); p > maxIndexedParallelism {
			errs = append(errs, field.Invalid(path.Child("parallelism"), p, "must be less than or equal to 100000 when completion mode is Indexed"))
		}
	} else if spec.BackoffLimitPerIndex != nil {
		errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *spec.BackoffLimitPerIndex, "requires indexed completion mode"))
	}
	if spec.MaxFailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if most := spec.MaxFailedIndexes; most != nil && spec.Completions != nil && *most > *spec.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *most, "must be less than or equal to completions"))
	}
	errs = append(errs, validateFailurePolicy(spec, path.Child("podFailurePolicy"))...)
	errs = append(errs, validateSuccessPolicy(spec, indexed, path.Child("successPolicy"))...)
	if by := spec.ManagedBy; by != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *by)...)
		if len(*by) > maxManagedBy {
			errs = append(errs, field.TooLongMaxLength(path.Child("managedBy"), *by, maxManagedBy))
		}
	}
	if policy := spec.PodReplacementPolicy; policy != nil && spec.PodFailurePolicy != nil && *policy != batchv1.Failed {
		errs = append(errs, field.NotSupported(path.Child("podReplacementPolicy"), *policy, []batchv1.PodReplacementPolicy{batchv1.Failed}))
	}

	template := path.Child("template")
	errs = append(errs, podspec.ValidateTemplate(&spec.Template, template)...)
	switch policy := spec.Template.Spec.RestartPolicy; {
	case policy == "" || policy == corev1.RestartPolicyAlways:
		errs = append(errs, field.Required(template.Child("spec", "restartPolicy"), `valid values: "OnFailure", "Never"`))
	case policy != corev1.RestartPolicyOnFailure && policy != corev1.RestartPolicyNever:
		errs = append(errs, field.NotSupported(template.Child("spec", "restartPolicy"), policy, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case spec.PodFailurePolicy != nil && policy != corev1.RestartPolicyNever:
		errs = append(errs, field.Invalid(template.Child("spec", "restartPolicy"), policy, "only \"Never\" is supported when podFailurePolicy is specified"))
	}
	return errs
}

func validateFailurePolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if spec.PodFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	if n := len(spec.PodFailurePolicy.Rules); n > maxPolicyRules {
		errs = append(errs, field.TooMany(path.Child("rules"), n, maxPolicyRules))
	}
	for i, rule := range spec.PodFailurePolicy.Rules {
		at := path.Child("rules").Index(i)
		errs = append(errs, check.OneOf(at.Child("action"), rule.Action, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)...)
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && spec.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Invalid(at.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set"))
		}
		if (rule.OnExitCodes == nil) == (len(rule.OnPodConditions) == 0) {
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
		}
		if codes := rule.OnExitCodes; codes != nil {
			errs = append(errs, check.OneOf(at.Child("onExitCodes", "operator"), codes.Operator, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)...)
			if len(codes.Values) == 0 {
				errs = append(errs, field.Invalid(at.Child("onExitCodes", "values"), codes.Values, "at least one value is required"))
			}
		}
	}
	return errs
}

func validateSuccessPolicy(spec *batchv1.JobSpec, indexed bool, path *field.Path) field.ErrorList {
	if spec.SuccessPolicy == nil {
		return nil
	}
	var errs field.ErrorList
	if !indexed {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "requires indexed completion mode"))
	}
	rules := path.Child("rules")
	switch n := len(spec.SuccessPolicy.Rules); {
	case n == 0:
		errs = append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	case n > maxPolicyRules:
		errs = append(errs, field.TooMany(rules, n, maxPolicyRules))
	}
	completions := ptr.Deref(spec.Completions, 0)
	for i, rule := range spec.SuccessPolicy.Rules {
		at := rules.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			errs = append(errs, field.Required(at, "at least one of succeededCount or succeededIndexes must be specified"))
		}
		total := completions
		if text := rule.SucceededIndexes; text != nil {
			n, problem := countIndexes(*text, completions)
			if problem != "" {
				errs = append(errs, field.Invalid(at.Child("succeededIndexes"), *text, "error parsing succeededIndexes: "+problem))
				continue
			}
			total = n
		}
		if count := rule.SucceededCount; count != nil {
			errs = append(errs, check.Positive(at.Child("succeededCount"), *count)...)
			if *count > total {
				errs = append(errs, field.Invalid(at.Child("succeededCount"), *count, fmt.Sprintf("must be less than or equal to %d (the number of indexes)", total)))
			}
		}
	}
	return errs
}

// indexRange is from the first to the last index, both included.
type indexRange struct{ first, last int64 }

// countIndexes counts the indexes of "1,3-5,7", or says what is wrong.
func countIndexes(text string, completions int32) (n int32, problem string) {
	ranges, problem := readIndexes(text, completions)
	for _, r := range ranges {
		n += int32(r.last - r.first + 1)
	}
	return n, problem
}

// readIndexes reads "1,3-5,7": indexes have to grow and to be below completions.
func readIndexes(text string, completions int32) (ranges []indexRange, problem string) {
	next := int64(0)
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		first, err := strconv.ParseInt(from, 10, 32)
		last, err2 := strconv.ParseInt(to, 10, 32)
		switch {
		case err != nil || err2 != nil:
			return nil, fmt.Sprintf("cannot read %q as an index or a range of indexes", part)
		case first < next || (ranged && last <= first):
			return nil, fmt.Sprintf("non-increasing order at %q", part)
		case last >= int64(completions):
			return nil, fmt.Sprintf("too large index: %q", part)
		}
		ranges = append(ranges, indexRange{first, last})
		next = last + 1
	}
	return ranges, ""
}

// jobStays lets a job grow and pause, and change where its pods go while none runs.
func jobStays(job, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	if !elasticJob(job) {
		errs = append(errs, check.Unchanged(specPath.Child("completions"), job.Spec.Completions, old.Spec.Completions)...)
	}
	errs = append(errs, check.Unchanged(specPath.Child("selector"), job.Spec.Selector, old.Spec.Selector)...)
	errs = append(errs, check.Unchanged(specPath.Child("completionMode"), job.Spec.CompletionMode, old.Spec.CompletionMode)...)
	errs = append(errs, check.Unchanged(specPath.Child("podFailurePolicy"), job.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy)...)
	errs = append(errs, check.Unchanged(specPath.Child("backoffLimitPerIndex"), job.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex)...)
	errs = append(errs, check.Unchanged(specPath.Child("managedBy"), job.Spec.ManagedBy, old.Spec.ManagedBy)...)
	errs = append(errs, check.Unchanged(specPath.Child("successPolicy"), job.Spec.SuccessPolicy, old.Spec.SuccessPolicy)...)

	template := job.Spec.Template
	if paused(old) {
		template = *template.DeepCopy()
		was := &old.Spec.Template
		template.Annotations, template.Labels = was.Annotations, was.Labels
		template.Spec.NodeSelector, template.Spec.Affinity = was.Spec.NodeSelector, was.Spec.Affinity
		template.Spec.Tolerations, template.Spec.SchedulingGates = was.Spec.Tolerations, was.Spec.SchedulingGates
		sameResources(template.Spec.Containers, was.Spec.Containers)
		sameResources(template.Spec.InitContainers, was.Spec.InitContainers)
	}
	return append(errs, check.Unchanged(specPath.Child("template"), template, old.Spec.Template)...)
}

// paused says whether a job has no pods that its template could be said to describe.
func paused(job *batchv1.Job) bool {
	if !ptr.Deref(job.Spec.Suspend, false) || job.Status.Active > 0 {
		return false
	}
	suspended := func(c batchv1.JobCondition) bool {
		return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue
	}
	return job.Status.StartTime == nil || slices.ContainsFunc(job.Status.Conditions, suspended)
}

func sameResources(containers, was []corev1.Container) {
	for i := range min(len(containers), len(was)) {
		containers[i].Resources = was[i].Resources
	}
}

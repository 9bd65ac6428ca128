package kinds

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestJobPolicies(t *testing.T) {
	success := func(indexes *string, count *int32) func(*batchv1.JobSpec) {
		return func(spec *batchv1.JobSpec) {
			spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: indexes, SucceededCount: count}}}
		}
	}
	tests := map[string]struct {
		change func(*batchv1.JobSpec)
		want   string
	}{
		"success of some indexes":          {change: success(ptr.To("0,2-4"), ptr.To[int32](4))},
		"success of nothing in particular": {change: success(nil, nil), want: "spec.successPolicy.rules[0]: Required value"},
		"an index beyond the completions":  {change: success(ptr.To("3-5"), nil), want: "spec.successPolicy.rules[0].succeededIndexes: Invalid value"},
		"indexes that do not grow":         {change: success(ptr.To("3,3"), nil), want: "spec.successPolicy.rules[0].succeededIndexes: Invalid value"},
		"a range that is none":             {change: success(ptr.To("3-3"), nil), want: "spec.successPolicy.rules[0].succeededIndexes: Invalid value"},
		"no indexes at all":                {change: success(ptr.To(""), nil), want: "spec.successPolicy.rules[0].succeededIndexes: Invalid value"},
		"more successes than listed":       {change: success(ptr.To("0-1"), ptr.To[int32](3)), want: "spec.successPolicy.rules[0].succeededCount: Invalid value"},
		"a policy without rules":           {change: func(spec *batchv1.JobSpec) { spec.SuccessPolicy = &batchv1.SuccessPolicy{} }, want: "spec.successPolicy.rules: Required value"},
		"more failed indexes than there are": {change: func(spec *batchv1.JobSpec) {
			spec.BackoffLimitPerIndex, spec.MaxFailedIndexes = ptr.To[int32](0), ptr.To[int32](6)
		}, want: "spec.maxFailedIndexes: Invalid value"},
		"a controller of one's own": {change: func(spec *batchv1.JobSpec) { spec.ManagedBy = ptr.To("example.com/queue") }},
		"a controller of no domain": {change: func(spec *batchv1.JobSpec) { spec.ManagedBy = ptr.To("queue") }, want: "spec.managedBy: Invalid value"},
		"an index fails that has no tries of its own": {change: func(spec *batchv1.JobSpec) {
			spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
			spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action:      batchv1.PodFailurePolicyActionFailIndex,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}},
			}}}
		}, want: "spec.podFailurePolicy.rules[0].action: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			spec := &batchv1.JobSpec{
				Completions: ptr.To[int32](5), Parallelism: ptr.To[int32](2), CompletionMode: ptr.To(batchv1.IndexedCompletion),
				Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "app:1"}},
				}},
			}
			job := &batchv1.Job{Spec: *spec}
			defaultJob(job)
			tc.change(&job.Spec)
			expect(t, validateJobSpec(&job.Spec, specPath), tc.want)
		})
	}
}

func TestASuspendedJobMayStillChangeWhatItsPodsNeed(t *testing.T) {
	job := func(suspend bool, status batchv1.JobStatus) *batchv1.Job {
		j := &batchv1.Job{Spec: batchv1.JobSpec{Suspend: &suspend, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}}, Status: status}
		defaultJob(j)
		return j
	}
	begun := ptr.To(metav1.Now())
	stopped := []batchv1.JobCondition{{Type: batchv1.JobSuspended, Status: corev1.ConditionTrue}}
	const refused = "spec.template: Invalid value"
	tests := map[string]struct {
		job  *batchv1.Job
		want string
	}{
		"before it began":                {job: job(true, batchv1.JobStatus{})},
		"after it was stopped":           {job: job(true, batchv1.JobStatus{StartTime: begun, Conditions: stopped})},
		"while its pods are being ended": {job: job(true, batchv1.JobStatus{StartTime: begun, Active: 1}), want: refused},
		"while it runs":                  {job: job(false, batchv1.JobStatus{StartTime: begun}), want: refused},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := tc.job.DeepCopy()
			next.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "fast"}
			next.Spec.Template.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
			expect(t, jobStays(next, tc.job), tc.want)
			next.Spec.Template.Spec.Containers[0].Image = "other"
			expect(t, jobStays(next, tc.job), refused)
		})
	}
}

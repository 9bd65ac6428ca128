package job

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

func tellUnknownMode(recorder record.EventRecorder, job batchJob) {
	recorder.Event(job.Job, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
}

func tellSuspended(recorder record.EventRecorder, job batchJob, suspended bool) {
	if suspended {
		recorder.Event(job.Job, corev1.EventTypeNormal, "Suspended", "Job suspended")
		return
	}
	recorder.Event(job.Job, corev1.EventTypeNormal, "Resumed", "Job resumed")
}

// tellEnd writes the Event of a job that has finished.
func tellEnd(recorder record.EventRecorder, job batchJob, status *batchv1.JobStatus, end *batchv1.JobCondition) {
	if end.Type == batchv1.JobFailed {
		recorder.Event(job.Job, corev1.EventTypeWarning, end.Reason, end.Message)
		return
	}
	if completions := job.Spec.Completions; completions != nil && status.Succeeded > ptr.Deref(completions, 0) {
		recorder.Event(job.Job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	recorder.Event(job.Job, corev1.EventTypeNormal, "Completed", "Job completed")
}

package job

import (
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/podcontrol"
)

// hostnameLimit is the longest label of a domain name.
const hostnameLimit = 63

// indexVariable tells the containers of an indexed job their index.
const indexVariable = "JOB_COMPLETION_INDEX"

// newPod is a pod of a job, tracked from its birth.
func newPod(job batchJob, s start) *corev1.Pod {
	pod := podcontrol.FromTemplate(job.Job, kind, &job.Spec.Template)
	if !slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if s.index == noIndex {
		return pod
	}
	index := strconv.Itoa(s.index)
	prefix := fmt.Sprintf("%s-%d", job.Name, s.index)
	pod.Name, pod.GenerateName = podcontrol.NameFrom(prefix+"-"), prefix+"-"
	pod.Spec.Hostname = prefix[:min(len(prefix), hostnameLimit)]
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Annotations[batchv1.JobCompletionIndexAnnotation] = index
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = index
	if job.perIndex() {
		pod.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(s.failures)
		if s.ignored > 0 {
			pod.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(s.ignored)
		}
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			tellIndex(&containers[i])
		}
	}
	return pod
}

func tellIndex(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == indexVariable }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"},
	}})
}

package printing

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
)

type column = metav1.TableColumnDefinition

// workload are the wide columns of everything that has a pod template.
var workload = []column{
	wide("Containers", "Names of each container in the template."),
	wide("Images", "Images referenced by each container in the template."),
	wide("Selector", "The labels of the pods."),
}

// Deployments show how far a rollout is.
func Deployments() rest.TableConvertor {
	return table(func(d *appsv1.Deployment, now time.Time) []any {
		names, images := containers(&d.Spec.Template.Spec)
		return []any{fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, deref(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas),
			since(d.CreationTimestamp, now), names, images, selector(d.Spec.Selector)}
	}, append([]column{text("Ready", "Number of the pod with ready state."), number("Up-to-date", "Pods of the newest template."), number("Available", "Pods that serve."), age}, workload...)...)
}

// ReplicaSets show wanted and real numbers.
func ReplicaSets() rest.TableConvertor {
	return table(func(r *appsv1.ReplicaSet, now time.Time) []any {
		names, images := containers(&r.Spec.Template.Spec)
		return []any{int64(deref(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), since(r.CreationTimestamp, now), names, images, selector(r.Spec.Selector)}
	}, append([]column{number("Desired", "How many there should be."), number("Current", "How many there are."), number("Ready", "How many are ready."), age}, workload...)...)
}

// StatefulSets show how many are ready.
func StatefulSets() rest.TableConvertor {
	return table(func(s *appsv1.StatefulSet, now time.Time) []any {
		names, images := containers(&s.Spec.Template.Spec)
		return []any{fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, deref(s.Spec.Replicas)), since(s.CreationTimestamp, now), names, images}
	}, text("Ready", "Number of the pod with ready state."), age, workload[0], workload[1])
}

// DaemonSets show how many nodes they cover.
func DaemonSets() rest.TableConvertor {
	return table(func(d *appsv1.DaemonSet, now time.Time) []any {
		names, images := containers(&d.Spec.Template.Spec)
		s := &d.Status
		return []any{int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady), int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable),
			labelsOf(d.Spec.Template.Spec.NodeSelector), since(d.CreationTimestamp, now), names, images, selector(d.Spec.Selector)}
	}, append([]column{number("Desired", "Nodes that should run it."), number("Current", "Nodes that do."), number("Ready", "Nodes where it is ready."), number("Up-to-date", "Nodes with the newest template."),
		number("Available", "Nodes where it serves."), text("Node Selector", "The nodes it is for."), age}, workload...)...)
}

// ControllerRevisions show whose they are.
func ControllerRevisions() rest.TableConvertor {
	return table(func(r *appsv1.ControllerRevision, now time.Time) []any {
		owner := none
		if ref := metav1.GetControllerOf(r); ref != nil {
			group, _, found := strings.Cut(ref.APIVersion, "/")
			owner = strings.ToLower(ref.Kind)
			if found {
				owner += "." + group
			}
			owner += "/" + ref.Name
		}
		return []any{owner, r.Revision, since(r.CreationTimestamp, now)}
	}, text("Controller", "The object the revision is of."), number("Revision", "Its number."), age)
}

// Jobs show how much is done.
func Jobs() rest.TableConvertor {
	return table(func(j *batchv1.Job, now time.Time) []any {
		names, images := containers(&j.Spec.Template.Spec)
		return []any{jobStatus(j), completions(j), jobDuration(j, now), since(j.CreationTimestamp, now), names, images, selector(j.Spec.Selector)}
	}, append([]column{text("Status", "Whether it runs, failed or is complete."), text("Completions", "How many pods succeeded."), text("Duration", "How long it took."), age}, workload...)...)
}

func jobStatus(j *batchv1.Job) string {
	has := map[batchv1.JobConditionType]bool{}
	for _, c := range j.Status.Conditions {
		has[c.Type] = has[c.Type] || c.Status == "True"
	}
	switch {
	case has[batchv1.JobComplete]:
		return "Complete"
	case has[batchv1.JobFailed]:
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case has[batchv1.JobSuspended]:
		return "Suspended"
	case has[batchv1.JobFailureTarget]:
		return "FailureTarget"
	case has[batchv1.JobSuccessCriteriaMet]:
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completions(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if p := deref(j.Spec.Parallelism); p > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, p)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func jobDuration(j *batchv1.Job, now time.Time) string {
	switch {
	case j.Status.StartTime == nil:
		return ""
	case j.Status.CompletionTime == nil:
		return duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
	}
	return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
}

// CronJobs show when they ran last.
func CronJobs() rest.TableConvertor {
	return table(func(c *batchv1.CronJob, now time.Time) []any {
		last, zone := none, none
		if c.Status.LastScheduleTime != nil {
			last = since(*c.Status.LastScheduleTime, now)
		}
		if c.Spec.TimeZone != nil {
			zone = *c.Spec.TimeZone
		}
		names, images := containers(&c.Spec.JobTemplate.Spec.Template.Spec)
		suspended := "False"
		if deref(c.Spec.Suspend) {
			suspended = "True"
		}
		return []any{c.Spec.Schedule, zone, suspended, int64(len(c.Status.Active)), last, since(c.CreationTimestamp, now), names, images, selector(c.Spec.JobTemplate.Spec.Selector)}
	}, append([]column{text("Schedule", "When it runs."), text("Timezone", "By which clock."), text("Suspend", "Whether it is paused."), number("Active", "Jobs that run."),
		text("Last Schedule", "When it ran last."), age}, workload...)...)
}

// HorizontalPodAutoscalers show what they see and what they want.
func HorizontalPodAutoscalers() rest.TableConvertor {
	return table(func(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
		least := "<unset>"
		if h.Spec.MinReplicas != nil {
			least = fmt.Sprint(*h.Spec.MinReplicas)
		}
		return []any{h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name, targets(h), least, int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), since(h.CreationTimestamp, now)}
	}, text("Reference", "What is scaled."), text("Targets", "What is measured and wanted."), text("MinPods", "The least number of pods."), number("MaxPods", "The greatest."), number("Replicas", "How many there are."), age)
}

func targets(h *autoscalingv2.HorizontalPodAutoscaler) string {
	const shown = 2
	var all []string
	for i, spec := range h.Spec.Metrics {
		var status autoscalingv2.MetricStatus
		if i < len(h.Status.CurrentMetrics) {
			status = h.Status.CurrentMetrics[i]
		}
		all = append(all, metric(spec, status))
	}
	if len(all) > shown {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:shown], ", "), len(all)-shown)
	}
	return orNone(strings.Join(all, ", "))
}

func metric(spec autoscalingv2.MetricSpec, status autoscalingv2.MetricStatus) string {
	var name string
	var target autoscalingv2.MetricTarget
	var current *autoscalingv2.MetricValueStatus
	switch {
	case spec.Resource != nil:
		name, target = string(spec.Resource.Name)+": ", spec.Resource.Target
		if status.Resource != nil {
			current = &status.Resource.Current
		}
	case spec.ContainerResource != nil:
		name, target = string(spec.ContainerResource.Name)+": ", spec.ContainerResource.Target
		if status.ContainerResource != nil {
			current = &status.ContainerResource.Current
		}
	case spec.Pods != nil:
		target = spec.Pods.Target
		if status.Pods != nil {
			current = &status.Pods.Current
		}
	case spec.Object != nil:
		target = spec.Object.Target
		if status.Object != nil {
			current = &status.Object.Current
		}
	case spec.External != nil:
		target = spec.External.Target
		if status.External != nil {
			current = &status.External.Current
		}
	}
	seen, wanted := unknown, "<auto>"
	switch {
	case target.AverageUtilization != nil:
		wanted = fmt.Sprintf("%d%%", *target.AverageUtilization)
		if current != nil && current.AverageUtilization != nil {
			seen = fmt.Sprintf("%d%%", *current.AverageUtilization)
		}
	case target.AverageValue != nil:
		wanted = target.AverageValue.String()
		if current != nil && current.AverageValue != nil {
			seen = current.AverageValue.String()
		}
		if spec.Object != nil || spec.External != nil {
			wanted += " (avg)"
		}
	case target.Value != nil:
		wanted = target.Value.String()
		if current != nil && current.Value != nil {
			seen = current.Value.String()
		}
	}
	return name + seen + "/" + wanted
}

// Leases show who holds them.
func Leases() rest.TableConvertor {
	return table(func(l *coordinationv1.Lease, now time.Time) []any {
		return []any{deref(l.Spec.HolderIdentity), since(l.CreationTimestamp, now)}
	}, text("Holder", "Who has it."), age)
}

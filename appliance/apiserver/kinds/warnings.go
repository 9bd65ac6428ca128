package kinds

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
)

// hints makes a Warnings hook of rules that need no request.
func hints[T runtime.Object](rules ...func(T) []string) func(context.Context, T) []string {
	return func(_ context.Context, obj T) []string {
		var all []string
		for _, rule := range rules {
			all = append(all, rule(obj)...)
		}
		return all
	}
}

func podHints(pod *corev1.Pod) []string {
	hostname := podspec.HostnameWarnings(pod.Name, pod.GenerateName != "", "the Pod's hostname")
	return append(hostname, podspec.Warnings(&pod.ObjectMeta, &pod.Spec, nil)...)
}

func templateHints(name string, template *corev1.PodTemplateSpec, at *field.Path) []string {
	return append(podspec.HostnameWarnings(name, false, "Pod names and hostnames"), podspec.Warnings(&template.ObjectMeta, &template.Spec, at)...)
}

var templatePath = specPath.Child("template")

func deploymentHints(d *appsv1.Deployment) []string {
	return templateHints(d.Name, &d.Spec.Template, templatePath)
}

func replicaSetHints(r *appsv1.ReplicaSet) []string {
	return templateHints(r.Name, &r.Spec.Template, templatePath)
}

func daemonSetHints(d *appsv1.DaemonSet) []string {
	return templateHints(d.Name, &d.Spec.Template, templatePath)
}

func statefulSetHints(s *appsv1.StatefulSet) []string {
	all := templateHints(s.Name, &s.Spec.Template, templatePath)
	for i := range s.Spec.VolumeClaimTemplates {
		claim := &s.Spec.VolumeClaimTemplates[i]
		all = append(all, oldStorageClass(claim.Annotations, specPath.Child("volumeClaimTemplates").Index(i).Child("metadata", "annotations"))...)
	}
	if limit := s.Spec.RevisionHistoryLimit; limit != nil && *limit < 0 {
		all = append(all, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return all
}

func replicationControllerHints(r *corev1.ReplicationController) []string {
	if r.Spec.Template == nil {
		return nil
	}
	return templateHints(r.Name, r.Spec.Template, templatePath)
}

func podTemplateHints(t *corev1.PodTemplate) []string {
	return podspec.Warnings(&t.Template.ObjectMeta, &t.Template.Spec, field.NewPath("template"))
}

func jobHints(job *batchv1.Job) []string {
	return append(templateHints(job.Name, &job.Spec.Template, templatePath), largeIndexed(&job.Spec, specPath)...)
}

func cronJobHints(job *batchv1.CronJob) []string {
	at := specPath.Child("jobTemplate", "spec")
	return append(templateHints(job.Name, &job.Spec.JobTemplate.Spec.Template, at.Child("template")), largeIndexed(&job.Spec.JobTemplate.Spec, at)...)
}

// Above these an indexed job's status may grow beyond what an object can hold.
const (
	manyCompletions = 100_000
	manyParallel    = 10_000
)

func largeIndexed(spec *batchv1.JobSpec, at *field.Path) []string {
	if spec.CompletionMode == nil || *spec.CompletionMode != batchv1.IndexedCompletion || spec.Completions == nil || spec.Parallelism == nil {
		return nil
	}
	if *spec.Completions > manyCompletions && *spec.Parallelism > manyParallel {
		return []string{at.String() + ": In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"}
	}
	return nil
}

func serviceHints(svc *corev1.Service) []string {
	var all []string
	if _, found := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]; found {
		all = append(all, "annotation "+corev1.DeprecatedAnnotationTopologyAwareHints+" is deprecated, please use "+corev1.AnnotationTopologyMode+" instead")
	}
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		return all
	}
	if svc.Spec.LoadBalancerIP != "" {
		all = append(all, "spec.loadBalancerIP is ignored for headless services")
	}
	if len(svc.Spec.ExternalIPs) > 0 {
		all = append(all, "spec.externalIPs is ignored for headless services")
	}
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityNone && svc.Spec.SessionAffinity != "" {
		all = append(all, "spec.SessionAffinity is ignored for headless services")
	}
	return all
}

func nodeHints(node *corev1.Node) []string {
	var all []string
	if node.Spec.ConfigSource != nil {
		all = append(all, "spec.configSource: the feature is no longer supported")
	}
	if node.Spec.DoNotUseExternalID != "" {
		all = append(all, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	return all
}

const oldIngressClass = "kubernetes.io/ingress.class"

func ingressHints(ingress *networkingv1.Ingress) []string {
	if _, found := ingress.Annotations[oldIngressClass]; found {
		return []string{`annotation "` + oldIngressClass + `" is deprecated, please use 'spec.ingressClassName' instead`}
	}
	return nil
}

func oldStorageClass(annotations map[string]string, at *field.Path) []string {
	if _, found := annotations[corev1.BetaStorageClassAnnotation]; found {
		return []string{at.Key(corev1.BetaStorageClassAnnotation).String() + `: deprecated since v1.8; use "storageClassName" attribute instead`}
	}
	return nil
}

func volumeHints(v *corev1.PersistentVolume) []string {
	all := oldStorageClass(v.Annotations, metaPath.Child("annotations"))
	if _, found := v.Annotations[corev1.MountOptionAnnotation]; found {
		all = append(all, metaPath.Child("annotations").Key(corev1.MountOptionAnnotation).String()+`: deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		all = append(all, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if affinity := v.Spec.NodeAffinity; affinity != nil && affinity.Required != nil {
		for i, term := range affinity.Required.NodeSelectorTerms {
			keys := map[string]string{}
			for _, e := range term.MatchExpressions {
				keys[e.Key] = ""
			}
			all = append(all, podspec.NodeLabelWarnings(keys, specPath.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i).Child("matchExpressions"))...)
		}
	}
	return all
}

func claimHints(c *corev1.PersistentVolumeClaim) []string {
	return oldStorageClass(c.Annotations, metaPath.Child("annotations"))
}

func storageClassHints(c *storagev1.StorageClass) []string {
	var all []string
	for i, term := range c.AllowedTopologies {
		keys := map[string]string{}
		for _, e := range term.MatchLabelExpressions {
			keys[e.Key] = ""
		}
		all = append(all, podspec.NodeLabelWarnings(keys, field.NewPath("allowedTopologies").Index(i).Child("matchLabelExpressions"))...)
	}
	return all
}

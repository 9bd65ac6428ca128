package apiserver

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/quota/v1/generic"

	"knarr.dev/knarr/workloads/resourcequota/usage"
)

// quotaRules tells the library's quota plugin how to measure; the quota controller measures by the same rules.
type quotaRules struct{}

// Initialize implements admission.PluginInitializer.
func (quotaRules) Initialize(plugin admission.Interface) {
	wants, ok := plugin.(initializer.WantsQuotaConfiguration)
	if !ok {
		return
	}
	evaluators := usage.Evaluators(time.Now, nil, nil, nil, nil)
	for alias, kind := range usage.Aliases {
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(kind, nil, alias))
	}
	wants.SetQuotaConfiguration(generic.NewConfiguration(evaluators, unbounded()))
}

// unbounded are the kinds that are not stored, or that nobody makes on purpose.
func unbounded() map[schema.GroupResource]struct{} {
	kinds := map[schema.GroupResource]struct{}{}
	for group, resources := range map[string][]string{
		corev1.GroupName:        {"bindings", "componentstatuses", "events"},
		"events.k8s.io":         {"events"},
		"authentication.k8s.io": {"tokenreviews", "selfsubjectreviews"},
		"authorization.k8s.io":  {"subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews", "selfsubjectrulesreviews"},
	} {
		for _, resource := range resources {
			kinds[schema.GroupResource{Group: group, Resource: resource}] = struct{}{}
		}
	}
	return kinds
}

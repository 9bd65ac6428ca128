package admission

import (
	"context"
	"errors"
	"fmt"
	"io"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/warning"
	podsecurity "k8s.io/pod-security-admission/admission"
	psaapi "k8s.io/pod-security-admission/admission/api"
	podsecurityload "k8s.io/pod-security-admission/admission/api/load"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// podSecurity holds pods to the level their namespace is labelled with; without a label to that of the configuration
// (PodSecurityConfiguration), which is none unless it says otherwise.
func podSecurity(env *resource.Env) admission.Factory {
	return func(from io.Reader) (admission.Interface, error) {
		config, err := podsecurityload.LoadFromReader(from)
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		return podSecurityBy(env, config)
	}
}

func podSecurityBy(env *resource.Env, config *psaapi.PodSecurityConfiguration) (*rule, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, fmt.Errorf("make pod security checks: %w", err)
	}
	checks := &podsecurity.Admission{
		Configuration:    config,
		Evaluator:        evaluator,
		Metrics:          unmeasured{},
		PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
		NamespaceGetter:  namespaceReader{env},
		PodLister:        podReader{env},
	}
	if err := checks.CompleteConfiguration(); err != nil {
		return nil, fmt.Errorf("configure pod security: %w", err)
	}
	if err := checks.ValidateConfiguration(); err != nil {
		return nil, fmt.Errorf("configure pod security: %w", err)
	}
	return &rule{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		on: []string{"namespaces", "pods", "pods/ephemeralcontainers", "replicationcontrollers", "podtemplates", "replicasets", "deployments",
			"statefulsets", "daemonsets", "jobs", "cronjobs"},
		validate: func(ctx context.Context, a admission.Attributes) error {
			return answer(ctx, a, checks.Validate(ctx, attributes{a}))
		},
	}, nil
}

// answer words the library's answer to a webhook as one of a plugin.
func answer(ctx context.Context, a admission.Attributes, response *admissionv1.AdmissionResponse) error {
	for _, text := range response.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	for key, value := range response.AuditAnnotations {
		audit.AddAuditAnnotation(ctx, podsecurityapi.AuditAnnotationPrefix+key, value)
	}
	if response.Allowed {
		return nil
	}
	//lint:ignore ST1005 clients know these words from Kubernetes
	err := admission.NewForbidden(a, errors.New("Not allowed by PodSecurity"))
	refusal := &apierrors.StatusError{}
	if response.Result == nil || !errors.As(err, &refusal) {
		return err
	}
	if response.Result.Message != "" {
		refusal.ErrStatus.Message = response.Result.Message
	}
	if response.Result.Reason != "" {
		refusal.ErrStatus.Reason = response.Result.Reason
	}
	if response.Result.Code != 0 {
		refusal.ErrStatus.Code = response.Result.Code
	}
	if response.Result.Details != nil {
		refusal.ErrStatus.Details = response.Result.Details
	}
	return refusal
}

// attributes is a request as the library sees it. Our objects are of the versions it wants already.
type attributes struct{ admission.Attributes }

func (a attributes) GetOperation() admissionv1.Operation {
	return admissionv1.Operation(a.Attributes.GetOperation())
}
func (a attributes) GetObject() (runtime.Object, error)    { return a.Attributes.GetObject(), nil }
func (a attributes) GetOldObject() (runtime.Object, error) { return a.Attributes.GetOldObject(), nil }
func (a attributes) GetUserName() string                   { return a.GetUserInfo().GetName() }

type namespaceReader struct{ env *resource.Env }

func (r namespaceReader) GetNamespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	return get[*corev1.Namespace](ctx, r.env, corev1.Resource("namespaces"), "", name)
}

type podReader struct{ env *resource.Env }

func (r podReader) ListPods(ctx context.Context, namespace string) ([]*corev1.Pod, error) {
	found, err := list[*corev1.PodList](ctx, r.env, corev1.Resource("pods"), namespace)
	if err != nil {
		return nil, err
	}
	pods := make([]*corev1.Pod, len(found.Items))
	for i := range found.Items {
		pods[i] = &found.Items[i]
	}
	return pods, nil
}

// unmeasured drops the library's metrics, which count by namespace level what audit annotations tell as well.
type unmeasured struct{}

func (unmeasured) RecordEvaluation(metrics.Decision, podsecurityapi.LevelVersion, metrics.Mode, podsecurityapi.Attributes) {
}
func (unmeasured) RecordExemption(podsecurityapi.Attributes)   {}
func (unmeasured) RecordError(bool, podsecurityapi.Attributes) {}

package apiserver_test

import (
	"context"
	"fmt"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// validating makes a policy about Secrets and binds it to a namespace.
func validating(ctx context.Context, c *kubernetes.Clientset, ns string, spec admissionregistrationv1.ValidatingAdmissionPolicySpec, params *admissionregistrationv1.ParamRef, actions ...admissionregistrationv1.ValidationAction) error {
	spec.MatchConstraints = matches("secrets")
	if _, err := c.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: spec}, forReal); err != nil {
		return err
	}
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: ns, ValidationActions: actions, ParamRef: params, MatchResources: in(ns)}}
	_, err := c.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, binding, forReal)
	return err
}

// mutating does the same with one that changes Secrets.
func mutating(ctx context.Context, c *kubernetes.Clientset, ns string, spec admissionregistrationv1.MutatingAdmissionPolicySpec, params *admissionregistrationv1.ParamRef) error {
	spec.MatchConstraints, spec.ReinvocationPolicy = matches("secrets"), admissionregistrationv1.NeverReinvocationPolicy
	if _, err := c.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: spec}, forReal); err != nil {
		return err
	}
	binding := &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: ns, ParamRef: params, MatchResources: in(ns)}}
	_, err := c.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, binding, forReal)
	return err
}

// parameters are in a ConfigMap of the namespace.
func parameters(ctx context.Context, c *kubernetes.Clientset, ns string) (*admissionregistrationv1.ParamKind, *admissionregistrationv1.ParamRef, error) {
	_, err := c.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "params"}, Data: map[string]string{"word": "sesame"}}, forReal)
	return &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
		&admissionregistrationv1.ParamRef{Name: "params", Namespace: ns, ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)}, err
}

// policyPluginCases are about policies written in CEL.
func policyPluginCases() map[string]pluginCase {
	return map[string]pluginCase{
		"ValidatingAdmissionPolicy takes parameters": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			kind, params, err := parameters(ctx, c, ns)
			if err != nil {
				return err
			}
			spec := admissionregistrationv1.ValidatingAdmissionPolicySpec{ParamKind: kind, Validations: []admissionregistrationv1.Validation{{
				Expression: "object.metadata.name != params.data.word", MessageExpression: "'not ' + params.data.word"}}}
			if err := validating(ctx, c, ns, spec, params, admissionregistrationv1.Deny); err != nil {
				return err
			}
			return soon(ctx, func() error {
				_, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "sesame"}}, try)
				if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "not sesame") {
					return errOrNone(err)
				}
				_, err = c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, try)
				return err
			})
		},
		"ValidatingAdmissionPolicy may warn only": func(ctx context.Context, _ *kubernetes.Clientset, ns string) error {
			heard := &heardWarnings{}
			config := server.Admin()
			config.WarningHandler = heard
			c, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			spec := admissionregistrationv1.ValidatingAdmissionPolicySpec{Validations: []admissionregistrationv1.Validation{{Expression: "false", Message: "think twice"}}}
			if err := validating(ctx, c, ns, spec, nil, admissionregistrationv1.Warn); err != nil {
				return err
			}
			return soon(ctx, func() error {
				if _, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, try); err != nil {
					return err
				}
				return heard.about("think twice")
			})
		},
		"ValidatingAdmissionPolicy fails or not when it can't be evaluated": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			// The first validation can't be evaluated; the second tells when the policy is in force.
			spec := admissionregistrationv1.ValidatingAdmissionPolicySpec{FailurePolicy: ptr.To(admissionregistrationv1.Ignore), Validations: []admissionregistrationv1.Validation{
				{Expression: "object.data.missing == b'x'"}, {Expression: "object.metadata.name != 'marker'", Message: "in force"}}}
			if err := validating(ctx, c, ns, spec, nil, admissionregistrationv1.Deny); err != nil {
				return err
			}
			if err := soon(ctx, func() error {
				_, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "marker"}}, try)
				return saysNo(err, "in force")
			}); err != nil {
				return err
			}
			_, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, try)
			return err
		},
		"MutatingAdmissionPolicy takes parameters and writes JSON patches": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			kind, params, err := parameters(ctx, c, ns)
			if err != nil {
				return err
			}
			spec := admissionregistrationv1.MutatingAdmissionPolicySpec{ParamKind: kind, Mutations: []admissionregistrationv1.Mutation{{
				PatchType: admissionregistrationv1.PatchTypeJSONPatch,
				JSONPatch: &admissionregistrationv1.JSONPatch{Expression: `[JSONPatch{op: "add", path: "/metadata/labels", value: {"word": params.data.word}}]`}}}}
			if err := mutating(ctx, c, ns, spec, params); err != nil {
				return err
			}
			return soon(ctx, func() error {
				got, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, try)
				if err == nil && got.Labels["word"] != "sesame" {
					err = fmt.Errorf("labels %v", got.Labels)
				}
				return err
			})
		},
		"MutatingAdmissionPolicy leaves alone what its conditions do not match": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			spec := admissionregistrationv1.MutatingAdmissionPolicySpec{
				MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "marked", Expression: "object.metadata.name == 'marked'"}},
				Mutations: []admissionregistrationv1.Mutation{{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration,
					ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{Expression: `Object{metadata: Object.metadata{labels: {"by": "policy"}}}`}}}}
			if err := mutating(ctx, c, ns, spec, nil); err != nil {
				return err
			}
			labels := func(name string) (map[string]string, error) {
				got, err := c.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, try)
				return got.Labels, err
			}
			return soon(ctx, func() error {
				marked, err := labels("marked")
				if err == nil && marked["by"] != "policy" {
					err = fmt.Errorf("labels %v", marked)
				}
				if err != nil {
					return err
				}
				other, err := labels("other")
				if err == nil && len(other) > 0 {
					err = fmt.Errorf("labels %v of one that is not matched", other)
				}
				return err
			})
		},
	}
}

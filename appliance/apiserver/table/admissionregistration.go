package table

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func admissionregistration() []resource.Row {
	v1 := admissionregistrationv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &admissionregistrationv1.ValidatingWebhookConfiguration{}, List: &admissionregistrationv1.ValidatingWebhookConfigurationList{}, Plural: "validatingwebhookconfigurations", Table: printing.ValidatingWebhooks(), Hooks: resource.Erase(kinds.ValidatingWebhookConfiguration), Categories: []string{"api-extensions"}, Generation: true},
		{In: v1, Object: &admissionregistrationv1.MutatingWebhookConfiguration{}, List: &admissionregistrationv1.MutatingWebhookConfigurationList{}, Plural: "mutatingwebhookconfigurations", Table: printing.MutatingWebhooks(), Hooks: resource.Erase(kinds.MutatingWebhookConfiguration), Categories: []string{"api-extensions"}, Generation: true},
		{In: v1, Object: &admissionregistrationv1.ValidatingAdmissionPolicy{}, List: &admissionregistrationv1.ValidatingAdmissionPolicyList{}, Plural: "validatingadmissionpolicies", Table: printing.ValidatingPolicies(), Hooks: resource.Erase(kinds.ValidatingAdmissionPolicy), Categories: []string{"api-extensions"}, Status: true, Generation: true},
		{In: v1, Object: &admissionregistrationv1.ValidatingAdmissionPolicyBinding{}, List: &admissionregistrationv1.ValidatingAdmissionPolicyBindingList{}, Plural: "validatingadmissionpolicybindings", Table: printing.ValidatingBindings(), Hooks: resource.Erase(kinds.ValidatingAdmissionPolicyBinding), Categories: []string{"api-extensions"}, Generation: true},
		{In: v1, Object: &admissionregistrationv1.MutatingAdmissionPolicy{}, List: &admissionregistrationv1.MutatingAdmissionPolicyList{}, Plural: "mutatingadmissionpolicies", Table: printing.MutatingPolicies(), Hooks: resource.Erase(kinds.MutatingAdmissionPolicy), Categories: []string{"api-extensions"}, Generation: true},
		{In: v1, Object: &admissionregistrationv1.MutatingAdmissionPolicyBinding{}, List: &admissionregistrationv1.MutatingAdmissionPolicyBindingList{}, Plural: "mutatingadmissionpolicybindings", Table: printing.MutatingBindings(), Hooks: resource.Erase(kinds.MutatingAdmissionPolicyBinding), Categories: []string{"api-extensions"}, Generation: true},
	}
}

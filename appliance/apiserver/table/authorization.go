package table

import (
	authorizationv1 "k8s.io/api/authorization/v1"

	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/virtual"
)

func authorization() []resource.Row {
	v1 := authorizationv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &authorizationv1.SubjectAccessReview{}, Plural: "subjectaccessreviews", Virtual: virtual.Access},
		{In: v1, Object: &authorizationv1.LocalSubjectAccessReview{}, Plural: "localsubjectaccessreviews", Namespaced: true, Virtual: virtual.LocalAccess},
		{In: v1, Object: &authorizationv1.SelfSubjectAccessReview{}, Plural: "selfsubjectaccessreviews", Virtual: virtual.SelfAccess},
		{In: v1, Object: &authorizationv1.SelfSubjectRulesReview{}, Plural: "selfsubjectrulesreviews", Virtual: virtual.SelfRules},
	}
}

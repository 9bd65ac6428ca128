package table

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/virtual"
)

func authentication() []resource.Row {
	v1 := authenticationv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &authenticationv1.TokenReview{}, Plural: "tokenreviews", Virtual: virtual.Token},
		{In: v1, Object: &authenticationv1.SelfSubjectReview{}, Plural: "selfsubjectreviews", Virtual: virtual.Self},
	}
}

package apiserver

import (
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	openapicommon "k8s.io/kube-openapi/pkg/common"

	"knarr.dev/knarr/appliance/apiserver/scheme"
)

// describe sets the configurations of OpenAPI v2 and v3 over the definitions one server of the chain needs. The
// libraries' servers get their own, which are a fraction of ours.
func describe(config *genericapiserver.Config, names *apiopenapi.DefinitionNamer, definitions openapicommon.GetOpenAPIDefinitions) {
	v2 := genericapiserver.DefaultOpenAPIConfig(definitions, names)
	v3 := genericapiserver.DefaultOpenAPIV3Config(definitions, names)
	v2.Info.Title, v3.Info.Title = "Kubernetes", "Kubernetes"
	v2.Info.Version, v3.Info.Version = Version, Version
	config.OpenAPIConfig, config.OpenAPIV3Config = v2, v3
}

func definitionNames() *apiopenapi.DefinitionNamer {
	return apiopenapi.NewDefinitionNamer(scheme.Scheme, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme)
}

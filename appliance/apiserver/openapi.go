package apiserver

import (
	"sync"

	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	openapicommon "k8s.io/kube-openapi/pkg/common"

	"knarr.dev/knarr/appliance/apiserver/openapi"
	"knarr.dev/knarr/appliance/apiserver/scheme"
)

// describe gives the configurations of OpenAPI v2 and v3 over all built-in kinds, ours and the libraries'.
func describe() (*openapicommon.Config, *openapicommon.OpenAPIV3Config) {
	names := apiopenapi.NewDefinitionNamer(scheme.Scheme, apiextensionsapiserver.Scheme, aggregatorscheme.Scheme)
	var v2 *openapicommon.Config
	var v3 *openapicommon.OpenAPIV3Config
	var both sync.WaitGroup
	both.Go(func() { v2 = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, names) })
	both.Go(func() { v3 = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, names) })
	both.Wait()
	v2.Info.Title, v3.Info.Title = "Kubernetes", "Kubernetes"
	v2.Info.Version, v3.Info.Version = Version, Version
	return v2, v3
}

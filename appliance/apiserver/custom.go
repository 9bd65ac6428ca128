package apiserver

import (
	"mime"
	"net/http"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"knarr.dev/knarr/appliance/apiserver/scheme"
)

// withoutProtobuf refuses custom resources written as protobuf, which they have no message types for. The library
// means to do the same, and panics over some of them.
type withoutProtobuf struct {
	*genericapiserver.GenericAPIServer
}

func (s withoutProtobuf) UnprotectedHandler() http.Handler {
	next := s.GenericAPIServer.UnprotectedHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writes := r.Method == http.MethodPost || r.Method == http.MethodPut
		media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if !writes || err != nil || media != runtime.ContentTypeProtobuf || strings.HasPrefix(r.URL.Path, "/apis/"+apiextensionsv1.GroupName+"/") {
			next.ServeHTTP(w, r)
			return
		}
		refusal := negotiation.NewUnsupportedMediaTypeError([]string{runtime.ContentTypeJSON, runtime.ContentTypeYAML})
		responsewriters.ErrorNegotiated(refusal, scheme.Codecs, apiextensionsv1.SchemeGroupVersion, w, r)
	})
}

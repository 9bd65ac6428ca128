package apiserver

import (
	"log/slog"
	"mime"
	"net/http"

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
		media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err == nil && media == runtime.ContentTypeProtobuf {
			defer refuse(w, r)
		}
		next.ServeHTTP(w, r)
	})
}

// refuse answers when the decoder panics, which is before anything else was said.
func refuse(w http.ResponseWriter, r *http.Request) {
	switch thrown := recover(); thrown {
	case nil:
	case http.ErrAbortHandler:
		panic(thrown) // the server's own way to hang up
	default:
		slog.Warn("a custom resource sent as protobuf could not be read", "component", "apiserver", "path", r.URL.Path, "err", thrown)
		refusal := negotiation.NewUnsupportedMediaTypeError([]string{runtime.ContentTypeJSON, runtime.ContentTypeYAML})
		responsewriters.ErrorNegotiated(refusal, scheme.Codecs, apiextensionsv1.SchemeGroupVersion, w, r)
	}
}

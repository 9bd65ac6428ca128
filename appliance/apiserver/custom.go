package apiserver

import (
	"log/slog"
	"mime"
	"net/http"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"knarr.dev/knarr/appliance/apiserver/scheme"
)

// careful answers for the server of custom resources where that one panics: over bodies in protobuf, which custom
// resources have no messages for, over some patches of definitions, over some definitions. It does so while it reads
// or checks what was sent, before anything is stored or said.
type careful struct {
	*genericapiserver.GenericAPIServer
}

func (s careful) UnprotectedHandler() http.Handler {
	next := s.GenericAPIServer.UnprotectedHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost || r.Method == http.MethodPut || r.Method == http.MethodPatch {
			defer refuse(w, r)
		}
		next.ServeHTTP(w, r)
	})
}

// refuse says that it was the request.
func refuse(w http.ResponseWriter, r *http.Request) {
	thrown := recover()
	if thrown == nil {
		return
	}
	if thrown == http.ErrAbortHandler {
		panic(thrown) // the server's own way to hang up
	}
	slog.Error("a request for custom resources could not be read; please report it", "component", "apiserver", "method", r.Method, "path", r.URL.Path, "err", thrown)
	refusal := error(apierrors.NewBadRequest("the request could not be read: a value is not of the type it should be"))
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && media == runtime.ContentTypeProtobuf {
		refusal = negotiation.NewUnsupportedMediaTypeError([]string{runtime.ContentTypeJSON, runtime.ContentTypeYAML})
	}
	responsewriters.ErrorNegotiated(refusal, scheme.Codecs, apiextensionsv1.SchemeGroupVersion, w, r)
}

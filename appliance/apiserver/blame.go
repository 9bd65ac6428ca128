package apiserver

import (
	"log/slog"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"

	"knarr.dev/knarr/appliance/apiserver/scheme"
)

// merger is the library's package that merges patches and panics over what nobody should send.
const merger = "k8s.io/apimachinery/pkg/util/strategicpatch."

// blamePatches answers 400 to such a patch. The storages of the table do so themselves (resource.Blame); this is for
// definitions of custom resources and APIServices, whose storages are the libraries' and would break the connection.
func blamePatches(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPatch {
			handler.ServeHTTP(w, r)
			return
		}
		defer func() {
			thrown := recover()
			if thrown == nil {
				return
			}
			text, _ := thrown.(string)
			where := thrower(text)
			if !strings.HasPrefix(where, merger) {
				panic(thrown) // not the client's
			}
			problem, _, _ := strings.Cut(text, "\n")
			slog.Warn("a request's patch could not be merged", "component", "apiserver", "where", where, "err", problem)
			refusal := apierrors.NewBadRequest("the patch cannot be applied to this kind of object: it has a value of a wrong type")
			responsewriters.ErrorNegotiated(refusal, scheme.Codecs, schema.GroupVersion{}, w, r)
		}()
		handler.ServeHTTP(w, r)
	})
}

// thrower reads who panicked out of what the library makes of a panic on another goroutine: its value, and that
// goroutine's stack, in which the one who panicked stands below the runtime's functions.
func thrower(text string) string {
	_, stack, _ := strings.Cut(text, "\npanic(")
	for line := range strings.Lines(stack) {
		function, _, isCall := strings.Cut(line, "(")
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, "runtime.") || strings.HasPrefix(line, "internal/") || strings.HasPrefix(line, "reflect.") {
			continue
		}
		if isCall && strings.Contains(function, ".") {
			return function
		}
	}
	return ""
}

package openapi

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	v2Path = "/openapi/v2"
	v3Path = "/openapi/v3"
)

// Serve answers /openapi/v2 and /openapi/v3 for the built-in kinds, whose routes must all be there.
//
// The library builds all documents when a server starts, which takes most of its start and a large part of its
// memory, for documents that few clients ask for and all of them keep. Here a document is made when it is asked
// for and forgotten when it was sent.
func Serve(to *genericapiserver.APIServerHandler, v2 *common.Config, v3 *common.OpenAPIV3Config) {
	d := &documents{container: to.GoRestfulContainer, v2: v2, v3: v3, build: build()}
	d.v3.Definitions = nil // made again for each document
	to.NonGoRestfulMux.Handle(v2Path, http.HandlerFunc(d.serveV2))
	to.NonGoRestfulMux.Handle(v3Path, http.HandlerFunc(d.serveIndex))
	to.NonGoRestfulMux.HandlePrefix(v3Path+"/", http.HandlerFunc(d.serveV3))
}

type documents struct {
	container *restful.Container
	v2        *common.Config
	v3        *common.OpenAPIV3Config
	build     string     // what the documents depend on
	mu        sync.Mutex // one document at a time: each takes tens of megabytes while it is made
}

// build changes when the documents may have changed: with the source, or with every start if that is not known.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Now().String()
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if settings["vcs.revision"] == "" || settings["vcs.modified"] == "true" {
		return time.Now().String()
	}
	return settings["vcs.revision"]
}

// hash identifies a document's content for clients that keep it.
func (d *documents) hash(document string) string {
	return fmt.Sprintf("%X", sha256.Sum256([]byte(d.build+" "+document)))
}

// services by the path clients name them with: "api/v1", "apis/apps/v1".
func (d *documents) services() map[string]*restful.WebService {
	all := map[string]*restful.WebService{}
	for _, s := range d.container.RegisteredWebServices() {
		all[strings.TrimPrefix(s.RootPath(), "/")] = s
	}
	return all
}

func (d *documents) serveIndex(w http.ResponseWriter, r *http.Request) {
	index := handler3.OpenAPIV3Discovery{Paths: map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}}
	for name := range d.services() {
		index.Paths[name] = handler3.OpenAPIV3DiscoveryGroupVersion{
			ServerRelativeURL: v3Path + "/" + name + "?hash=" + d.hash(name),
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(index); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}

func (d *documents) serveV3(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, v3Path+"/")
	service, ok := d.services()[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	hash := d.hash(name)
	if asked := r.URL.Query().Get("hash"); asked != "" {
		if asked != hash {
			http.Redirect(w, r, v3Path+"/"+name+"?hash="+hash, http.StatusMovedPermanently)
			return
		}
		w.Header().Set("Cache-Control", "public, immutable")
		w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	one := restful.NewContainer().Add(service)
	made := mux.NewPathRecorderMux(name)
	routes.OpenAPI{V3Config: d.v3}.InstallV3(one, made)
	forward(made, w, r, hash)
}

func (d *documents) serveV2(w http.ResponseWriter, r *http.Request) {
	hash := d.hash(v2Path)
	if r.Header.Get("If-None-Match") == strconv.Quote(hash) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	document, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(d.container.RegisteredWebServices()), d.v2)
	if err != nil {
		http.Error(w, "build the OpenAPI document: "+err.Error(), http.StatusInternalServerError)
		return
	}
	document.Definitions = prune(document)
	made := mux.NewPathRecorderMux(v2Path)
	handler.NewOpenAPIService(document).RegisterOpenAPIVersionedService(v2Path, made)
	forward(made, w, r, hash)
}

// prune leaves out defaults, which are not part of OpenAPI v2 as clients know it.
func prune(document *spec.Swagger) spec.Definitions {
	return handler.PruneDefaults(document.Definitions)
}

// forward lets the library write the document in the form the client accepts, under our hash.
func forward(to http.Handler, w http.ResponseWriter, r *http.Request, hash string) {
	asked := r.Clone(r.Context())
	asked.URL.RawQuery = "" // our hash would not be the library's
	asked.Header.Del("If-None-Match")
	asked.Header.Del("If-Modified-Since")
	to.ServeHTTP(&retagged{ResponseWriter: w, etag: strconv.Quote(hash)}, asked)
}

// retagged replaces the library's hash of the content, which is not known before the document is made.
type retagged struct {
	http.ResponseWriter
	etag string
}

func (w *retagged) WriteHeader(status int) {
	w.Header().Set("Etag", w.etag)
	w.ResponseWriter.WriteHeader(status)
}

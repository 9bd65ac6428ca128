package nodeapi

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// serveCheckpoint has the runtime write a running container to a file (the kubelet checkpoint API, KEP-2008), and answers with
// its path. A runtime that cannot says so; the one of knarr's own has no CRIU, which it takes.
func (s *Server) serveCheckpoint(w http.ResponseWriter, r *http.Request) {
	timeout := int64(0) // the runtime's own
	if text := r.URL.Query().Get("timeout"); text != "" {
		var err error
		if timeout, err = strconv.ParseInt(text, 10, 64); err != nil || timeout < 0 {
			http.Error(w, fmt.Sprintf("timeout=%q: use a number of seconds of at least 0", text), http.StatusBadRequest)
			return
		}
	}
	place, ok := s.container(w, r, false, http.StatusNotFound)
	if !ok {
		return
	}
	namespace, name, container := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("container")
	file := filepath.Join(s.config.Checkpoints, fmt.Sprintf("checkpoint-%s_%s-%s-%s.tar", name, namespace, container, time.Now().Format(time.RFC3339)))
	err := os.MkdirAll(s.config.Checkpoints, 0o700) // a container's memory may hold anything
	if err == nil {
		_, err = s.config.Runtime.CheckpointContainer(r.Context(), &runtimeapi.CheckpointContainerRequest{
			ContainerId: place.ContainerID, Location: file, Timeout: timeout,
		})
	}
	if err != nil {
		// The words and the code are upstream's: clients tell by them that a node cannot.
		s.fail(w, fmt.Errorf("checkpointing of %s/%s/%s failed (%w)", namespace, name, container, err))
		return
	}
	s.writeJSON(w, r, map[string][]string{"items": {file}})
}

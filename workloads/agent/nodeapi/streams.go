package nodeapi

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"knarr.dev/knarr/workloads/agent/translate"
)

// A stream's way: containerd makes a one-time URL on loopback, and the client's connection is joined to it byte by
// byte. containerd speaks SPDY and the older WebSocket protocols; the newer ones are translated here.

// streams a request asks for.
type streams struct{ stdin, stdout, stderr, tty bool }

// parseStreams reads the parameters in the words of the node's API and of the pod's.
func parseStreams(query url.Values) (streams, error) {
	on := func(names ...string) bool {
		for _, name := range names {
			if set, err := strconv.ParseBool(query.Get(name)); err == nil && set {
				return true
			}
		}
		return false
	}
	s := streams{stdin: on("input", "stdin"), stdout: on("output", "stdout"), stderr: on("error", "stderr"), tty: on("tty")}
	if s.tty {
		s.stderr = false // a terminal has one output
	}
	if !s.stdin && !s.stdout && !s.stderr {
		return s, fmt.Errorf("you must specify at least 1 of stdin, stdout, stderr")
	}
	return s, nil
}

func (s *Server) serveExec(w http.ResponseWriter, r *http.Request) {
	place, ok := s.container(w, r, false, http.StatusBadRequest)
	if !ok {
		return
	}
	want, err := parseStreams(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	address, err := s.config.Agent.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: place.ContainerID, Cmd: r.URL.Query()["command"],
		Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr, Tty: want.tty,
	})
	s.join(w, r, address, err, want)
}

func (s *Server) serveAttach(w http.ResponseWriter, r *http.Request) {
	place, ok := s.container(w, r, false, http.StatusBadRequest)
	if !ok {
		return
	}
	want, err := parseStreams(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	// The container has a terminal or not: that was settled when it was made.
	if container := translate.Find(place.Pod, r.PathValue("container")); container != nil {
		want.tty = container.TTY
		want.stderr = want.stderr && !container.TTY
	}
	address, err := s.config.Agent.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: place.ContainerID, Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr, Tty: want.tty,
	})
	s.join(w, r, address, err, want)
}

func (s *Server) servePortForward(w http.ResponseWriter, r *http.Request) {
	place, err := s.config.Agent.Find(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")), "", false)
	if err != nil {
		http.Error(w, fmt.Sprintf("pod %q not found", r.PathValue("pod")), http.StatusNotFound)
		return
	}
	if place.SandboxID == "" {
		http.Error(w, fmt.Sprintf("pod %q is not running yet", r.PathValue("pod")), http.StatusBadRequest)
		return
	}
	ports, err := parsePorts(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	address, err := s.config.Agent.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: place.SandboxID, Port: ports})
	target, ok := s.target(w, address, err)
	if !ok {
		return
	}
	direct := s.direct(target)
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) { // SPDY carried inside a WebSocket
		streamproxy.NewTunnelingHandler(direct).ServeHTTP(w, r)
		return
	}
	direct.ServeHTTP(w, r)
}

// parsePorts reads the ports a WebSocket request names up front; SPDY names them later, stream by stream.
func parsePorts(query url.Values) ([]int32, error) {
	var ports []int32
	for _, text := range append(query["port"], query["ports"]...) {
		port, err := strconv.ParseUint(text, 10, 16)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("port %q: use a number from 1 to 65535", text)
		}
		ports = append(ports, int32(port))
	}
	return ports, nil
}

// join connects the client to a stream of containerd's.
func (s *Server) join(w http.ResponseWriter, r *http.Request, address string, err error, want streams) {
	target, ok := s.target(w, address, err)
	if !ok {
		return
	}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		options := streamproxy.Options{Stdin: want.stdin, Stdout: want.stdout, Stderr: want.stderr, Tty: want.tty}
		streamproxy.NewStreamTranslatorHandler(target, nil, 0, options).ServeHTTP(w, r)
		return
	}
	s.direct(target).ServeHTTP(w, r)
}

func (s *Server) target(w http.ResponseWriter, address string, err error) (*url.URL, bool) {
	if err != nil {
		s.fail(w, err)
		return nil, false
	}
	target, err := url.Parse(address)
	if err != nil {
		s.fail(w, fmt.Errorf("read the stream's address: %w", err))
		return nil, false
	}
	return target, true
}

// direct passes the connection on as it is.
func (s *Server) direct(target *url.URL) *proxy.UpgradeAwareHandler {
	return proxy.NewUpgradeAwareHandler(target, nil, false, true, responder{s})
}

type responder struct{ server *Server }

func (r responder) Error(w http.ResponseWriter, _ *http.Request, err error) { r.server.fail(w, err) }

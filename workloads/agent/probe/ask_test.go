package probe

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// application answers the probes below on a real socket.
func application() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/local", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ok", http.StatusFound) })
	mux.HandleFunc("/loop", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/loop", http.StatusFound) })
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://elsewhere.example/", http.StatusFound)
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s|%s|%s|%s|%s", r.Host, r.UserAgent(), r.Header.Get("Accept"), r.Header.Get("X-Test"), r.URL.RawQuery)
	})
	return mux
}

func TestHTTP(t *testing.T) {
	plain := httptest.NewServer(application())
	defer plain.Close()
	secure := httptest.NewTLSServer(application())
	defer secure.Close()
	tests := map[string]struct {
		path    string
		scheme  corev1.URIScheme
		headers []corev1.HTTPHeader
		want    outcome
		message string
		warning string
	}{
		"an answer": {path: "/ok", want: success, message: "fine"},
		"an answer over a certificate nobody knows": {path: "/ok", scheme: corev1.URISchemeHTTPS, want: success, message: "fine"},
		"an error":                    {path: "/broken", want: failure, message: "HTTP probe failed with statuscode: 500"},
		"a page that is not there":    {path: "/none", want: failure, message: "HTTP probe failed with statuscode: 404"},
		"no answer in time":           {path: "/slow", want: failure, message: "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"},
		"a redirect on the same host": {path: "/local", want: success, message: "fine"},
		"a redirect that never ends":  {path: "/loop", want: failure, message: "stopped after 10 redirects"},
		"a redirect to another host":  {path: "/elsewhere", want: success, warning: "Probe terminated redirects"},
		"who we are, and a query":     {path: "/echo?a=b", want: success, message: "|kube-probe/1.37|*/*||a=b"},
		"headers of the user's": {path: "/echo", want: success, message: "shop.example|mine|text/plain|1|", headers: []corev1.HTTPHeader{
			{Name: "Host", Value: "shop.example"}, {Name: "user-agent", Value: "mine"}, {Name: "Accept", Value: "text/plain"}, {Name: "X-Test", Value: "1"}}},
		"headers the user does not want": {path: "/echo", want: success, message: "||||", headers: []corev1.HTTPHeader{
			{Name: "User-Agent"}, {Name: "Accept"}}},
	}
	asker := newAsker(nil)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			server := plain
			if tc.scheme == corev1.URISchemeHTTPS {
				server = secure
			}
			host, port, err := net.SplitHostPort(server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			c := &container{ip: host, spec: &corev1.Container{}}
			target := targetOf(c, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
				Path: tc.path, Port: intstr.Parse(port), Scheme: tc.scheme, HTTPHeaders: tc.headers,
			}}})
			if strings.HasPrefix(tc.path, "/slow") {
				target.timeout = 50 * time.Millisecond
			}
			got := asker.ask(t.Context(), target)
			if got.outcome != tc.want || !strings.Contains(got.message, tc.message) || !strings.Contains(got.warning, tc.warning) {
				t.Errorf("ask() = %+v, want %d %q %q", got, tc.want, tc.message, tc.warning)
			}
		})
	}
}

func TestTCPAndGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	states := health.NewServer()
	states.SetServingStatus("sick", healthv1.HealthCheckResponse_NOT_SERVING)
	healthv1.RegisterHealthServer(server, states)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	bare, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	noHealth := grpc.NewServer()
	go func() { _ = noHealth.Serve(bare) }()
	defer noHealth.Stop()

	port := func(l net.Listener) int32 { return int32(l.Addr().(*net.TCPAddr).Port) }
	tcp := func(l net.Listener) corev1.ProbeHandler {
		return corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(port(l))}}
	}
	asks := func(l net.Listener, service string) corev1.ProbeHandler {
		return corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port(l), Service: &service}}
	}
	tests := map[string]struct {
		probe   corev1.ProbeHandler
		want    outcome
		message string
	}{
		"an open port":            {probe: tcp(listener), want: success},
		"a closed port":           {probe: tcp(closed), want: failure, message: "connect: connection refused"},
		"a name nobody gave":      {probe: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromString("web")}}, want: unknown, message: `port "web" is neither`},
		"a healthy server":        {probe: asks(listener, ""), want: success},
		"a sick service":          {probe: asks(listener, "sick"), want: failure, message: `service unhealthy (responded with "NOT_SERVING")`},
		"a service unknown to it": {probe: asks(listener, "none"), want: failure, message: "error: health rpc failed"},
		"no server":               {probe: asks(closed, ""), want: failure, message: "timeout: failed to connect service"},
		"a server without health": {probe: asks(bare, ""), want: failure, message: "does not implement the grpc health protocol"},
	}
	asker := newAsker(nil)
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := &container{ip: "127.0.0.1", spec: &corev1.Container{Name: "c"}}
			got := asker.ask(t.Context(), targetOf(c, &corev1.Probe{ProbeHandler: tc.probe}))
			if got.outcome != tc.want || !strings.Contains(got.message, tc.message) {
				t.Errorf("ask() = %+v, want %d %q", got, tc.want, tc.message)
			}
		})
	}
}

// commands answers like containerd does.
type commands struct {
	code int32
	err  error
}

func (c commands) ExecSync(context.Context, *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	return &runtimeapi.ExecSyncResponse{ExitCode: c.code, Stdout: []byte("out "), Stderr: []byte("err")}, c.err
}

func TestExec(t *testing.T) {
	tests := map[string]struct {
		runtime commands
		want    outcome
		message string
	}{
		"it ends well":         {want: success, message: "out err"},
		"it fails":             {runtime: commands{code: 1}, want: failure, message: "out err"},
		"it takes too long":    {runtime: commands{err: fmt.Errorf("timeout 1s exceeded: %w", context.DeadlineExceeded)}, want: failure, message: `command timed out: ["sh" "-c"] timed out after 1s`},
		"it cannot be started": {runtime: commands{err: fmt.Errorf("container is not running")}, want: unknown, message: "container is not running"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := newAsker(tc.runtime).ask(t.Context(), target{exec: []string{"sh", "-c"}, timeout: time.Second})
			if got.outcome != tc.want || got.message != tc.message {
				t.Errorf("ask() = %+v, want %d %q", got, tc.want, tc.message)
			}
		})
	}
}

func TestNamedPort(t *testing.T) {
	c := &container{ip: "10.0.0.1", spec: &corev1.Container{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}
	got := targetOf(c, &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromString("web")}}})
	if got.host != "10.0.0.1" || got.port != "8080" || got.problem != "" {
		t.Errorf("targetOf() = %+v", got)
	}
}

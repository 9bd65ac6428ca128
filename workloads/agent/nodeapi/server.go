// Package nodeapi is the node's HTTPS server: what the API server, kubectl through it, and metrics collectors ask a node.
//
// In:       requests on port 10250, with a client certificate or a bearer token; pods and places from the agent.
// Out:      logs, exec, attach, port-forward, statistics, metrics; in the forms every Kubernetes client knows.
// Promise:  but for /healthz, the API server says who asks and whether it may; certificates may change at any time.
// Not here: streams themselves (containerd serves them on loopback), log files (logfile), counting (stats).
package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/nodeapi/stats"
	"knarr.dev/knarr/workloads/agent/pod"
)

// Agent knows the node's pods; workloads/agent has it.
type Agent interface {
	Pods() []*corev1.Pod
	VolumePaths(uid types.UID) map[string]string // of a pod, by the volumes' names
	Find(namespace, name string, uid types.UID, container string, previous bool) (pod.Place, error)
	Exec(context.Context, *runtimeapi.ExecRequest) (string, error)
	Attach(context.Context, *runtimeapi.AttachRequest) (string, error)
	PortForward(context.Context, *runtimeapi.PortForwardRequest) (string, error)
}

// Runtime answers about containers; workloads/agent/runtime is one.
type Runtime interface {
	stats.Runtime
	ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error)
	ExecSync(context.Context, *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error)
	CheckpointContainer(context.Context, *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error)
}

// Config of the server.
type Config struct {
	Address  string // to listen on; "" means :10250
	NodeName string
	DataDir  string // on the node's disk, for its statistics

	VolumeRoots []string      // folders that hold volumes and nothing else, for the same
	LogRoot     string        // where pods' logs lie
	Drivers     stats.Drivers // of storage; nil: none

	CertFile, KeyFile string // this node's serving certificate; it may appear later and change at any time
	ClientCAFile      string // whose client certificates are believed

	Client  kubernetes.Interface // with the node's identity: it asks the API server who may do what
	Agent   Agent
	Runtime Runtime
	Groups  stats.Groups
	// Settings are shown at /configz to those who look for a kubelet's configuration.
	Settings any
	// Volumes answers below /volumes/, about folders that are volumes of the cluster; nil where there are none. It is
	// asked by those who have the right to nodes/proxy.
	Volumes http.Handler
	// Metrics are shown at /metrics beside those of the libraries of Kubernetes; nil where there are none.
	Metrics prometheus.Gatherer
	// Probes are shown at /metrics/probes: what containers' probes came to; nil where there are none.
	Probes prometheus.Gatherer
	// Checkpoints is the folder that containers are written to when somebody asks for it; "" means DataDir's checkpoints.
	Checkpoints string
	Log         *slog.Logger
}

// Validate says what is missing.
func (c *Config) Validate() error {
	switch {
	case c.NodeName == "":
		return errors.New("the node's server needs the node's name")
	case c.CertFile == "" || c.KeyFile == "" || c.ClientCAFile == "":
		return errors.New("the node's server needs a certificate, its key and the client CA")
	case c.Client == nil || c.Agent == nil || c.Runtime == nil || c.Groups == nil:
		return errors.New("the node's server needs a client, an agent, a runtime and its control groups")
	}
	return nil
}

// Server is the component.
type Server struct {
	config       Config
	certificates *certificates
	access       *access
	stats        *stats.Collector
	metrics      http.Handler
	asking       singleflight.Group // what health asks, once for all who ask for it

	mu       sync.Mutex
	listener net.Listener
}

// New makes a server; it listens once it runs.
func New(config Config) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if config.Address == "" {
		config.Address = ":10250"
	}
	if config.Checkpoints == "" {
		config.Checkpoints = filepath.Join(config.DataDir, "checkpoints")
	}
	if config.Probes == nil {
		config.Probes = prometheus.NewRegistry()
	}
	if config.Log == nil {
		config.Log = slog.Default()
	}
	config.Log = config.Log.With("component", "nodeapi")
	s := &Server{
		config:       config,
		certificates: &certificates{cert: config.CertFile, key: config.KeyFile, ca: config.ClientCAFile, log: config.Log},
		access:       newAccess(config.Client, config.NodeName),
		stats: &stats.Collector{NodeName: config.NodeName, DataDir: config.DataDir, Runtime: config.Runtime, Groups: config.Groups,
			VolumeRoots: config.VolumeRoots, LogRoot: config.LogRoot, Paths: config.Agent.VolumePaths, Drivers: config.Drivers, Pods: config.Agent.Pods},
	}
	var err error
	if s.metrics, err = s.metricsHandler(); err != nil {
		return nil, fmt.Errorf("prepare the node's metrics: %w", err)
	}
	return s, nil
}

// Name of the component.
func (s *Server) Name() string { return "nodeapi" }

// Run serves until ctx ends; then open streams are cut, because they could last forever.
func (s *Server) Run(ctx context.Context, ready func()) error {
	inner, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.config.Address)
	if err != nil {
		return fmt.Errorf("listen for the node's API on %s: %w; is a kubelet or another knarr running on this machine?", s.config.Address, err)
	}
	listener := &trackingListener{Listener: inner, open: map[*trackedConn]struct{}{}}
	s.mu.Lock()
	s.listener = listener
	s.mu.Unlock()

	requests, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var running sync.WaitGroup
	handler := s.access.guard(s.routes())
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Done()
			handler.ServeHTTP(w, r)
		}),
		TLSConfig:         s.certificates.serving(),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       90 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ErrorLog:          slog.NewLogLogger(s.config.Log.Handler(), slog.LevelDebug), // handshakes of strangers
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve the node's API on %s: %w", s.config.Address, err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 300*time.Millisecond)
		defer cancel()
		err := server.Shutdown(grace) // short questions get their answers
		cut()
		if err != nil {
			_ = server.Close() // Shutdown ran out of time: that is what Close is for
		}
		listener.closeAll() // streams were taken from the server: it no longer knows them
		return nil
	})
	ready()
	err = group.Wait()
	running.Wait()
	return err
}

// Addr is where the server listens, nil before it does.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// routes is everything the node answers. What may be asked by whom is decided in access.go, by path.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	healthz.InstallHandler(mux, healthz.PingHealthz, healthz.LogHealthz, healthz.NamedCheck("syncloop", s.checkPods))
	mux.HandleFunc("GET /pods", s.servePods)
	mux.HandleFunc("GET /pods/{$}", s.servePods)
	mux.HandleFunc("GET /runningpods/{$}", s.serveRunningPods)
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.serveLogs)
	for _, verb := range []string{"GET ", "POST "} { // WebSockets come as GET, SPDY as POST
		mux.HandleFunc(verb+"/exec/{namespace}/{pod}/{container}", s.serveExec)
		mux.HandleFunc(verb+"/exec/{namespace}/{pod}/{uid}/{container}", s.serveExec)
		mux.HandleFunc(verb+"/attach/{namespace}/{pod}/{container}", s.serveAttach)
		mux.HandleFunc(verb+"/attach/{namespace}/{pod}/{uid}/{container}", s.serveAttach)
		mux.HandleFunc(verb+"/portForward/{namespace}/{pod}", s.servePortForward)
		mux.HandleFunc(verb+"/portForward/{namespace}/{pod}/{uid}", s.servePortForward)
	}
	mux.HandleFunc("POST /run/{namespace}/{pod}/{container}", s.serveRun)
	mux.HandleFunc("POST /run/{namespace}/{pod}/{uid}/{container}", s.serveRun)
	mux.HandleFunc("GET /stats/summary", s.serveSummary)
	mux.Handle("GET /metrics", s.metrics)
	mux.HandleFunc("GET /metrics/resource", s.serveResources)
	mux.HandleFunc("GET /metrics/cadvisor", s.serveContainers)
	mux.Handle("GET /metrics/probes", promhttp.HandlerFor(s.config.Probes, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("POST /checkpoint/{namespace}/{pod}/{container}", s.serveCheckpoint)
	mux.HandleFunc("GET /configz", s.serveSettings)
	if s.config.Volumes != nil {
		mux.Handle("/volumes/", s.config.Volumes)
	}
	return mux
}

// trackingListener knows the open connections, those taken over by streams as well.
type trackingListener struct {
	net.Listener
	mu   sync.Mutex
	open map[*trackedConn]struct{}
}

type trackedConn struct {
	net.Conn
	from *trackingListener
}

func (l *trackingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tracked := &trackedConn{Conn: conn, from: l}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[tracked] = struct{}{}
	return tracked, nil
}

func (l *trackingListener) closeAll() {
	l.mu.Lock()
	conns := make([]*trackedConn, 0, len(l.open))
	for conn := range l.open {
		conns = append(conns, conn)
	}
	l.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close() // cutting it is the aim
	}
}

func (c *trackedConn) Close() error {
	c.from.mu.Lock()
	delete(c.from.open, c)
	c.from.mu.Unlock()
	return c.Conn.Close()
}

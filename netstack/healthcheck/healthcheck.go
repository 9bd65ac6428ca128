// Package healthcheck tells load balancers outside whether this node has anybody to answer for a Service.
//
// In:       Services with a healthCheckNodePort, and their EndpointSlices (netstack/endpoints).
// Out:      an HTTP answer on that port of the node: 200 while a ready endpoint is on this node, else 503.
// Promise:  an answer says how things are when it is asked for; a port that is another program's is tried again.
// Not here: where packets go (netstack/proxy).
package healthcheck

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints"
)

// retryInterval follows an attempt to listen that failed.
const retryInterval = 10 * time.Second

// patience with a client: what asks is a program, and asks again.
const patience = 5 * time.Second

// Server is the component.
type Server struct {
	node string
	view *endpoints.View
	log  *slog.Logger
	wake chan struct{}

	mu    sync.Mutex
	dirty map[types.NamespacedName]bool
}

// New answers for the Services in view.
func New(node string, view *endpoints.View, log *slog.Logger) *Server {
	return &Server{node: node, view: view, log: log, wake: make(chan struct{}, 1), dirty: map[types.NamespacedName]bool{}}
}

// Name of the component.
func (s *Server) Name() string { return "service-health" }

// Run listens where Services ask for it, until ctx ends. It is ready at once: a load balancer that gets no answer sends
// its clients elsewhere, as it should.
func (s *Server) Run(ctx context.Context, ready func()) error {
	defer s.view.Subscribe(s.mark)()
	ready()
	open := map[types.NamespacedName]*answerer{}
	defer func() {
		for _, a := range open {
			a.close()
		}
	}()
	for {
		var retry <-chan time.Time
		if s.settle(open, s.takeDirty()) {
			retry = time.After(retryInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-retry:
		}
	}
}

// settle opens and closes ports. Those of Services that let go come first: another may have taken one over.
func (s *Server) settle(open map[types.NamespacedName]*answerer, dirty map[types.NamespacedName]bool) (again bool) {
	for key := range dirty {
		if a := open[key]; a != nil && a.port != portOf(s.view.Get(key).Service) {
			a.close()
			delete(open, key)
		}
	}
	for key := range dirty {
		port := portOf(s.view.Get(key).Service)
		if port == 0 || open[key] != nil {
			continue
		}
		a, err := s.answer(key, port)
		if err != nil {
			s.log.Error("load balancers cannot ask for a service's health; trying again", "component", s.Name(), "service", key, "error", err)
			s.mu.Lock()
			s.dirty[key] = true
			s.mu.Unlock()
			again = true
			continue
		}
		open[key] = a
	}
	return again
}

// portOf is the port a Service asks for, or 0.
func portOf(service *corev1.Service) int32 {
	if service == nil || service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return 0
	}
	return service.Spec.HealthCheckNodePort
}

// answerer is one open port.
type answerer struct {
	port   int32
	server *http.Server
	ended  chan struct{}
}

func (s *Server) answer(key types.NamespacedName, port int32) (*answerer, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("listen on health-check node port %d: %w", port, err)
	}
	a := &answerer{port: port, ended: make(chan struct{}), server: &http.Server{
		ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { s.say(w, key) }),
	}}
	go func() {
		defer close(a.ended)
		if err := a.server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("a service's health port is closed", "component", s.Name(), "service", key, "error", err)
		}
	}()
	return a, nil
}

func (a *answerer) close() {
	_ = a.server.Close()
	<-a.ended
}

// say answers in the form that load balancers of cloud providers know.
func (s *Server) say(w http.ResponseWriter, key types.NamespacedName) {
	count := here(s.view.Get(key), s.node)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.Itoa(count))
	if count == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	type service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	_ = json.NewEncoder(w).Encode(struct { // whoever does not listen asks again
		Service             service `json:"service"`
		LocalEndpoints      int     `json:"localEndpoints"`
		ServiceProxyHealthy bool    `json:"serviceProxyHealthy"`
	}{service{key.Namespace, key.Name}, count, true})
}

// here counts a Service's ready endpoints on a node. Those that are leaving still answer, but are not to be sent to.
func here(e endpoints.Entry, node string) int {
	seen := map[string]bool{}
	for _, slice := range e.Slices {
		for i := range slice.Endpoints {
			endpoint := &slice.Endpoints[i]
			if ptr.Deref(endpoint.NodeName, "") == node && ptr.Deref(endpoint.Conditions.Ready, true) && len(endpoint.Addresses) > 0 {
				seen[endpoint.Addresses[0]] = true
			}
		}
	}
	return len(seen)
}

func (s *Server) mark(key types.NamespacedName) {
	s.mu.Lock()
	s.dirty[key] = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // a pass is due anyway
	}
}

func (s *Server) takeDirty() map[types.NamespacedName]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirty := s.dirty
	s.dirty = map[types.NamespacedName]bool{}
	return dirty
}

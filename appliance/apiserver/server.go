// Package apiserver serves the Kubernetes API.
//
// In:       certificates, a datastore, requests.
// Out:      answers, and what was asked for in the datastore.
// Promise:  what is answered as written is in the datastore; clients of Kubernetes v1.37 notice no difference.
// Not here: what any kind means (appliance/apiserver/kinds), who may do what (authn, authz).
package apiserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"knarr.dev/knarr/appliance/apiserver/baseline"
	"knarr.dev/knarr/appliance/apiserver/loopback"
	"knarr.dev/knarr/bootstrap/watching"
)

// Server is one API server. It is a component of a machine.
type Server struct {
	config   Config
	loopback *loopback.Transport
	client   *rest.Config
}

// New checks the configuration; nothing listens or connects before Run.
func New(config Config) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("configure the API server: %w", err)
	}
	if err := setFeatures(); err != nil {
		return nil, err
	}
	transport := loopback.New()
	return &Server{config: config.complete(), loopback: transport, client: watching.Through(transport.Config())}, nil
}

// Name for reports.
func (s *Server) Name() string { return "apiserver" }

// LoopbackConfig is for clients in this process. They may do everything, and wait until the server runs.
func (s *Server) LoopbackConfig() *rest.Config { return rest.CopyConfig(s.client) }

// Run serves until ctx ends and requests that were being answered are. It is ready when /readyz says so.
func (s *Server) Run(ctx context.Context, ready func()) error {
	address := net.JoinHostPort(s.config.BindAddress.String(), strconv.Itoa(s.config.Port))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for the API on %s: %w (is another API server running?)", address, err)
	}
	defer listener.Close()
	chain, err := s.assemble(ctx, listener)
	if err != nil {
		return err
	}
	defer chain.close()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return chain.run(ctx) })
	group.Go(func() error {
		if err := chain.waitReady(ctx); err != nil {
			return nil //nolint:nilerr // stopped while waiting, or run says why
		}
		if err := chain.objects.Settle(ctx); err != nil {
			slog.Warn("objects of the cluster itself are not all in place yet", "component", s.Name(), "err", err)
		}
		ready()
		group.Go(func() error { chain.encryption.Run(ctx, chain.connection); return nil })
		for _, follow := range chain.followers {
			group.Go(func() error { follow(ctx); return nil })
		}
		group.Go(func() error { return chain.identity.Run(ctx) })
		// Until now system:masters and nodes were served, which need no roles.
		group.Go(func() error { baseline.Keep(ctx, chain.client.RbacV1(), slog.With("component", s.Name())); return nil })
		return chain.objects.Run(ctx)
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}

// readyEvery is how often a starting server looks whether it is ready. The library's start hooks have no common end.
const readyEvery = 5 * time.Millisecond

// waitReady asks /readyz the way anybody would.
func (c *chain) waitReady(ctx context.Context) error {
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		result := c.client.RESTClient().Get().AbsPath("/readyz").Do(ctx)
		var status int
		if result.StatusCode(&status); status == http.StatusOK {
			return nil
		}
	}
}

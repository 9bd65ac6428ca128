package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/transport"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// agents reaches node agents at the address their Node object names, with a certificate they know.
type agents struct {
	transport http.RoundTripper
	node      func(ctx context.Context, name string) (*corev1.Node, error)
}

var _ resource.NodeConnector = &agents{}

func newAgents(config *Config, env *resource.Env) (*agents, error) {
	rt, err := transport.New(&transport.Config{TLS: transport.TLSConfig{
		CAFile:         config.ClusterCA,
		CertFile:       config.KubeletClientCert,
		KeyFile:        config.KubeletClientKey,
		ReloadTLSFiles: true,
		// Streams (exec, attach, port-forward) are upgraded, which HTTP/2 cannot.
		NextProtos: []string{"http/1.1"},
	}})
	if err != nil {
		return nil, fmt.Errorf("prepare connections to node agents: %w", err)
	}
	return &agents{transport: rt, node: func(ctx context.Context, name string) (*corev1.Node, error) {
		obj, err := env.Storage(corev1.Resource("nodes")).Get(ctx, name, &metav1.GetOptions{ResourceVersion: "0"})
		if err != nil {
			return nil, err
		}
		return obj.(*corev1.Node), nil
	}}, nil
}

func (a *agents) Connect(ctx context.Context, name string) (*url.URL, http.RoundTripper, error) {
	node, err := a.node(ctx, name)
	if err != nil {
		return nil, nil, fmt.Errorf("find node %s: %w", name, err)
	}
	address, err := agentAddress(node)
	if err != nil {
		return nil, nil, fmt.Errorf("reach node %s: %w", name, err)
	}
	return &url.URL{Scheme: "https", Host: address}, a.transport, nil
}

// agentAddress prefers the address that stays inside the cluster.
func agentAddress(node *corev1.Node) (string, error) {
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		return "", errors.New("its agent has not said where it listens")
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName} {
		for _, address := range node.Status.Addresses {
			if address.Type == kind {
				return net.JoinHostPort(address.Address, strconv.Itoa(int(port))), nil
			}
		}
	}
	return "", errors.New("it has no address")
}

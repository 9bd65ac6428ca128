package subresource

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// proxied hands HTTP requests on to a pod, a service or a node.
type proxied struct {
	env     *resource.Env
	options func() runtime.Object
	path    func(options runtime.Object) string
	locate  func(ctx context.Context, env *resource.Env, name string) (*url.URL, http.RoundTripper, error)
}

var _ rest.Connecter = &proxied{}

// PodProxy reaches a pod as [scheme:]name[:port].
func PodProxy(env *resource.Env, _ *resource.Storage) (rest.Storage, error) {
	return &proxied{env: env, options: func() runtime.Object { return &corev1.PodProxyOptions{} },
		path: func(o runtime.Object) string { return o.(*corev1.PodProxyOptions).Path }, locate: locatePod}, nil
}

// ServiceProxy reaches one of a service's endpoints as [scheme:]name[:port].
func ServiceProxy(env *resource.Env, _ *resource.Storage) (rest.Storage, error) {
	return &proxied{env: env, options: func() runtime.Object { return &corev1.ServiceProxyOptions{} },
		path: func(o runtime.Object) string { return o.(*corev1.ServiceProxyOptions).Path }, locate: locateService}, nil
}

// NodeProxy reaches a node's agent.
func NodeProxy(env *resource.Env, _ *resource.Storage) (rest.Storage, error) {
	return &proxied{env: env, options: func() runtime.Object { return &corev1.NodeProxyOptions{} },
		path: func(o runtime.Object) string { return o.(*corev1.NodeProxyOptions).Path }, locate: locateNode}, nil
}

func (p *proxied) New() runtime.Object { return p.options() }

// Destroy does nothing: there is nothing but a reference.
func (p *proxied) Destroy() {}

func (p *proxied) NewConnectOptions() (runtime.Object, bool, string) {
	return p.options(), true, "path"
}

func (p *proxied) ConnectMethods() []string {
	return []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions}
}

func (p *proxied) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	location, transport, err := p.locate(ctx, p.env, name)
	if err != nil {
		return nil, err
	}
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, p.path(options))
	return proxy.NewUpgradeAwareHandler(location, transport, true, false, proxy.NewErrorResponder(responder)), nil
}

// workloads is the transport to pods. What they present as https has no authority we know; who may be reached at
// all was decided by authorization.
var workloads = utilnet.SetTransportDefaults(&http.Transport{
	DialContext:     (&net.Dialer{}).DialContext,
	TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	// An upgraded connection needs HTTP/1.1.
	TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
})

// reachable refuses addresses that mean this machine or its link: a pod's status must not open them to clients.
func reachable(address string) error {
	ip, err := netip.ParseAddr(address)
	switch {
	case err != nil:
		return apierrors.NewBadRequest("address not allowed")
	case ip.IsLoopback(), ip.IsLinkLocalUnicast(), ip.IsLinkLocalMulticast(), ip.IsInterfaceLocalMulticast(), ip.IsUnspecified():
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func split(id, kind string) (scheme, name, port string, err error) {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q", kind, id))
	}
	return scheme, name, port, nil
}

func locatePod(ctx context.Context, env *resource.Env, id string) (*url.URL, http.RoundTripper, error) {
	scheme, name, port, err := split(id, "pod")
	if err != nil {
		return nil, nil, err
	}
	pod, err := stored[*corev1.Pod](ctx, env, "pods", name)
	if err != nil {
		return nil, nil, err
	}
	if err := reachable(pod.Status.PodIP); err != nil {
		return nil, nil, err
	}
	return &url.URL{Scheme: scheme, Host: hostPort(pod.Status.PodIP, podPort(pod, port))}, workloads, nil
}

// podPort is the port a client named, else the first one the pod declares.
func podPort(pod *corev1.Pod, port string) string {
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if port == "" || p.Name == port {
				return strconv.Itoa(int(p.ContainerPort))
			}
		}
	}
	return port
}

func hostPort(host, port string) string {
	if port != "" {
		return net.JoinHostPort(host, port)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.Is6() {
		return "[" + host + "]"
	}
	return host
}

func locateService(ctx context.Context, env *resource.Env, id string) (*url.URL, http.RoundTripper, error) {
	scheme, name, port, err := split(id, "service")
	if err != nil {
		return nil, nil, err
	}
	svc, err := stored[*corev1.Service](ctx, env, "services", name)
	if err != nil {
		return nil, nil, err
	}
	portName, err := servicePort(svc, port)
	if err != nil {
		return nil, nil, err
	}
	slices := env.Storage(discoveryv1.Resource("endpointslices"))
	if slices == nil {
		return nil, nil, errors.New("find the storage of endpoint slices: it is not in the table")
	}
	list, err := slices.List(ctx, &metainternalversion.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})})
	if err != nil {
		return nil, nil, err
	}
	endpoints := readyEndpoints(list.(*discoveryv1.EndpointSliceList).Items, portName)
	if len(endpoints) == 0 {
		return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
	}
	return &url.URL{Scheme: scheme, Host: endpoints[rand.IntN(len(endpoints))]}, workloads, nil
}

// servicePort is the name of the port a client gave by name or number.
func servicePort(svc *corev1.Service, port string) (string, error) {
	if port == "" && len(svc.Spec.Ports) == 1 {
		return svc.Spec.Ports[0].Name, nil
	}
	for _, p := range svc.Spec.Ports {
		if p.Name == port || port != "" && strconv.Itoa(int(p.Port)) == port {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, svc.Name))
}

// readyEndpoints are the addresses, with ports, that take traffic of a service's port.
func readyEndpoints(slices []discoveryv1.EndpointSlice, port string) []string {
	var found []string
	for _, slice := range slices {
		for _, p := range slice.Ports {
			if p.Port == nil || p.Name == nil || *p.Name != port {
				continue
			}
			for _, endpoint := range slice.Endpoints {
				if endpoint.Conditions.Ready != nil && !*endpoint.Conditions.Ready {
					continue
				}
				for _, address := range endpoint.Addresses {
					if reachable(address) == nil {
						found = append(found, net.JoinHostPort(address, strconv.Itoa(int(*p.Port))))
					}
				}
			}
		}
	}
	return found
}

func locateNode(ctx context.Context, env *resource.Env, id string) (*url.URL, http.RoundTripper, error) {
	scheme, name, port, err := split(id, "node")
	if err != nil {
		return nil, nil, err
	}
	agent, transport, err := env.Nodes.Connect(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if port == "" || port == agent.Port() {
		return agent, transport, nil
	}
	// Another port of the machine is not its agent, so it does not get the agent's credentials.
	if err := reachable(agent.Hostname()); err != nil {
		return nil, nil, err
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(agent.Hostname(), port)}, workloads, nil
}

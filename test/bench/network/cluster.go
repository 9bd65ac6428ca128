package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

// The cluster that is played. Its pods are somewhere behind the node, each with an address of its own.
const (
	nodeName  = "node"
	namespace = "default"
	podPort   = 8080
	port      = 80
)

var (
	podRange     = netip.MustParsePrefix("10.128.0.0/10")
	endpointsAt  = netip.MustParsePrefix("10.128.0.0/11") // those behind Services
	serviceRange = netip.MustParsePrefix("10.43.0.0/16")  // the API server's
)

// cluster is the objects. Service n has the n-th address, and the endpoints from n times their number on.
type cluster struct {
	server    *servertest.Server
	client    kubernetes.Interface
	endpoints int
	size      int // Services there are from the beginning
	next      int // the number of the next Service
}

func newCluster(server *servertest.Server, endpoints int) (*cluster, error) {
	api := server.Admin()
	api.ContentType = runtime.ContentTypeProtobuf
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, err
	}
	return &cluster{server: server, client: client, endpoints: endpoints}, nil
}

// fill creates the node and the first Services.
func (c *cluster) fill(ctx context.Context, size int) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddr.String()}}
	node, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: nodeAddr.String()}}
	if _, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for n := range size {
		group.Go(func() error { return c.create(ctx, n, c.endpoints) })
	}
	c.size, c.next = size, size
	return group.Wait()
}

// create makes Service n and what is behind it.
func (c *cluster) create(ctx context.Context, n, endpoints int) error {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName(n)},
		Spec:       corev1.ServiceSpec{ClusterIP: serviceAddr(n).String(), Ports: []corev1.ServicePort{{Name: "http", Port: port}}},
	}
	if _, err := c.client.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create service %d: %w", n, err)
	}
	var addrs []netip.Addr
	for i := range endpoints {
		addrs = append(addrs, endpointAddr(n*c.endpoints+i))
	}
	if _, err := c.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, slice(n, addrs...), metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create the endpoints of service %d: %w", n, err)
	}
	return nil
}

// point gives Service n a single endpoint.
func (c *cluster) point(ctx context.Context, n int, to netip.Addr) error {
	_, err := c.client.DiscoveryV1().EndpointSlices(namespace).Update(ctx, slice(n, to), metav1.UpdateOptions{})
	return err
}

func (c *cluster) drop(ctx context.Context, n int) error {
	if err := c.client.CoreV1().Services(namespace).Delete(ctx, serviceName(n), metav1.DeleteOptions{}); err != nil {
		return err
	}
	return c.client.DiscoveryV1().EndpointSlices(namespace).Delete(ctx, serviceName(n), metav1.DeleteOptions{})
}

func slice(n int, addrs ...netip.Addr) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:   serviceName(n),
			Labels: map[string]string{discoveryv1.LabelServiceName: serviceName(n), discoveryv1.LabelManagedBy: "bench"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](podPort), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, addr := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{addr.String()}, NodeName: ptr.To("elsewhere"),
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
		})
	}
	return s
}

func serviceName(n int) string { return fmt.Sprintf("service-%d", n) }

// serviceAddr leaves out the range's first addresses: the kubernetes Service has one of them.
func serviceAddr(n int) netip.Addr { return nth(serviceRange, n+256) }

func endpointAddr(n int) netip.Addr { return nth(endpointsAt, n+1) }

func nth(in netip.Prefix, n int) netip.Addr {
	a := in.Addr().As4()
	return netip.AddrFrom4([4]byte{a[0], a[1] + byte(n>>16), a[2] + byte(n>>8), a[3] + byte(n)})
}

// kubeconfig is for the administrator, over the port at which a node reaches the API server.
func (c *cluster) kubeconfig(path string) error {
	admin := c.server.Admin()
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	config.AuthInfos["bench"] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.CertData, ClientKeyData: admin.KeyData}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "bench"}
	config.CurrentContext = "bench"
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		return err
	}
	return os.Chmod(path, 0o600)
}

package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corev1listers "k8s.io/client-go/listers/core/v1"
	cloudprovider "k8s.io/cloud-provider"

	"knarr.dev/knarr/bootstrap/addresspool"
)

// Provider is the cloud of machines that have none: a node is what it says it is, and addresses come from a pool.
type Provider struct {
	pool     addresspool.Pool
	services corev1listers.ServiceLister

	mu    sync.Mutex
	given map[types.NamespacedName][]netip.Addr // until the cache shows them, and longer
}

var (
	_ cloudprovider.Interface    = &Provider{}
	_ cloudprovider.LoadBalancer = &Provider{}
	_ cloudprovider.InstancesV2  = &Provider{}
)

// NewProvider returns the cloud with these addresses.
func NewProvider(pool addresspool.Pool, services corev1listers.ServiceLister) *Provider {
	return &Provider{pool: pool, services: services, given: map[types.NamespacedName][]netip.Addr{}}
}

// Initialize implements cloudprovider.Interface.
func (p *Provider) Initialize(cloudprovider.ControllerClientBuilder, <-chan struct{}) {}

// ProviderName implements cloudprovider.Interface; it begins the provider IDs of nodes.
func (p *Provider) ProviderName() string { return "knarr" }

// HasClusterID implements cloudprovider.Interface: nothing of ours could be another cluster's.
func (p *Provider) HasClusterID() bool { return true }

// LoadBalancer implements cloudprovider.Interface.
func (p *Provider) LoadBalancer() (cloudprovider.LoadBalancer, bool) { return p, true }

// InstancesV2 implements cloudprovider.Interface.
func (p *Provider) InstancesV2() (cloudprovider.InstancesV2, bool) { return p, true }

// Instances implements cloudprovider.Interface; InstancesV2 replaces them.
func (p *Provider) Instances() (cloudprovider.Instances, bool) { return nil, false }

// Zones implements cloudprovider.Interface; InstancesV2 replaces them.
func (p *Provider) Zones() (cloudprovider.Zones, bool) { return nil, false }

// Clusters implements cloudprovider.Interface.
func (p *Provider) Clusters() (cloudprovider.Clusters, bool) { return nil, false }

// Routes implements cloudprovider.Interface: netstack/overlay makes them.
func (p *Provider) Routes() (cloudprovider.Routes, bool) { return nil, false }

// InstanceExists implements cloudprovider.InstancesV2: only a person knows that a machine was thrown away.
func (p *Provider) InstanceExists(context.Context, *corev1.Node) (bool, error) { return true, nil }

// InstanceShutdown implements cloudprovider.InstancesV2: a machine that is off looks like one that is cut off.
func (p *Provider) InstanceShutdown(context.Context, *corev1.Node) (bool, error) { return false, nil }

// InstanceMetadata implements cloudprovider.InstancesV2 with what the node says of itself.
func (p *Provider) InstanceMetadata(_ context.Context, node *corev1.Node) (*cloudprovider.InstanceMetadata, error) {
	return &cloudprovider.InstanceMetadata{
		ProviderID: p.ProviderName() + "://" + node.Name, NodeAddresses: node.Status.Addresses,
		Zone: node.Labels[corev1.LabelTopologyZone], Region: node.Labels[corev1.LabelTopologyRegion],
	}, nil
}

// GetLoadBalancer implements cloudprovider.LoadBalancer.
func (p *Provider) GetLoadBalancer(_ context.Context, _ string, service *corev1.Service) (*corev1.LoadBalancerStatus, bool, error) {
	have := p.has(service)
	return status(have), len(have) > 0, nil
}

// GetLoadBalancerName implements cloudprovider.LoadBalancer.
func (p *Provider) GetLoadBalancerName(_ context.Context, _ string, service *corev1.Service) string {
	return cloudprovider.DefaultLoadBalancerName(service)
}

// EnsureLoadBalancer implements cloudprovider.LoadBalancer: it chooses a service's addresses.
func (p *Provider) EnsureLoadBalancer(_ context.Context, _ string, service *corev1.Service, _ []*corev1.Node) (*corev1.LoadBalancerStatus, error) {
	all, err := p.services.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	have := p.has(service)
	p.mu.Lock()
	defer p.mu.Unlock()
	addresses, err := choose(service, have, p.pool, taken(all, p.given, key(service)))
	if err != nil {
		return nil, err
	}
	p.given[key(service)] = addresses
	return status(addresses), nil
}

// UpdateLoadBalancer implements cloudprovider.LoadBalancer: addresses do not depend on nodes.
func (p *Provider) UpdateLoadBalancer(context.Context, string, *corev1.Service, []*corev1.Node) error {
	return nil
}

// EnsureLoadBalancerDeleted implements cloudprovider.LoadBalancer.
func (p *Provider) EnsureLoadBalancerDeleted(_ context.Context, _ string, service *corev1.Service) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.given, key(service))
	return nil
}

// has are the addresses a service was given, by us or by whoever led before.
func (p *Provider) has(service *corev1.Service) []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	if addresses, ok := p.given[key(service)]; ok {
		return addresses
	}
	return published(service)
}

package apiserver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"knarr.dev/knarr/appliance/apiserver/atrest"
	"knarr.dev/knarr/appliance/apiserver/audit"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Config is what one API server was told. All files must exist when it starts; they are read again when they change.
type Config struct {
	BindAddress      netip.Addr // the zero value: all
	Port             int
	AdvertiseAddress netip.Addr // where pods and other machines reach this server

	ServingCert, ServingKey string // of this server
	ClusterCA               string // issues serving certificates, this server's and the agents'
	ClientCA                string // issues clients' certificates

	// The front proxy is whoever may say on whose behalf it asks: this server toward the API servers it
	// aggregates, and they use the CA to know it.
	FrontProxyCA, FrontProxyCert, FrontProxyKey string

	KubeletClientCert, KubeletClientKey string // toward the agents

	ServiceAccountKey    string // private; signs service account tokens
	ServiceAccountIssuer string // URL in them; empty: https://kubernetes.default.svc.CLUSTER-DOMAIN
	ClusterDomain        string

	// Files of the operator; each may be left out.
	AuthenticationConfig  string // AuthenticationConfiguration: JWT issuers
	AuthenticationWebhook string // kubeconfig of a service that reviews tokens
	AuthorizationConfig   string // AuthorizationConfiguration: webhooks beside Node and RBAC
	AdmissionConfig       string // AdmissionConfiguration: of PodSecurity, ResourceQuota and webhooks

	EnablePlugins, DisablePlugins []string // of admission, other than usual

	Audit        audit.Config
	Encryption   atrest.Files // of what is in the datastore
	Datastore    persistence.Endpoints
	ServiceCIDRs []netip.Prefix // one of each address family at most; the first is the default
	NodePorts    resource.PortRange
}

// DefaultNodePorts is the range clients of Kubernetes are used to.
var DefaultNodePorts = resource.PortRange{First: 30000, Last: 32767}

// complete fills in what was left out.
func (c Config) complete() Config {
	if !c.BindAddress.IsValid() {
		c.BindAddress = netip.IPv6Unspecified()
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.ServiceAccountIssuer == "" {
		c.ServiceAccountIssuer = "https://kubernetes.default.svc." + c.ClusterDomain
	}
	if c.NodePorts == (resource.PortRange{}) {
		c.NodePorts = DefaultNodePorts
	}
	return c
}

// Validate reports everything that is wrong at once.
func (c *Config) Validate() error {
	var errs []error
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("port %d is not between 0 and 65535", c.Port))
	}
	if !c.AdvertiseAddress.IsValid() || c.AdvertiseAddress.IsUnspecified() || c.AdvertiseAddress.IsLoopback() && !c.BindAddress.IsLoopback() {
		errs = append(errs, fmt.Errorf("advertise address %q cannot be reached by others; give this machine's own", c.AdvertiseAddress))
	}
	for name, file := range map[string]string{
		"serving certificate": c.ServingCert, "serving key": c.ServingKey,
		"cluster CA": c.ClusterCA, "client CA": c.ClientCA,
		"front proxy CA": c.FrontProxyCA, "front proxy certificate": c.FrontProxyCert, "front proxy key": c.FrontProxyKey,
		"kubelet client certificate": c.KubeletClientCert, "kubelet client key": c.KubeletClientKey,
		"service account key": c.ServiceAccountKey, "encryption keys": c.Encryption.Keys,
	} {
		if _, err := os.Stat(file); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	for name, file := range map[string]string{
		"authentication configuration": c.AuthenticationConfig, "authentication webhook": c.AuthenticationWebhook,
		"authorization configuration": c.AuthorizationConfig, "admission configuration": c.AdmissionConfig, "audit policy": c.Audit.Policy, "encryption configuration": c.Encryption.Override,
	} {
		if _, err := os.Stat(file); file != "" && err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	if len(c.Datastore.URLs) == 0 {
		errs = append(errs, errors.New("no datastore endpoint given"))
	}
	if len(c.ServiceCIDRs) == 0 || len(c.ServiceCIDRs) > 2 {
		errs = append(errs, fmt.Errorf("%d service CIDRs given; one is needed, or one of each address family", len(c.ServiceCIDRs)))
	}
	if n := c.NodePorts; n != (resource.PortRange{}) && (n.First < 1 || n.Last > 65535 || n.First > n.Last) {
		errs = append(errs, fmt.Errorf("node ports %d-%d are not a range of ports", n.First, n.Last))
	}
	return errors.Join(errs...)
}

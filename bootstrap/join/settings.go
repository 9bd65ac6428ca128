package join

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/pki"
)

// ConfigMapName is where servers tell nodes about the cluster, in kube-system; appliance/apiserver/baseline lets nodes
// and joining machines read it.
const ConfigMapName = "knarr-cluster"

// Settings are what all machines of a cluster have to agree on.
type Settings struct {
	ClusterCIDR   string `json:"cluster-cidr"`
	ServiceCIDR   string `json:"service-cidr"`
	ClusterDNS    string `json:"cluster-dns"`
	ClusterDomain string `json:"cluster-domain"`
	ClientCA      string `json:"client-ca"` // PEM; a node knows the API server's client certificate by it
	CloudProvider string `json:"cloud-provider"`
	LoadBalancers string `json:"load-balancer-addresses"`
	Overlay       string `json:"overlay"`
	PodNetwork    string `json:"pod-network"`
}

func (s Settings) data() map[string]string {
	return map[string]string{
		"cluster-cidr": s.ClusterCIDR, "service-cidr": s.ServiceCIDR, "cluster-dns": s.ClusterDNS,
		"cluster-domain": s.ClusterDomain, "client-ca": s.ClientCA, "cloud-provider": s.CloudProvider,
		"load-balancer-addresses": s.LoadBalancers,
		"overlay":                 s.Overlay,
		"pod-network":             s.PodNetwork,
	}
}

// Publish tells the cluster's settings to all that join; the one that has them already is left alone.
func Publish(ctx context.Context, configMaps corev1client.ConfigMapsGetter, settings Settings) error {
	client := configMaps.ConfigMaps(metav1.NamespaceSystem)
	found, err := client.Get(ctx, ConfigMapName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: ConfigMapName},
			Data:       settings.data(),
		}, metav1.CreateOptions{})
	case err == nil && !apiequality.Semantic.DeepEqual(found.Data, settings.data()):
		found.Data = settings.data()
		_, err = client.Update(ctx, found, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("publish the cluster's settings: %w", err)
	}
	return nil
}

// readSettings checks what a server published, so that what is wrong shows here and not as a pod without a network.
func readSettings(data map[string]string) (Settings, error) {
	s := Settings{
		ClusterCIDR: data["cluster-cidr"], ServiceCIDR: data["service-cidr"], ClusterDNS: data["cluster-dns"],
		ClusterDomain: data["cluster-domain"], ClientCA: data["client-ca"], CloudProvider: data["cloud-provider"],
		LoadBalancers: data["load-balancer-addresses"],
		Overlay:       data["overlay"],
		PodNetwork:    cmp.Or(data["pod-network"], config.KnarrNetwork),
	}
	switch s.Overlay {
	case "": // of a server from before there was a choice
		s.Overlay = config.VXLAN
	case config.VXLAN, config.WireGuard, config.Routes:
	default:
		return s, fmt.Errorf("overlay %q is not known to this version of knarr", s.Overlay)
	}
	if _, err := config.Ranges(s.ClusterCIDR); err != nil {
		return s, fmt.Errorf("cluster-cidr %q %w", s.ClusterCIDR, err)
	}
	if _, err := config.Ranges(s.ServiceCIDR); err != nil {
		return s, fmt.Errorf("service-cidr %q %w", s.ServiceCIDR, err)
	}
	if _, err := netip.ParseAddr(s.ClusterDNS); err != nil {
		return s, fmt.Errorf("cluster-dns %q is not an address", s.ClusterDNS)
	}
	if s.PodNetwork != config.KnarrNetwork && s.PodNetwork != config.NoNetwork {
		return s, fmt.Errorf("pod-network %q is not known to this version", s.PodNetwork)
	}
	if s.ClusterDomain == "" {
		return s, fmt.Errorf("cluster-domain is missing")
	}
	if _, err := pki.ParseCerts([]byte(s.ClientCA)); err != nil {
		return s, fmt.Errorf("client-ca: %w", err)
	}
	return s, nil
}

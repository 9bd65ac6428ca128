// Package config is what one machine was told: its role, names, addresses and folders.
//
// In:       flags, KNARR_ variables and one YAML file (load.go).
// Out:      a Config that is complete and checked, and Paths: every file knarr keeps.
// Promise:  nothing here starts, listens or writes.
// Not here: keys and certificates (bootstrap/pki), tokens (bootstrap/token).
package config

import (
	"cmp"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"unicode"
)

// Role is what a machine does in its cluster.
type Role string

const (
	// Server runs the control plane, and a node beside it unless DisableNode is set.
	Server Role = "server"
	// Agent runs a node only and follows the servers it joined.
	Agent Role = "agent"
)

// External is the CloudProvider of clusters whose nodes and load balancers a cloud controller manager looks after.
const External = "external"

// OwnAddresses is the LoadBalancerAddresses of clusters whose services have the addresses of nodes.
const OwnAddresses = "nodes"

// What PacketFilter may be: which of the two that Linux has filters and rewrites packets here.
const (
	FilterAuto     = "auto" // nftables where the kernel has them
	FilterNFTables = "nftables"
	FilterIPTables = "iptables"
)

// How packets cross from the pods of one machine to those of another (netstack/overlay).
const (
	VXLAN     = "vxlan"     // inside UDP
	WireGuard = "wireguard" // inside UDP, encrypted
	Routes    = "routes"    // as they are to machines on the same segment, by VXLAN to others
)

// What PodNetwork can be.
const (
	// KnarrNetwork is our own, on every machine.
	KnarrNetwork = "knarr"
	// NoNetwork leaves the pods' links, addresses and policies to a CNI plugin that the operator installs.
	NoNetwork = "none"
)

// Config is one machine's complete configuration. The mapstructure names are the flags, the keys of the
// configuration file and, in upper case with KNARR_ before them and _ for -, the environment variables.
type Config struct {
	Role Role `mapstructure:"-"`

	DataDir string `mapstructure:"data-dir"` // what outlives a reboot
	RunDir  string `mapstructure:"run-dir"`  // sockets and state that dies with the boot

	NodeName  string `mapstructure:"node-name"`
	NodeIP    string `mapstructure:"node-ip"` // where other machines reach this one: an address, or one of each family; default: those of the default routes
	HTTPSPort int    `mapstructure:"https-port"`

	ClusterCIDR   string `mapstructure:"cluster-cidr"` // pods of all machines: a range, or one of each family (Ranges)
	ServiceCIDR   string `mapstructure:"service-cidr"` // services, in the same families
	ClusterDNS    string `mapstructure:"cluster-dns"`
	ClusterDomain string `mapstructure:"cluster-domain"`

	Overlay string `mapstructure:"overlay"` // VXLAN, WireGuard or Routes

	LoadBalancerAddresses string `mapstructure:"load-balancer-addresses"` // for services of type LoadBalancer: a pool (bootstrap/addresspool), or OwnAddresses
	APIVirtualAddress     string `mapstructure:"api-virtual-address"`     // of whichever API server answers; "" for none
	CloudProvider         string `mapstructure:"cloud-provider"`          // External: somebody else's cloud controller manager

	PacketFilter string `mapstructure:"packet-filter"` // FilterAuto and the others
	PodNetwork   string `mapstructure:"pod-network"`   // KnarrNetwork or NoNetwork
	CNIConfigDir string `mapstructure:"cni-conf-dir"`  // where whoever runs containers looks for the pod network; "": CNIDirs
	CNIBinDir    string `mapstructure:"cni-bin-dir"`   // and for the programs it names

	RuntimeEndpoint string `mapstructure:"container-runtime-endpoint"` // unix:///... of a runtime used instead of our containerd; "" for none

	CgroupRoot string `mapstructure:"cgroup-root"`
	KubeletDir string `mapstructure:"kubelet-dir"` // the path by which plugins for storage and devices know the agent's folder

	// Where images come from.
	Registries             string `mapstructure:"registries"`                        // registries.yaml (workloads/agent/registries); the default may be missing
	ParallelImagePulls     int    `mapstructure:"parallel-image-pulls"`              // at a time; 1 is one after the other, 0 the usual
	CredentialProviders    string `mapstructure:"image-credential-provider-config"`  // CredentialProviderConfig; "" for none
	CredentialProvidersDir string `mapstructure:"image-credential-provider-bin-dir"` // where those programs are

	WriteKubeconfig string `mapstructure:"write-kubeconfig"`
	DisableNode     bool   `mapstructure:"disable-node"`
	SchedulerConfig string `mapstructure:"scheduler-config"` // a KubeSchedulerConfiguration; "" for the ordinary one
	KubeletConfig   string `mapstructure:"kubelet-config"`   // a KubeletConfiguration (workloads/agent/settings); "" for the ordinary one

	// Files in the formats Kubernetes documents, for what the defaults do not do.
	EncryptionConfig      string `mapstructure:"encryption-config"`      // instead of our own keys; EncryptionConfiguration
	AuditPolicy           string `mapstructure:"audit-policy"`           // instead of ours; audit.k8s.io/v1 Policy
	AuthenticationConfig  string `mapstructure:"authentication-config"`  // JWT issuers; AuthenticationConfiguration
	AuthenticationWebhook string `mapstructure:"authentication-webhook"` // who knows tokens we do not; a kubeconfig
	AuthorizationConfig   string `mapstructure:"authorization-config"`   // webhooks beside Node and RBAC; AuthorizationConfiguration
	AdmissionConfig       string `mapstructure:"admission-config"`       // levels of PodSecurity, limits of ResourceQuota, webhooks; AdmissionConfiguration

	EnableAdmissionPlugins  string `mapstructure:"enable-admission-plugins"` // Names that are off usually
	DisableAdmissionPlugins string `mapstructure:"disable-admission-plugins"`

	Join  string `mapstructure:"join"`  // https://HOST:6443 of a running server
	Token Secret `mapstructure:"token"` // from `knarr token create`

	nodeIPFound bool // not said, so what the cluster's families are may change it
}

// CNIDirs are the folders of the pod network's configuration and of its programs, where containers are run by somebody at
// endpoint, or by us if that is "". A bin of "" is where our helpers lie.
func (c *Config) CNIDirs(endpoint string) (conf, bin string) {
	conf, bin = c.Paths().CNIConfig(), ""
	if endpoint != "" || c.PodNetwork == NoNetwork { // where runtimes and plugins look that were told nothing
		conf, bin = "/etc/cni/net.d", "/opt/cni/bin"
	}
	return cmp.Or(c.CNIConfigDir, conf), cmp.Or(c.CNIBinDir, bin)
}

// Socket is the path in an endpoint such as unix:///run/containerd/containerd.sock.
func Socket(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("%q is not the endpoint of a container runtime on this machine: give one such as unix:///run/containerd/containerd.sock", endpoint)
	}
	return path, nil
}

// Names between commas.
func Names(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })
}

// Secret is text that prints as a placeholder, so that a configuration can be logged; string(s) has the text.
type Secret string

// String hides the text.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(hidden)"
}

// GoString hides the text from %#v as well.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the text from log handlers that encode values themselves.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Paths names every file and folder knarr keeps, so that no two packages guess differently.
type Paths struct{ Data, Run string }

// Paths of this machine.
func (c *Config) Paths() Paths { return Paths{Data: c.DataDir, Run: c.RunDir} }

// PKI holds keys and certificates (0700).
func (p Paths) PKI() string { return filepath.Join(p.Data, "pki") }

// Kubeconfig is the administrator's (0600).
func (p Paths) Kubeconfig() string { return filepath.Join(p.Data, "kubeconfig") }

// Audit is the log of who changed what (0600, in a folder of 0700).
func (p Paths) Audit() string { return filepath.Join(p.Data, "log", "audit", "audit.log") }

// Etcd is the datastore's folder.
func (p Paths) Etcd() string { return filepath.Join(p.Data, "etcd") }

// EtcdSocket is where the API server reaches the datastore.
func (p Paths) EtcdSocket() string { return filepath.Join(p.Run, "etcd.sock") }

// Helpers is where packaging/bundle unpacks runc, the shim, the CNI client and pause, by content hash.
func (p Paths) Helpers() string { return filepath.Join(p.Data, "helpers") }

// Containerd is containerd's root: images, snapshots, content.
func (p Paths) Containerd() string { return filepath.Join(p.Data, "containerd") }

// ContainerdState is containerd's state of this boot.
func (p Paths) ContainerdState() string { return filepath.Join(p.Run, "containerd") }

// ContainerdSocket serves containerd's API and CRI.
func (p Paths) ContainerdSocket() string { return filepath.Join(p.Run, "containerd.sock") }

// Agent is the node agent's own state: pods/<uid>/volumes/..., the last desired pods.
func (p Paths) Agent() string { return filepath.Join(p.Data, "agent") }

// Volumes is where the volumes live that are folders on this machine, until their claims are deleted.
func (p Paths) Volumes() string { return filepath.Join(p.Data, "volumes") }

// PodLogs is laid out as <namespace>_<pod>_<uid>/<container>/<restart>.log.
func (p Paths) PodLogs() string { return filepath.Join(p.Data, "log", "pods") }

// CNIConfig holds the one CNI configuration containerd reads.
func (p Paths) CNIConfig() string { return filepath.Join(p.Data, "cni", "net.d") }

// Network is netstack's own state: address leases, this node's pod range.
func (p Paths) Network() string { return filepath.Join(p.Data, "network") }

// CNISocket is where our CNI client reaches netstack.
func (p Paths) CNISocket() string { return filepath.Join(p.Run, "cni.sock") }

// Images is read at start: every OCI or docker archive in it is imported.
func (p Paths) Images() string { return filepath.Join(p.Data, "images") }

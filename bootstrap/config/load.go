package config

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
)

const (
	envPrefix   = "KNARR_"
	configFlag  = "config"
	defaultFile = "/etc/knarr/config.yaml"
	tokenKey    = "token"

	defaultData       = "/var/lib/knarr"
	defaultRegistries = "/etc/knarr/registries.yaml"
)

// setting is one key: what it is called everywhere, its default and who takes it.
type setting struct {
	key      string
	usage    string
	fallback any  // its type is the setting's; an empty string is worked out in complete
	agent    bool // the others describe the cluster, which agents learn from the server they join
}

var settings = []setting{
	{"data-dir", "folder for what outlives a reboot", defaultData, true},
	{"run-dir", "folder for sockets and state of this boot", "/run/knarr", true},
	{"node-name", "name of this machine in the cluster (default: the host name)", "", true},
	{"node-ip", "address other machines reach this one at, or one of each family between a comma (default: those of the default routes)", "", true},
	{"packet-filter", "auto, nftables or iptables: what filters and rewrites packets; auto is nftables where the kernel has them", FilterAuto, true},
	{"cgroup-root", "cgroup below which pods run", "/", true},
	{"kubelet-dir", "where plugins for storage and devices look for this node, a link to DATA-DIR/agent (default: /var/lib/kubelet, or the folder itself with another data-dir)", "", true},
	{"registries", "file that says where images are fetched from (mirrors, configs); the default may be missing", defaultRegistries, true},
	{"parallel-image-pulls", "images fetched at a time, 1 to 64; 1 is one after the other", 4, true},
	{"image-credential-provider-config", "file (CredentialProviderConfig) of programs that know logins for images", "", true},
	{"image-credential-provider-bin-dir", "folder of these programs", "", true},
	{"container-runtime-endpoint", "unix:///PATH of a container runtime (CRI) to use instead of knarr's own containerd (docs/node.md)", "", true},
	{"cni-conf-dir", "where the container runtime looks for the pod network (default: DATA-DIR/cni/net.d; /etc/cni/net.d with a runtime or a pod network of your own)", "", true},
	{"cni-bin-dir", "and for the programs that names (default: knarr's own; /opt/cni/bin with a runtime or a pod network of your own)", "", true},
	{"kubelet-config", "KubeletConfiguration file (kubelet.config.k8s.io/v1beta1): static pods, reservations, evictions (docs/node.md)", "", true},
	{"join", "https://HOST:6443 of a running server", "", true},
	{"token", "join token, from `knarr token create` on a server", "", true},
	{"https-port", "port of the API server", 6443, false},
	{"cluster-cidr", "addresses of pods: a range, or one of each family between a comma; each node gets a /24 of IPv4, a /64 of IPv6", "10.42.0.0/16", false},
	{"service-cidr", "addresses of services: a range, or one of each family, as in cluster-cidr", "10.43.0.0/16", false},
	{"cluster-dns", "address of the cluster's DNS, within service-cidr (default: the tenth of its first range)", "", false},
	{"cluster-domain", "domain of service names", "cluster.local", false},
	{"overlay", "how packets cross between machines: vxlan; wireguard, which encrypts them; routes, which sends them as they are to machines on the same segment", VXLAN, false},
	{"load-balancer-addresses", "for services of type LoadBalancer: addresses, ranges (A-B) or networks, between commas; or nodes, for the nodes' own", "", false},
	{"api-virtual-address", "free address of the machines' network, announced by one server whose API answers; for --join and kubeconfigs", "", false},
	{"pod-network", "knarr, or none: a CNI plugin that you install connects pods, and decides who may talk to whom (docs/network.md)", KnarrNetwork, false},
	{"cloud-provider", "external: nodes wait for a cloud controller manager to initialize them, and services for its load balancers", "", false},
	{"write-kubeconfig", "where the administrator's kubeconfig goes (default: DATA-DIR/kubeconfig)", "", false},
	{"encryption-config", "file (EncryptionConfiguration) that says how data is encrypted (default: Secrets, with a key of our own)", "", false},
	{"audit-policy", "file (audit.k8s.io/v1 Policy) that says what is recorded (default: who changed what)", "", false},
	{"authentication-config", "file (AuthenticationConfiguration) with JWT issuers whose tokens are accepted", "", false},
	{"authentication-webhook", "kubeconfig of a service that is asked about tokens nobody here knows", "", false},
	{"authorization-config", "file (AuthorizationConfiguration) with webhooks that are asked beside Node and RBAC", "", false},
	{"admission-config", "file (AdmissionConfiguration) for PodSecurity, ResourceQuota and webhooks", "", false},
	{"enable-admission-plugins", "admission plugins that are off usually, between commas: AlwaysPullImages, DenyServiceExternalIPs", "", false},
	{"disable-admission-plugins", "admission plugins to turn off, between commas", "", false},
	{"disable-node", "run the control plane only, no pods", false, false},
	{"scheduler-config", "KubeSchedulerConfiguration file (kubescheduler.config.k8s.io/v1) with profiles, plugins, extenders", "", false},
}

// Flags adds the flags of a role.
func Flags(flags *pflag.FlagSet, role Role) {
	flags.String(configFlag, defaultFile, "configuration file (YAML); the default may be missing")
	for _, s := range taken(role) {
		switch fallback := s.fallback.(type) {
		case string:
			flags.String(s.key, fallback, s.usage)
		case int:
			flags.Int(s.key, fallback, s.usage)
		case bool:
			flags.Bool(s.key, fallback, s.usage)
		}
	}
}

func taken(role Role) []setting {
	return slices.DeleteFunc(slices.Clone(settings), func(s setting) bool { return role == Agent && !s.agent })
}

// Load reads flags, environment and file, in this order of precedence, completes what is missing and checks it.
func Load(flags *pflag.FlagSet, role Role) (*Config, error) {
	config, _, err := load(flags, role)
	return config, err
}

// Value is one setting in effect.
type Value struct{ Key, Value, Source string }

// Explain is Load telling where each value came from; the token is hidden.
func Explain(flags *pflag.FlagSet, role Role) ([]Value, error) {
	_, values, err := load(flags, role)
	return values, err
}

// Show prints values as a table.
func Show(out io.Writer, values []Value) error {
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "KEY\tVALUE\tSOURCE")
	for _, v := range values {
		fmt.Fprintf(table, "%s\t%s\t%s\n", v.Key, v.Value, v.Source)
	}
	return table.Flush()
}

func load(flags *pflag.FlagSet, role Role) (*Config, []Value, error) {
	known := taken(role)
	if err := checkEnvironment(known, os.Environ()); err != nil {
		return nil, nil, err
	}
	merged := viper.New()
	merged.SetEnvPrefix(strings.TrimSuffix(envPrefix, "_"))
	merged.SetEnvKeyReplacer(strings.NewReplacer("-", "_"))
	merged.AutomaticEnv()
	if err := merged.BindPFlags(flags); err != nil {
		return nil, nil, fmt.Errorf("bind flags: %w", err)
	}
	file := merged.GetString(configFlag)
	content, err := readFile(file, source(merged, flags, configFlag, "") != "default", known)
	if err != nil {
		return nil, nil, err
	}
	if err := merged.MergeConfigMap(content); err != nil {
		return nil, nil, fmt.Errorf("read configuration %s: %w", file, err)
	}
	sources := map[string]string{}
	for _, s := range known {
		sources[s.key] = source(merged, flags, s.key, file)
		if err := s.check(merged.Get(s.key), sources[s.key]); err != nil {
			return nil, nil, err
		}
	}
	config := &Config{}
	if err := merged.Unmarshal(config); err != nil {
		return nil, nil, fmt.Errorf("read configuration: %w", err)
	}
	config.Role = role
	if err := config.complete(sources); err != nil {
		return nil, nil, err
	}
	if err := config.Validate(); err != nil {
		return nil, nil, err
	}
	return config, config.values(known, sources), nil
}

// readFile returns the file's keys after comparing them with the known ones. Only the default may be missing.
func readFile(path string, named bool, known []setting) (map[string]any, error) {
	if _, err := os.Stat(path); !named && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	file := viper.New()
	file.SetConfigFile(path)
	file.SetConfigType("yaml")
	if err := file.ReadInConfig(); err != nil {
		return nil, fmt.Errorf("read configuration %s: %w", path, err)
	}
	for _, key := range file.AllKeys() {
		if err := checkKey(key, key, known, func(known string) string { return known }); err != nil {
			return nil, fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	return file.AllSettings(), nil
}

func checkEnvironment(known []setting, environ []string) error {
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, envPrefix) || name == envName(configFlag) {
			continue
		}
		key := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, envPrefix), "_", "-"))
		if err := checkKey(name, key, known, envName); err != nil {
			return fmt.Errorf("environment: %w", err)
		}
	}
	return nil
}

func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// checkKey returns an error for a key that this role does not take. written is how it was spelled, and spell
// turns a known key into the same notation.
func checkKey(written, key string, known []setting, spell func(string) string) error {
	if slices.ContainsFunc(known, func(s setting) bool { return s.key == key }) {
		return nil
	}
	if slices.ContainsFunc(settings, func(s setting) bool { return s.key == key }) {
		return fmt.Errorf("%s is for servers: an agent learns it from the server it joins; remove it here", written)
	}
	nearest := slices.MinFunc(known, func(a, b setting) int {
		return cmp.Compare(distance(key, a.key), distance(key, b.key))
	})
	return fmt.Errorf("unknown key %s: did you mean %s?", written, spell(nearest.key))
}

// distance counts the letters to insert, drop or change to make one word the other.
func distance(from, to string) int {
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(from) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(to) {
			change := diagonal
			if from[i] != to[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(to)]
}

func source(merged *viper.Viper, flags *pflag.FlagSet, key, file string) string {
	if flag := flags.Lookup(key); flag != nil && flag.Changed {
		return "--" + key
	}
	if os.Getenv(envName(key)) != "" { // viper counts an empty variable as none
		return envName(key)
	}
	if merged.InConfig(key) {
		return file
	}
	return "default"
}

// check sees to it that a value has the setting's type before anything converts it silently.
func (s setting) check(value any, source string) error {
	text := strings.TrimSpace(fmt.Sprint(value))
	switch value.(type) {
	case string, int, bool:
	default:
		return fmt.Errorf("%s from %s is %s: give one plain value", s.key, source, text)
	}
	switch s.fallback.(type) {
	case int:
		if _, err := strconv.Atoi(text); err != nil {
			return fmt.Errorf("%s from %s is %q: give a whole number", s.key, source, text)
		}
	case bool:
		if _, err := strconv.ParseBool(text); err != nil {
			return fmt.Errorf("%s from %s is %q: give true or false", s.key, source, text)
		}
	}
	return nil
}

// complete works out what was not said.
func (c *Config) complete(sources map[string]string) error {
	for _, dir := range []*string{&c.DataDir, &c.RunDir} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("find folder %s: %w", *dir, err)
		}
		*dir = absolute
	}
	if c.KubeletDir == "" {
		c.KubeletDir = c.Paths().Agent()
		if c.DataDir == defaultData { // several nodes on one machine cannot share the path everybody knows
			c.KubeletDir = "/var/lib/kubelet"
		}
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("find host name: %w; set node-name", err)
		}
		c.NodeName = strings.ToLower(name)
		sources["node-name"] = "host name"
	}
	if c.NodeIP == "" {
		c.nodeIPFound = true
		if err := c.FindNodeIP(); err != nil {
			return err
		}
		sources["node-ip"] = "detected"
	}
	if services, err := Ranges(c.ServiceCIDR); err == nil && c.ClusterDNS == "" && c.Role == Server {
		c.ClusterDNS = tenth(services[0]).String()
	}
	for _, file := range []*string{&c.EncryptionConfig, &c.AuditPolicy, &c.AuthenticationConfig, &c.AuthenticationWebhook, &c.AuthorizationConfig, &c.AdmissionConfig,
		&c.KubeletDir, &c.Registries, &c.CredentialProviders, &c.CredentialProvidersDir, &c.CNIConfigDir, &c.CNIBinDir} {
		if *file == "" {
			continue
		}
		absolute, err := filepath.Abs(*file)
		if err != nil {
			return fmt.Errorf("find file %s: %w", *file, err)
		}
		*file = absolute
	}
	if c.Registries != defaultRegistries {
		if _, err := os.Stat(c.Registries); err != nil {
			return fmt.Errorf("registries from %s: %w", sources["registries"], err)
		}
	}
	if c.WriteKubeconfig == "" {
		c.WriteKubeconfig = c.Paths().Kubeconfig()
	}
	return nil
}

func (c *Config) values(known []setting, sources map[string]string) []Value {
	text := map[string]string{
		"data-dir": c.DataDir, "run-dir": c.RunDir, "node-name": c.NodeName, "node-ip": c.NodeIP,
		"cgroup-root": c.CgroupRoot, "join": c.Join, tokenKey: c.Token.String(), "https-port": strconv.Itoa(c.HTTPSPort),
		"cluster-cidr": c.ClusterCIDR, "service-cidr": c.ServiceCIDR, "cluster-dns": c.ClusterDNS,
		"load-balancer-addresses": c.LoadBalancerAddresses, "api-virtual-address": c.APIVirtualAddress, "cloud-provider": c.CloudProvider,
		"cluster-domain": c.ClusterDomain, "overlay": c.Overlay, "write-kubeconfig": c.WriteKubeconfig, "disable-node": strconv.FormatBool(c.DisableNode),
		"scheduler-config": c.SchedulerConfig, "kubelet-config": c.KubeletConfig,
		"encryption-config": c.EncryptionConfig, "audit-policy": c.AuditPolicy, "authentication-config": c.AuthenticationConfig,
		"authentication-webhook": c.AuthenticationWebhook, "authorization-config": c.AuthorizationConfig,
		"admission-config": c.AdmissionConfig, "registries": c.Registries, "kubelet-dir": c.KubeletDir, "parallel-image-pulls": strconv.Itoa(c.ParallelImagePulls),
		"image-credential-provider-config": c.CredentialProviders, "image-credential-provider-bin-dir": c.CredentialProvidersDir,
		"container-runtime-endpoint": c.RuntimeEndpoint, "cni-conf-dir": c.CNIConfigDir, "cni-bin-dir": c.CNIBinDir, "pod-network": c.PodNetwork,
	}
	maps.DeleteFunc(text, func(key, _ string) bool {
		return !slices.ContainsFunc(known, func(s setting) bool { return s.key == key })
	})
	var values []Value
	for _, key := range slices.Sorted(maps.Keys(text)) {
		values = append(values, Value{Key: key, Value: text[key], Source: sources[key]})
	}
	return values
}

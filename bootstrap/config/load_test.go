package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestLoad(t *testing.T) {
	const secret = "KNARR10.abc::def.ghi"
	tests := map[string]struct {
		role Role
		args []string
		env  map[string]string
		file string // {file} in args is its path
		want map[string]string
		from map[string]string
		err  string
	}{
		"without anything the defaults hold": {
			want: map[string]string{
				"data-dir": "/var/lib/knarr", "run-dir": "/run/knarr", "https-port": "6443", "cluster-cidr": "10.42.0.0/16",
				"service-cidr": "10.43.0.0/16", "cluster-dns": "10.43.0.10", "cluster-domain": "cluster.local",
				"cgroup-root": "/", "write-kubeconfig": "/var/lib/knarr/kubeconfig", "disable-node": "false", "scheduler-config": "",
			},
			from: map[string]string{"data-dir": "default"},
		},
		"a flag beats the environment, which beats the file": {
			args: []string{"--config={file}", "--node-name=flag"},
			env:  map[string]string{"KNARR_NODE_NAME": "variable", "KNARR_HTTPS_PORT": "7443"},
			file: "node-name: file\nhttps-port: 8443\ndata-dir: /srv/knarr\n",
			want: map[string]string{"node-name": "flag", "https-port": "7443", "data-dir": "/srv/knarr"},
			from: map[string]string{"node-name": "--node-name", "https-port": "KNARR_HTTPS_PORT", "data-dir": "{file}"},
		},
		"the environment can name the file": {
			env:  map[string]string{"KNARR_CONFIG": "{file}"},
			file: "disable-node: true\n",
			want: map[string]string{"disable-node": "true"},
		},
		"an empty variable counts as none": {
			env:  map[string]string{"KNARR_CLUSTER_DOMAIN": ""},
			want: map[string]string{"cluster-domain": "cluster.local"},
			from: map[string]string{"cluster-domain": "default"},
		},
		"a number is a fine name": {
			args: []string{"--config={file}"},
			file: "node-name: 42\n",
			want: map[string]string{"node-name": "42"},
		},
		"the token is hidden": {
			role: Agent,
			args: []string{"--join=https://192.0.2.1:6443", "--token=" + secret},
			want: map[string]string{"token": "(hidden)", "join": "https://192.0.2.1:6443"},
		},
		"a file that was named must be there": {args: []string{"--config=/nonexistent/knarr.yaml"}, err: "/nonexistent/knarr.yaml"},
		"an empty file is fine":               {args: []string{"--config={file}"}, want: map[string]string{"https-port": "6443"}},
		"an unknown key names the nearest": {
			args: []string{"--config={file}"}, file: "clusterdns: 10.43.0.10\n", err: "unknown key clusterdns: did you mean cluster-dns?",
		},
		"a nested key names the nearest": {
			args: []string{"--config={file}"}, file: "cluster:\n  cidr: 10.1.0.0/16\n", err: "unknown key cluster.cidr: did you mean cluster-cidr?",
		},
		"an unknown variable names the nearest": {
			env: map[string]string{"KNARR_SERVICECIDR": "10.1.0.0/16"}, err: "unknown key KNARR_SERVICECIDR: did you mean KNARR_SERVICE_CIDR?",
		},
		"an agent refuses what is the server's": {
			role: Agent, env: map[string]string{"KNARR_SERVICE_CIDR": "10.1.0.0/16"}, err: "KNARR_SERVICE_CIDR is for servers",
		},
		"a list is not a value": {
			args: []string{"--config={file}"}, file: "node-name: [a, b]\n", err: "give one plain value",
		},
		"a word is not a port": {
			env: map[string]string{"KNARR_HTTPS_PORT": "https"}, err: `https-port from KNARR_HTTPS_PORT is "https": give a whole number`,
		},
		"maybe is not a truth": {
			args: []string{"--config={file}"}, file: "disable-node: maybe\n", err: `is "maybe": give true or false`,
		},
		"broken YAML names the file": {args: []string{"--config={file}"}, file: "a: [\n", err: "{file}"},
		"what is wrong is checked":   {args: []string{"--cluster-dns=10.44.0.10"}, err: `cluster-dns "10.44.0.10" is outside`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(tc.file), 0o600); err != nil {
				t.Fatal(err)
			}
			fill := func(text string) string { return strings.ReplaceAll(text, "{file}", file) }
			forget(t)
			for key, value := range tc.env {
				t.Setenv(key, fill(value))
			}
			role := tc.role
			if role == "" {
				role = Server
			}
			flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
			Flags(flags, role)
			args := []string{"--node-ip=192.0.2.7"}
			for _, arg := range tc.args {
				args = append(args, fill(arg))
			}
			if err := flags.Parse(args); err != nil {
				t.Fatal(err)
			}
			values, err := Explain(flags, role)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), fill(tc.err)) {
					t.Fatalf("Explain() = %v; want an error with %q", err, fill(tc.err))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, from := map[string]string{}, map[string]string{}
			for _, v := range values {
				if _, asked := tc.want[v.Key]; asked {
					got[v.Key] = v.Value
				}
				if _, asked := tc.from[v.Key]; asked {
					from[v.Key] = strings.ReplaceAll(v.Source, file, "{file}")
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			for key, want := range tc.from {
				if from[key] != want {
					t.Errorf("%s comes from %q; want %q", key, from[key], want)
				}
			}
			config, err := Load(flags, role)
			if err != nil {
				t.Fatal(err)
			}
			var shown strings.Builder
			if err := Show(&shown, values); err != nil {
				t.Fatal(err)
			}
			if printed := fmt.Sprintf("%v %+v %#v %s", *config, *config, *config, shown.String()); strings.Contains(printed, secret) {
				t.Error("the token can be read from a printed configuration")
			}
		})
	}
}

// forget takes the variables of the shell that runs the tests away until the test ends.
func forget(t *testing.T) {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, envPrefix) {
			t.Setenv(name, "") // so that it comes back
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestLoadFindsThisMachine(t *testing.T) {
	forget(t)
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	Flags(flags, Server)
	config, err := Load(flags, Server)
	if err != nil {
		t.Skipf("this machine has no name or address to find: %v", err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if config.NodeName != strings.ToLower(host) || config.NodeIP == "" {
		t.Errorf("name %q, address %q; want %q and one", config.NodeName, config.NodeIP, strings.ToLower(host))
	}
}

func TestWhereThePodNetworkIsLookedFor(t *testing.T) {
	tests := map[string]struct {
		config    Config
		endpoint  string
		conf, bin string
	}{
		"by our own containerd, in our own folders": {Config{}, "", "/d/cni/net.d", ""},
		"by another runtime, where all look":        {Config{}, "unix:///run/other.sock", "/etc/cni/net.d", "/opt/cni/bin"},
		"for another network, where all put theirs": {Config{PodNetwork: NoNetwork}, "", "/etc/cni/net.d", "/opt/cni/bin"},
		"or as it was said":                         {Config{CNIConfigDir: "/a", CNIBinDir: "/b"}, "", "/a", "/b"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.config.DataDir = "/d"
			if conf, bin := tc.config.CNIDirs(tc.endpoint); conf != tc.conf || bin != tc.bin {
				t.Errorf("CNIDirs(%q) = %q, %q; want %q, %q", tc.endpoint, conf, bin, tc.conf, tc.bin)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	tests := map[string]struct {
		change func(c *Config)
		err    string // "" means valid
	}{
		"the defaults are valid":                     {change: func(*Config) {}},
		"a name with an underscore is not a DNS one": {change: func(c *Config) { c.NodeName = "my_host" }, err: `node-name "my_host" is not a DNS name`},
		"a pod network nobody knows":                 {change: func(c *Config) { c.PodNetwork = "flannel" }, err: `pod-network "flannel" is not known: use knarr or none`},
		"a runtime that is no socket":                {change: func(c *Config) { c.RuntimeEndpoint = "containerd" }, err: "container-runtime-endpoint:"},
		"ranges must not overlap":                    {change: func(c *Config) { c.ServiceCIDR = "10.42.128.0/17" }, err: "overlaps cluster-cidr"},
		"a range begins at its beginning":            {change: func(c *Config) { c.ClusterCIDR = "10.42.1.0/16" }, err: "write 10.42.0.0/16"},
		"an address is not a range":                  {change: func(c *Config) { c.ClusterCIDR = "10.42.0.0" }, err: "is not a range of addresses"},
		"a range smaller than one node's":            {change: func(c *Config) { c.ClusterCIDR = "10.42.0.0/25" }, err: "is too small"},
		"DNS must not sit on the API server's":       {change: func(c *Config) { c.ClusterDNS = "10.43.0.1" }, err: "is where the API server is reached"},
		"DNS is an address":                          {change: func(c *Config) { c.ClusterDNS = "dns" }, err: "is not an IP address"},
		"two families are the cluster's": {change: func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR, c.NodeIP = "10.42.0.0/16,fd42::/48", "10.43.0.0/16,fd43::/112", "192.0.2.7,2001:db8::7"
		}},
		"IPv6 may be the first, or the only one": {change: func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR, c.ClusterDNS, c.NodeIP = "fd42::/48", "fd43::/112", "fd43::a", "2001:db8::7"
		}},
		"pods may have a family more than services":     {change: func(c *Config) { c.ClusterCIDR = "10.42.0.0/16,fd42::/48" }},
		"services may not have a family more than pods": {change: func(c *Config) { c.ServiceCIDR = "10.43.0.0/16,fd43::/112" }, err: "has not the families of cluster-cidr"},
		"both begin with the same family": {change: func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR = "fd42::/48,10.42.0.0/16", "10.43.0.0/16,fd43::/112"
		}, err: "has not the families of cluster-cidr"},
		"two ranges of one family":             {change: func(c *Config) { c.ClusterCIDR = "10.42.0.0/16,10.44.0.0/16" }, err: "more than one range of a family"},
		"three ranges":                         {change: func(c *Config) { c.ServiceCIDR = "10.43.0.0/16,fd43::/112,fd44::/112" }, err: "more than one range of a family"},
		"a range of IPv6 too small for a node": {change: func(c *Config) { c.ClusterCIDR = "10.42.0.0/16,fd42::/96" }, err: "each node takes a /64"},
		"a range of IPv6 too large for services": {change: func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR = "10.42.0.0/16,fd42::/48", "10.43.0.0/16,fd43::/48"
		}, err: "is too large"},
		"ranges of IPv6 must not overlap either": {change: func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR = "10.42.0.0/16,fd42::/48", "10.43.0.0/16,fd42::/112"
		}, err: "overlaps cluster-cidr"},
		"two addresses of one family":          {change: func(c *Config) { c.NodeIP = "192.0.2.7,192.0.2.8" }, err: "more than one address of a family"},
		"an address that one link alone knows": {change: func(c *Config) { c.NodeIP = "fe80::1%eth0" }, err: "is not an IP address"},
		"pods must find the API server":        {change: func(c *Config) { c.NodeIP = "2001:db8::7" }, err: "where pods look for the API server"},
		"DNS may have an address of either family": {change: func(c *Config) {
			c.ClusterCIDR, c.ServiceCIDR, c.ClusterDNS = "10.42.0.0/16,fd42::/48", "10.43.0.0/16,fd43::/112", "fd43::a"
		}},
		"the machine is not a pod":           {change: func(c *Config) { c.NodeIP = "10.42.0.1" }, err: "is within cluster-cidr"},
		"the machine is not local":           {change: func(c *Config) { c.NodeIP = "127.0.0.1" }, err: "cannot be reached from other machines"},
		"a port beyond the last":             {change: func(c *Config) { c.HTTPSPort = 70000 }, err: "is not a port"},
		"a port of another part":             {change: func(c *Config) { c.HTTPSPort = 10250 }, err: "belongs to the node agent"},
		"a run folder too long for sockets":  {change: func(c *Config) { c.RunDir = "/" + strings.Repeat("r", 90) }, err: "is too long for sockets"},
		"packets are filtered by one of two": {change: func(c *Config) { c.PacketFilter = "ebpf" }, err: "use auto, nftables or iptables"},
		"a relative cgroup":                  {change: func(c *Config) { c.CgroupRoot = "knarr" }, err: "is not absolute"},
		"a server without https":             {change: func(c *Config) { c.Join = "http://a:6443" }, err: "give https://HOST:6443"},
		"a server and a path":                {change: func(c *Config) { c.Join = "https://a:6443/api" }, err: "give https://HOST:6443"},
		"a token without a server":           {change: func(c *Config) { c.Token = "t" }, err: "token is set but join is not"},
		"an overlay nobody knows":            {change: func(c *Config) { c.Overlay = "ipsec" }, err: "use vxlan, wireguard or routes"},
		"an agent needs no ranges": {change: func(c *Config) {
			c.Role, c.ClusterCIDR, c.ServiceCIDR, c.ClusterDNS, c.ClusterDomain, c.HTTPSPort = Agent, "", "", "", "", 0
		}},
		"load balancers may have the nodes' own addresses": {change: func(c *Config) { c.LoadBalancerAddresses = OwnAddresses }},
		"or a pool, and not both":                          {change: func(c *Config) { c.LoadBalancerAddresses = "nodes,192.0.2.9" }, err: "or nodes for the nodes' own"},
		"the API may have an address of its own":           {change: func(c *Config) { c.APIVirtualAddress = "192.0.2.9" }},
		"not a name":                                       {change: func(c *Config) { c.APIVirtualAddress = "api.example" }, err: "is not an address others could reach"},
		"not this machine's":                               {change: func(c *Config) { c.APIVirtualAddress = "192.0.2.7" }, err: "is this machine's own"},
		"not a service's":                                  {change: func(c *Config) { c.APIVirtualAddress = "10.43.0.9" }, err: "is within cluster-cidr or service-cidr"},
		"not one in whose family no machine is":            {change: func(c *Config) { c.APIVirtualAddress = "2001:db8::9" }, err: "has no address"},
		"not one in whose family no service is": {change: func(c *Config) {
			c.NodeIP, c.APIVirtualAddress = "192.0.2.7,2001:db8::7", "2001:db8::9"
		}, err: "of a family that service-cidr"},
		"not without a node": {change: func(c *Config) { c.APIVirtualAddress, c.DisableNode = "192.0.2.9", true }, err: "needs a node beside"},
		"everything wrong is told at once": {
			change: func(c *Config) { c.NodeName, c.HTTPSPort = "_", 0 }, err: "https-port \"0\" is not a port",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			config := &Config{
				Role: Server, DataDir: "/var/lib/knarr", RunDir: "/run/knarr", NodeName: "alpha", NodeIP: "192.0.2.7", HTTPSPort: 6443,
				ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDNS: "10.43.0.10", ClusterDomain: "cluster.local", CgroupRoot: "/",
				Overlay: VXLAN, PacketFilter: FilterAuto,
			}
			tc.change(config)
			err := config.Validate()
			if tc.err == "" && err != nil || tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("Validate() = %v; want %q", err, tc.err)
			}
		})
	}
}

func TestDistance(t *testing.T) {
	tests := map[string]struct {
		from, to string
		want     int
	}{
		"the same word":   {"node-ip", "node-ip", 0},
		"a letter less":   {"nodeip", "node-ip", 1},
		"a letter wrong":  {"node_ip", "node-ip", 1},
		"from nothing":    {"", "join", 4},
		"to nothing":      {"join", "", 4},
		"another word":    {"kitten", "sitting", 3},
		"letters swapped": {"jion", "join", 2},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := distance(tc.from, tc.to); got != tc.want {
				t.Errorf("distance(%q, %q) = %d; want %d", tc.from, tc.to, got, tc.want)
			}
		})
	}
}

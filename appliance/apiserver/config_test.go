package apiserver

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"knarr.dev/knarr/appliance/apiserver/atrest"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/table"
)

func TestValidate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*Config)
		want   string // "" means: accepted
	}{
		"a complete configuration":                  {change: func(*Config) {}},
		"two service networks":                      {change: func(c *Config) { c.ServiceCIDRs = append(c.ServiceCIDRs, netip.MustParsePrefix("fd00::/112")) }},
		"no service network":                        {change: func(c *Config) { c.ServiceCIDRs = nil }, want: "0 service CIDRs given"},
		"an address others cannot reach":            {change: func(c *Config) { c.AdvertiseAddress = netip.MustParseAddr("127.0.0.1") }, want: "cannot be reached"},
		"a file that is not there":                  {change: func(c *Config) { c.ClientCA = file + "-not" }, want: "client CA: stat"},
		"no datastore":                              {change: func(c *Config) { c.Datastore.URLs = nil }, want: "no datastore"},
		"a port there is none of":                   {change: func(c *Config) { c.Port = 70000 }, want: "port 70000"},
		"node ports from the larger to the smaller": {change: func(c *Config) { c.NodePorts = resource.PortRange{First: 2, Last: 1} }, want: "node ports 2-1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := Config{
				Port: 6443, AdvertiseAddress: netip.MustParseAddr("192.0.2.1"),
				ServingCert: file, ServingKey: file, ClusterCA: file, ClientCA: file,
				FrontProxyCA: file, FrontProxyCert: file, FrontProxyKey: file,
				KubeletClientCert: file, KubeletClientKey: file, ServiceAccountKey: file,
				Encryption:   atrest.Files{Keys: file},
				Datastore:    persistence.Endpoints{URLs: []string{"unix:///run/etcd.sock"}},
				ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
			}
			tc.change(&c)
			err := c.Validate()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Validate() = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestEveryGroupHasAPlaceInTheOrder(t *testing.T) {
	places := map[string]bool{"": true}
	for _, group := range groupOrder {
		places[group] = true
	}
	for _, row := range table.Rows() {
		if !places[row.In.Group] {
			t.Errorf("group %s is in the table and not in the order", row.In.Group)
		}
	}
}

func TestAPIServicePriorities(t *testing.T) {
	priorities := map[string][2]int32{}
	for _, s := range builtinAPIServices() {
		priorities[s.Name] = [2]int32{s.Spec.GroupPriorityMinimum, s.Spec.VersionPriority}
	}
	if priorities["v1."][0] <= priorities["v1.apps"][0] || priorities["v1.apps"][0] <= priorities["v1.storagemigration.k8s.io"][0] {
		t.Errorf("the core group is not before the others: %v", priorities)
	}
	if priorities["v2.autoscaling"][1] <= priorities["v1.autoscaling"][1] {
		t.Errorf("autoscaling/v2 is not preferred: %v", priorities)
	}
	if last := priorities["v1.storagemigration.k8s.io"][0]; last <= customGroupPriority {
		t.Errorf("a custom group could come before a built-in one at %d", last)
	}
}

func TestServedBy(t *testing.T) {
	definition := func(group, version string, served bool) *apiextensionsv1.CustomResourceDefinition {
		return &apiextensionsv1.CustomResourceDefinition{Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: group, Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: version, Served: served}},
		}}
	}
	all := []*apiextensionsv1.CustomResourceDefinition{definition("a", "v1", true), definition("a", "v2", false), definition("b", "v2", true)}
	tests := map[string]struct {
		gv   schema.GroupVersion
		want bool
	}{
		"a version somebody serves":                     {gv: schema.GroupVersion{Group: "a", Version: "v1"}, want: true},
		"a version that is defined and not served":      {gv: schema.GroupVersion{Group: "a", Version: "v2"}},
		"a version that another group serves":           {gv: schema.GroupVersion{Group: "b", Version: "v1"}},
		"a group nobody defined, for instance any more": {gv: schema.GroupVersion{Group: "c", Version: "v1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := servedBy(all, tc.gv); got != tc.want {
				t.Errorf("servedBy() = %t", got)
			}
		})
	}
}

func TestAgentAddress(t *testing.T) {
	node := func(port int32, addresses ...corev1.NodeAddress) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{Addresses: addresses}}
		n.Status.DaemonEndpoints.KubeletEndpoint.Port = port
		return n
	}
	hostname := corev1.NodeAddress{Type: corev1.NodeHostName, Address: "host"}
	internal := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "fd00::1"}
	tests := map[string]struct {
		node *corev1.Node
		want string // "" means: an error
	}{
		"the address inside the cluster is preferred": {node: node(10250, hostname, internal), want: "[fd00::1]:10250"},
		"a name is better than nothing":               {node: node(10250, hostname), want: "host:10250"},
		"no address":                                  {node: node(10250)},
		"an agent that has not reported":              {node: node(0, internal)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := agentAddress(tc.node)
			if got != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("agentAddress() = %q, %v; want %q", got, err, tc.want)
			}
		})
	}
}

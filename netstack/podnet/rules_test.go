package podnet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"knarr.dev/knarr/netstack/cni"
)

func TestForwards(t *testing.T) {
	tests := map[string]struct {
		mapping cni.PortMapping
		want    string // "" means: none
		fails   bool
	}{
		"a port without address is on every address":       {mapping: cni.PortMapping{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"}, want: "any 6 80 10.42.0.5:8080"},
		"the unspecified address is every address":         {mapping: cni.PortMapping{HostPort: 80, ContainerPort: 8080, Protocol: "tcp", HostIP: "0.0.0.0"}, want: "any 6 80 10.42.0.5:8080"},
		"so is the unspecified address of IPv6":            {mapping: cni.PortMapping{HostPort: 80, ContainerPort: 8080, Protocol: "tcp", HostIP: "::"}, want: "any 6 80 10.42.0.5:8080"},
		"an address of the node is that address alone":     {mapping: cni.PortMapping{HostPort: 53, ContainerPort: 53, Protocol: "udp", HostIP: "192.0.2.1"}, want: "192.0.2.1 17 53 10.42.0.5:53"},
		"an IPv6 address leads to no pod of IPv4":          {mapping: cni.PortMapping{HostPort: 53, ContainerPort: 53, Protocol: "udp", HostIP: "fd00::1"}},
		"a container port without host port is not ours":   {mapping: cni.PortMapping{ContainerPort: 53, Protocol: "udp"}},
		"a protocol that has no ports is refused":          {mapping: cni.PortMapping{HostPort: 1, ContainerPort: 1, Protocol: "icmp"}, fails: true},
		"an address that cannot be read is refused":        {mapping: cni.PortMapping{HostPort: 1, ContainerPort: 1, Protocol: "tcp", HostIP: "eth0"}, fails: true},
		"SCTP is a protocol with ports like the other two": {mapping: cni.PortMapping{HostPort: 9, ContainerPort: 9, Protocol: "sctp"}, want: "any 132 9 10.42.0.5:9"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Lease{Address: netip.MustParseAddr("10.42.0.5"), Ports: []cni.PortMapping{tc.mapping}}.forwards()
			if (err != nil) != tc.fails {
				t.Fatalf("forwards() error = %v, want one: %v", err, tc.fails)
			}
			var text string
			for _, f := range got {
				text += f.String()
			}
			if text != tc.want {
				t.Errorf("forwards() = %q, want %q", text, tc.want)
			}
		})
	}
}

func (f forward) String() string {
	address := "any"
	if f.address.IsValid() {
		address = f.address.String()
	}
	return fmt.Sprint(address, " ", f.protocol, " ", f.port, " ", f.pod)
}

func TestAHostPortBelongsToOnePodAtATime(t *testing.T) {
	port := []cni.PortMapping{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}}
	leaving := Lease{Address: netip.MustParseAddr("10.42.0.5"), Ports: port}
	coming := Lease{Address: netip.MustParseAddr("10.42.0.6"), Ports: append(port,
		cni.PortMapping{HostPort: 80, ContainerPort: 8081, Protocol: "tcp", HostIP: "127.0.0.1"},
		cni.PortMapping{HostPort: 80, ContainerPort: 8082, Protocol: "udp"})}
	var got []string
	for _, f := range hostPorts([]Lease{leaving, coming}) {
		got = append(got, f.String())
	}
	want := []string{"any 6 80 10.42.0.5:8080", "127.0.0.1 6 80 10.42.0.6:8081", "any 17 80 10.42.0.6:8082"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hostPorts() (-want +got):\n%s", diff)
	}
}

func TestAPodWithTwoAddressesHasItsHostPortsInBothFamilies(t *testing.T) {
	lease := Lease{Address: netip.MustParseAddr("10.42.0.5"), Second: netip.MustParseAddr("fd42::5"), Ports: []cni.PortMapping{
		{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"},
		{HostPort: 81, ContainerPort: 8081, Protocol: "tcp", HostIP: "192.0.2.1"},
		{HostPort: 82, ContainerPort: 8082, Protocol: "tcp", HostIP: "2001:db8::1"},
		{HostPort: 83, ContainerPort: 8083, Protocol: "tcp", HostIP: "0.0.0.0"},
	}}
	var got []string
	for _, f := range hostPorts([]Lease{lease}) {
		got = append(got, f.String())
	}
	want := []string{
		"any 6 80 10.42.0.5:8080", "192.0.2.1 6 81 10.42.0.5:8081", "any 6 83 10.42.0.5:8083",
		"any 6 80 [fd42::5]:8080", "2001:db8::1 6 82 [fd42::5]:8082", "any 6 83 [fd42::5]:8083",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("hostPorts() (-want +got):\n%s", diff)
	}
}

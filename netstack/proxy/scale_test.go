package proxy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/netstack/endpoints/endpointstest"
	"knarr.dev/knarr/netstack/netlab"
)

// crowd is n Services of ten endpoints each, all on other nodes.
func crowd(n int) []client.Object {
	var all []client.Object
	for i := range n {
		name := fmt.Sprintf("svc-%d", i)
		s := svc(onlyTCP, func(s *corev1.Service) {
			s.Name = name
			s.Spec.ClusterIP = netip.AddrFrom4([4]byte{10, 43, byte(10 + i/250), byte(1 + i%250)}).String()
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		})
		var list []discoveryv1.Endpoint
		for j := range 10 {
			list = append(list, ep(netip.AddrFrom4([4]byte{10, 42, byte(100 + j), byte(1 + i%250)}).String(), "elsewhere"))
		}
		slice := sliceOf(list...)
		slice.Name, slice.Labels = name+"-1", map[string]string{discoveryv1.LabelServiceName: name}
		all = append(all, s, slice)
	}
	return all
}

func TestOneServiceWithThousandsOfEndpoints(t *testing.T) {
	needKernel(t)
	client, one := pod(t, "client", "10.42.0.9"), pod(t, "one", "10.42.0.11")
	one.Serve("one", 8080)
	cluster, view := endpointstest.Running(t, svc())
	start(t, view)
	var many []discoveryv1.Endpoint // more than fit into one netlink attribute
	for i := range 3000 {
		many = append(many, ep(netip.AddrFrom4([4]byte{10, 42, byte(20 + i/250), byte(1 + i%250)}).String(), "elsewhere"))
	}
	cluster.Put(sliceOf(many...))
	netlab.Eventually(t, "the service is not refused any more", func() bool {
		_, err := client.Dial("tcp", "10.43.0.80:80")
		return err == nil || !isRefused(err)
	})
	cluster.Put(sliceOf(ep("10.42.0.11", "here")))
	netlab.Eventually(t, "the service is back at its one endpoint", func() bool {
		name, _, err := client.Ask("tcp", "10.43.0.80:80")
		return err == nil && name == "one"
	})
}

// BenchmarkChange measures from a changed EndpointSlice to the first packet that follows it, among n other Services.
// `go test -bench Change -run - ./netstack/proxy` also says what installing them all at once took.
func BenchmarkChange(b *testing.B) {
	for kind, start := range map[string]starter{"nftables": start, "iptables": startTables} {
		for _, n := range []int{1, 1000, 10000} {
			b.Run(fmt.Sprint(kind, "/", n), func(b *testing.B) { benchmarkChange(b, n, start) })
		}
	}
}

func benchmarkChange(b *testing.B, n int, start starter) {
	needKernel(b)
	client, one, two := pod(b, "client", "10.42.0.9"), pod(b, "one", "10.42.0.11"), pod(b, "two", "10.42.0.12")
	one.Serve("one", 8080)
	two.Serve("two", 8080)
	cluster, view := endpointstest.Running(b, append(crowd(n), svc(onlyTCP), sliceOf(ep("10.42.0.11", "here")))...)
	began := time.Now()
	start(b, view)
	installed := time.Since(began)
	names := []string{"one", "two"}
	slices := []*discoveryv1.EndpointSlice{sliceOf(ep("10.42.0.11", "here")), sliceOf(ep("10.42.0.12", "here"))}
	i := 0
	for b.Loop() {
		i++
		cluster.Put(slices[i%2])
		netlab.Eventually(b, "the change is seen", func() bool {
			name, _, err := client.Ask("tcp", "10.43.0.80:80")
			return err == nil && name == names[i%2]
		})
	}
	b.ReportMetric(float64(installed.Milliseconds()), "ms-to-install-all")
}

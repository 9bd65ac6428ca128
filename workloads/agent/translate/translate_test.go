package translate

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

var node = Node{
	Name: "node", IPs: []string{"192.0.2.1"}, ClusterDNS: []string{"10.43.0.10"}, ClusterDomain: "cluster.local",
	DNS:         DNS{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"timeout:1"}},
	MemoryBytes: 1000 << 20,
	Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("1000Mi")},
}

func pod(change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-0", UID: "1", Labels: map[string]string{"app": "web"}}}
	p.Spec.Containers = []corev1.Container{{Name: "c"}}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestEnvironment(t *testing.T) {
	notFound := apierrors.NewNotFound(schema.GroupResource{Resource: "x"}, "x")
	refs := References{
		Services: []corev1.Service{
			{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443}}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "my-db"}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.2", Ports: []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP}}}},
			{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "headless"}, Spec: corev1.ServiceSpec{ClusterIP: "None", Ports: []corev1.ServicePort{{Port: 1}}}},
		},
		ConfigMap: func(name string) (*corev1.ConfigMap, error) {
			if name != "map" {
				return nil, notFound
			}
			return &corev1.ConfigMap{Data: map[string]string{"key": "from map", "A": "map's A"}}, nil
		},
		Secret: func(name string) (*corev1.Secret, error) {
			if name != "secret" {
				return nil, notFound
			}
			return &corev1.Secret{Data: map[string][]byte{"key": []byte("from secret")}}, nil
		},
		PodIPs: []string{"10.42.0.5", "fd00::5"},
	}
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	tests := map[string]struct {
		container corev1.Container
		noLinks   bool
		want      map[string]string // subset
		absent    []string
		err       string
	}{
		"services are linked": {
			want: map[string]string{"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": "443", "MY_DB_SERVICE_PORT": "53",
				"MY_DB_PORT": "udp://10.43.0.2:53", "MY_DB_PORT_53_UDP_ADDR": "10.43.0.2"},
			absent: []string{"HEADLESS_SERVICE_HOST"},
		},
		"without links the API is still found": {
			noLinks: true, want: map[string]string{"KUBERNETES_SERVICE_HOST": "10.43.0.1"}, absent: []string{"MY_DB_SERVICE_HOST"},
		},
		"later variables see earlier ones, $$ is a dollar, unknown names stay": {
			container: corev1.Container{Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)-$(NONE)-$$(A)-$"}}},
			want:      map[string]string{"B": "1-$(NONE)-$(A)-$"},
		},
		"env wins over envFrom, with its prefix": {
			container: corev1.Container{
				EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "map"}}}},
				Env:     []corev1.EnvVar{{Name: "P_A", Value: "own"}},
			},
			want: map[string]string{"P_A": "own", "P_key": "from map"},
		},
		"keys of config maps and secrets": {
			container: corev1.Container{Env: []corev1.EnvVar{
				{Name: "M", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "map"}, Key: "key"}}},
				{Name: "S", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "secret"}, Key: "key"}}},
				{Name: "O", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "secret"}, Key: "none", Optional: ptr.To(true)}}},
			}},
			want: map[string]string{"M": "from map", "S": "from secret"}, absent: []string{"O"},
		},
		"a missing secret is the user's to mend": {
			container: corev1.Container{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "gone"}}}}},
			err:       `secret "gone" not found`,
		},
		"fields of the pod and of the node": {
			container: corev1.Container{Env: []corev1.EnvVar{
				{Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "LABEL", ValueFrom: field("metadata.labels['app']")},
				{Name: "IPS", ValueFrom: field("status.podIPs")}, {Name: "HOST", ValueFrom: field("status.hostIP")}, {Name: "NODE", ValueFrom: field("spec.nodeName")},
			}},
			want: map[string]string{"NAME": "web-0", "LABEL": "web", "IPS": "10.42.0.5,fd00::5", "HOST": "192.0.2.1", "NODE": "node"},
		},
		"resources, rounded up, and the node's where there is no limit": {
			container: corev1.Container{
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}},
				Env: []corev1.EnvVar{
					{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
					{Name: "MILLI", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m")}}},
					{Name: "MIB", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
				}},
			want: map[string]string{"CPU": "2", "MILLI": "1500", "MIB": "1000"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod(func(p *corev1.Pod) { p.Spec.EnableServiceLinks = ptr.To(!tc.noLinks) })
			env, err := Environment(p, &tc.container, node, refs)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error = %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, kv := range env {
				got[kv.Key] = string(kv.Value)
			}
			for k, v := range tc.want {
				if got[k] != v {
					t.Errorf("%s = %q, want %q", k, got[k], v)
				}
			}
			for _, k := range tc.absent {
				if v, ok := got[k]; ok {
					t.Errorf("%s = %q, want none", k, v)
				}
			}
		})
	}
}

func TestPodDNS(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Pod)
		want   *runtimeapi.DNSConfig
	}{
		"a pod asks the cluster first, then the node's domains": {
			want: &runtimeapi.DNSConfig{Servers: []string{"10.43.0.10"}, Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org"}, Options: []string{"ndots:5"}},
		},
		"a pod on the host's network asks as the host does": {
			change: func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.DNSPolicy = true, corev1.DNSClusterFirst },
			want:   &runtimeapi.DNSConfig{Servers: []string{"192.0.2.53"}, Searches: []string{"example.org"}, Options: []string{"timeout:1"}},
		},
		"None has only its own, and its options replace": {
			change: func(p *corev1.Pod) {
				p.Spec.DNSPolicy = corev1.DNSNone
				p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.9"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("2")}}}
			},
			want: &runtimeapi.DNSConfig{Servers: []string{"192.0.2.9"}, Options: []string{"ndots:2"}},
		},
		"dnsConfig adds to the policy": {
			change: func(p *corev1.Pod) {
				p.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"more.org"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("1")}}}
			},
			want: &runtimeapi.DNSConfig{Servers: []string{"10.43.0.10"}, Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org", "more.org"}, Options: []string{"ndots:1"}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod()
			if tc.change != nil {
				tc.change(p)
			}
			got, err := podDNS(p, node)
			if err != nil {
				t.Fatal(err)
			}
			if !cmp.Equal(tc.want.Servers, got.Servers) || !cmp.Equal(tc.want.Searches, got.Searches) || !cmp.Equal(tc.want.Options, got.Options) {
				t.Errorf("DNS = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestHostsFile(t *testing.T) {
	p := pod(func(p *corev1.Pod) {
		p.Spec.Hostname, p.Spec.Subdomain = "web", "sub"
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"a", "b"}}}
	})
	got := HostsFile(p, node, []string{"10.42.0.5"}, "")
	for _, want := range []string{"# Kubernetes-managed hosts file.\n", "127.0.0.1\tlocalhost\n", "10.42.0.5\tweb.sub.ns.svc.cluster.local\tweb\n", "192.0.2.7\ta\tb\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("hosts file lacks %q:\n%s", want, got)
		}
	}
}

func TestSecurity(t *testing.T) {
	tests := map[string]struct {
		pod   *corev1.PodSecurityContext
		own   *corev1.SecurityContext
		image Image
		check func(*runtimeapi.LinuxContainerSecurityContext) bool
		err   string
	}{
		"a container that says nothing is confined": {
			check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
				return s.Seccomp.ProfileType == runtimeapi.SecurityProfile_RuntimeDefault && len(s.MaskedPaths) > 0 && !s.Privileged && !s.NoNewPrivs
			},
		},
		"a privileged one is not": {
			own: &corev1.SecurityContext{Privileged: ptr.To(true)},
			check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
				return s.Seccomp.ProfileType == runtimeapi.SecurityProfile_Unconfined && s.MaskedPaths == nil && s.Privileged
			},
		},
		"the container's user wins, the pod's groups stay": {
			pod: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1), FSGroup: ptr.To[int64](7), SupplementalGroups: []int64{8}},
			own: &corev1.SecurityContext{RunAsUser: ptr.To[int64](2), AllowPrivilegeEscalation: ptr.To(false)},
			check: func(s *runtimeapi.LinuxContainerSecurityContext) bool {
				return s.RunAsUser.Value == 2 && cmp.Equal(s.SupplementalGroups, []int64{8, 7}) && s.NoNewPrivs
			},
		},
		"an image that runs as root breaks runAsNonRoot": {
			pod: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}, err: "image will run as root",
		},
		"a user by name cannot be checked": {
			pod: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}, image: Image{Username: "www"}, err: "non-numeric user",
		},
		"a numeric user can": {
			pod: &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}, image: Image{UID: ptr.To[int64](5)},
			check: func(s *runtimeapi.LinuxContainerSecurityContext) bool { return s.RunAsUser.Value == 5 },
		},
		"a profile outside its folder is refused": {
			own: &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr.To("../x")}},
			err: "must be a path inside",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod(func(p *corev1.Pod) { p.Spec.SecurityContext = tc.pod; p.Spec.Containers[0].SecurityContext = tc.own })
			got, err := containerSecurity(p, &p.Spec.Containers[0], node, tc.image)
			switch {
			case tc.err != "":
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error = %v, want %q", err, tc.err)
				}
			case err != nil:
				t.Error(err)
			case !tc.check(got):
				t.Errorf("security context = %v", got)
			}
		})
	}
}

func TestOOMScoreAdj(t *testing.T) {
	with := func(qos corev1.PodQOSClass) *corev1.Pod {
		return pod(func(p *corev1.Pod) { p.Status.QOSClass = qos })
	}
	half := &corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("500Mi")}}}
	tests := map[string]struct {
		pod  *corev1.Pod
		want int64
	}{
		"guaranteed goes last":             {with(corev1.PodQOSGuaranteed), -997},
		"best effort goes first":           {with(corev1.PodQOSBestEffort), 1000},
		"burstable by its share of memory": {with(corev1.PodQOSBurstable), 500},
		"what the node lives by is spared": {pod(func(p *corev1.Pod) { p.Spec.Priority = ptr.To[int32](nodeCritical) }), -997},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := OOMScoreAdj(tc.pod, half, node.MemoryBytes); got != tc.want {
				t.Errorf("oom_score_adj = %d, want %d", got, tc.want)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	of := func(cpu, limit, memory string) Bounds {
		c := &corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}, Limits: corev1.ResourceList{}}}
		if limit != "" {
			c.Resources.Limits[corev1.ResourceCPU] = resource.MustParse(limit)
		}
		if memory != "" {
			c.Resources.Limits[corev1.ResourceMemory] = resource.MustParse(memory)
		}
		return Wanted(c)
	}
	const open = 0 // no limit, where none was
	tests := map[string]struct {
		from, to Bounds
		want     *runtimeapi.LinuxContainerResources
	}{
		"a share alone":          {of("100m", "", ""), of("1", "", ""), &runtimeapi.LinuxContainerResources{CpuShares: 1024, CpuQuota: open, CpuPeriod: 100000, MemoryLimitInBytes: open}},
		"limits are added":       {of("100m", "", ""), of("100m", "200m", "1Mi"), &runtimeapi.LinuxContainerResources{CpuShares: 102, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 1 << 20}},
		"limits are taken away":  {of("100m", "200m", "1Mi"), of("100m", "", ""), &runtimeapi.LinuxContainerResources{CpuShares: 102, CpuQuota: -1, CpuPeriod: 100000, MemoryLimitInBytes: -1}},
		"the kernel has a least": {of("1m", "1m", ""), of("2m", "5m", ""), &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuQuota: 1000, CpuPeriod: 100000, MemoryLimitInBytes: open}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := tc.to.Change(tc.from)
			if got.String() != tc.want.String() {
				t.Errorf("Change() = %v, want %v", got, tc.want)
			}
		})
	}
	if made := of("100m", "", "").Change(Bounds{Quota: unlimited, Memory: unlimited}); BoundsOf(made) != of("100m", "", "") {
		t.Errorf("what is made with %v is said to have %v", made, BoundsOf(made))
	}
}

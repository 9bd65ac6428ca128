package podspec

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func webPod(change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
	}
	if change != nil {
		change(pod)
	}
	DefaultPod(pod)
	return pod
}

func cpu(amount string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
}

func TestDefaultPod(t *testing.T) {
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "main", Image: "web:1", ImagePullPolicy: corev1.PullIfNotPresent,
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
				Ports:     []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: corev1.ProtocolTCP}},
				Resources: corev1.ResourceRequirements{Limits: cpu("1"), Requests: cpu("1")},
				LivenessProbe: &corev1.Probe{
					ProbeHandler:   corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80), Scheme: corev1.URISchemeHTTP}},
					TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3,
				},
			}},
			Volumes:       []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr.To[int32](0644)}}}},
			RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, SchedulerName: "default-scheduler", HostNetwork: true,
			TerminationGracePeriodSeconds: ptr.To[int64](30), SecurityContext: &corev1.PodSecurityContext{}, EnableServiceLinks: ptr.To(true),
		},
	}
	got := webPod(func(p *corev1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		c := &p.Spec.Containers[0]
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80}}
		c.Resources.Limits = cpu("1")
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DefaultPod (-want +got):\n%s", diff)
	}
	again := got.DeepCopy()
	DefaultPod(again)
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("defaults of a complete pod change it (-first +second):\n%s", diff)
	}
}

func TestTemplatesKeepWhatOnlyPodsGet(t *testing.T) {
	template := corev1.PodTemplateSpec{Spec: corev1.PodSpec{HostNetwork: true, Containers: []corev1.Container{{
		Name: "main", Image: "web", Ports: []corev1.ContainerPort{{ContainerPort: 80}}, Resources: corev1.ResourceRequirements{Limits: cpu("1")},
	}}}}
	DefaultTemplate(&template)
	if c := template.Spec.Containers[0]; c.Ports[0].HostPort != 0 || c.Resources.Requests != nil || template.Spec.EnableServiceLinks != nil {
		t.Errorf("the template got a pod's defaults: %+v", template.Spec)
	}
}

func TestPullPolicyFollowsTheTag(t *testing.T) {
	tests := map[string]struct {
		image string
		want  corev1.PullPolicy
	}{
		"no tag means latest, which may change":     {"web", corev1.PullAlways},
		"latest may change":                         {"registry.example:5000/a/web:latest", corev1.PullAlways},
		"a port is no tag":                          {"registry.example:5000/web", corev1.PullAlways},
		"a version stays":                           {"web:1.2", corev1.PullIfNotPresent},
		"a digest stays whatever the tag beside it": {"web:latest@sha256:0123", corev1.PullIfNotPresent},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := pullPolicy(tc.image); got != tc.want {
				t.Errorf("pullPolicy(%q) = %s, want %s", tc.image, got, tc.want)
			}
		})
	}
}

// problems are errors as clients see them, without the values.
func problems(errs field.ErrorList) []string {
	var all []string
	for _, err := range errs {
		all = append(all, string(err.Type)+" "+err.Field)
	}
	return all
}

func TestValidate(t *testing.T) {
	main := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
	}
	tests := map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"a plain pod is fine": {},
		"a pod needs a container": {
			change: func(p *corev1.Pod) { p.Spec.Containers = nil }, want: []string{"FieldValueRequired spec.containers"},
		},
		"containers have different names": {
			change: func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "main", Image: "x"}} },
			want:   []string{"FieldValueDuplicate spec.containers[0].name"},
		},
		"a name is a DNS label": {
			change: main(func(c *corev1.Container) { c.Name = "Main" }), want: []string{"FieldValueInvalid spec.containers[0].name"},
		},
		"an image is needed": {
			change: main(func(c *corev1.Container) { c.Image = "" }), want: []string{"FieldValueRequired spec.containers[0].image"},
		},
		"requests stay below limits": {
			change: main(func(c *corev1.Container) {
				c.Resources = corev1.ResourceRequirements{Limits: cpu("1"), Requests: cpu("2")}
			}),
			want: []string{"FieldValueInvalid spec.containers[0].resources.requests"},
		},
		"a mount needs its volume": {
			change: main(func(c *corev1.Container) { c.VolumeMounts = []corev1.VolumeMount{{Name: "none", MountPath: "/x"}} }),
			want:   []string{"FieldValueNotFound spec.containers[0].volumeMounts[0].name"},
		},
		"two mounts need two places": {
			change: func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "v"}}
				p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/x"}, {Name: "v", MountPath: "/x"}}
			},
			want: []string{"FieldValueInvalid spec.containers[0].volumeMounts[1].mountPath"},
		},
		"a liveness probe succeeds at once": {
			change: main(func(c *corev1.Container) {
				c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}, SuccessThreshold: 2}
			}),
			want: []string{"FieldValueInvalid spec.containers[0].livenessProbe.successThreshold"},
		},
		"init containers that end are not probed": {
			change: func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "x", ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}}}}
			},
			want: []string{"FieldValueForbidden spec.initContainers[0].readinessProbe"},
		},
		"sidecars are probed": {
			change: func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "first", Image: "x", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}}}}
			},
		},
		"a variable has one source": {
			change: main(func(c *corev1.Container) { c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{}}} }),
			want:   []string{"FieldValueInvalid spec.containers[0].env[0].valueFrom"},
		},
		"labels of the pod can be read by key": {
			change: main(func(c *corev1.Container) {
				c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['app']"}}}}
			}),
		},
		"fields that are not offered are refused": {
			change: main(func(c *corev1.Container) {
				c.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.priority"}}}}
			}),
			want: []string{"FieldValueNotSupported spec.containers[0].env[0].valueFrom.fieldRef.fieldPath"},
		},
		"a volume has one source": {
			change: func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
			},
			want: []string{"FieldValueForbidden spec.volumes[0].hostPath"},
		},
		"files stay inside their volume": {
			change: func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Items: []corev1.KeyToPath{{Key: "k", Path: "../k"}},
				}}}}
			},
			want: []string{"FieldValueInvalid spec.volumes[0].configMap.items[0].path"},
		},
		"a toleration of everything exists only": {
			change: func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpEqual}} },
			want:   []string{"FieldValueInvalid spec.tolerations[0].operator"},
		},
		"a pod at a gate has no node": {
			change: func(p *corev1.Pod) {
				p.Spec.SchedulingGates, p.Spec.NodeName = []corev1.PodSchedulingGate{{Name: "g"}}, "one"
			},
			want: []string{"FieldValueForbidden spec.nodeName"},
		},
		"no DNS policy needs name servers": {
			change: func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone }, want: []string{"FieldValueRequired spec.dnsConfig"},
		},
		"not escalating contradicts privilege": {
			change: main(func(c *corev1.Container) {
				c.SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false)}
			}),
			want: []string{"FieldValueInvalid spec.containers[0].securityContext"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := webPod(tc.change)
			if diff := cmp.Diff(tc.want, problems(Validate(&pod.Spec, &pod.ObjectMeta, field.NewPath("spec")))); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateUpdate(t *testing.T) {
	tests := map[string]struct {
		old, change func(*corev1.Pod)
		want        string // a part of the only message; "": allowed
	}{
		"an image may change": {change: func(p *corev1.Pod) { p.Spec.Containers[0].Image = "web:2" }},
		"labels may change":   {change: func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }},
		"a command may not": {
			change: func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"other"} }, want: "pod updates may not change fields other than `spec.containers[*].image`",
		},
		"containers may not be added": {
			change: func(p *corev1.Pod) {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "x", Image: "x"})
			},
			want: "pod updates may not add or remove containers",
		},
		"a deadline may be set": {change: func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }},
		"a deadline only shrinks": {
			old:    func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) },
			change: func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](6) }, want: "must be less than or equal to previous value",
		},
		"tolerations may be added": {
			change: func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
			},
		},
		"tolerations stay": {
			old: func(p *corev1.Pod) {
				p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
			},
			change: func(p *corev1.Pod) { p.Spec.Tolerations = nil }, want: "existing toleration can not be modified except its tolerationSeconds",
		},
		"gates may go": {
			old:    func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} },
			change: func(p *corev1.Pod) { p.Spec.SchedulingGates = nil },
		},
		"gates may not come": {
			change: func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, want: "only deletion is allowed",
		},
		"a pod at a gate may become choosier": {
			old:    func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} },
			change: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "a"} },
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			old := webPod(tc.old)
			pod := old.DeepCopy()
			tc.change(pod)
			errs := ValidateUpdate(pod, old)
			switch {
			case tc.want == "" && len(errs) > 0:
				t.Errorf("errors = %v, want none", errs)
			case tc.want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Detail, tc.want)):
				t.Errorf("errors = %v, want %q", errs, tc.want)
			}
		})
	}
}

func TestQOS(t *testing.T) {
	both := func(amount string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount), corev1.ResourceMemory: resource.MustParse("1Gi")}
	}
	tests := map[string]struct {
		resources corev1.ResourceRequirements
		want      corev1.PodQOSClass
	}{
		"nothing asked is best effort":                     {want: corev1.PodQOSBestEffort},
		"limits of both that are also requested guarantee": {resources: corev1.ResourceRequirements{Limits: both("1"), Requests: both("1")}, want: corev1.PodQOSGuaranteed},
		"less requested than allowed can burst":            {resources: corev1.ResourceRequirements{Limits: both("2"), Requests: both("1")}, want: corev1.PodQOSBurstable},
		"a limit of one resource only is no guarantee":     {resources: corev1.ResourceRequirements{Limits: cpu("1"), Requests: cpu("1")}, want: corev1.PodQOSBurstable},
		"requests alone can burst":                         {resources: corev1.ResourceRequirements{Requests: cpu("1")}, want: corev1.PodQOSBurstable},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := webPod(func(p *corev1.Pod) { p.Spec.Containers[0].Resources = tc.resources })
			if got := QOS(&pod.Spec); got != tc.want {
				t.Errorf("QOS() = %s, want %s", got, tc.want)
			}
		})
	}
}

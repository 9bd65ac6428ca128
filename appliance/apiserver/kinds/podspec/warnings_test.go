package podspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func TestWarnings(t *testing.T) {
	one := func(change func(*corev1.Container)) func(*metav1.ObjectMeta, *corev1.PodSpec) {
		return func(_ *metav1.ObjectMeta, s *corev1.PodSpec) { change(&s.Containers[0]) }
	}
	tests := map[string]struct {
		change func(*metav1.ObjectMeta, *corev1.PodSpec)
		want   []string
	}{
		"nothing to say": {change: func(*metav1.ObjectMeta, *corev1.PodSpec) {}},
		"an old label of nodes": {
			change: func(_ *metav1.ObjectMeta, s *corev1.PodSpec) {
				s.NodeSelector = map[string]string{"beta.kubernetes.io/os": "linux"}
			},
			want: []string{`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`},
		},
		"an old label, preferred": {
			change: func(_ *metav1.ObjectMeta, s *corev1.PodSpec) {
				s.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
					Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "failure-domain.beta.kubernetes.io/zone"}}},
				}}}}
			},
			want: []string{`spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].key: deprecated since v1.17; use "topology.kubernetes.io/zone" instead`},
		},
		"apart from nobody": {
			change: func(_ *metav1.ObjectMeta, s *corev1.PodSpec) {
				s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "a"}}}}
			},
			want: []string{"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector results in matching no pod"},
		},
		"an annotation that became a field": {
			change: func(m *metav1.ObjectMeta, _ *corev1.PodSpec) {
				m.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/main": "a"}
			},
			want: []string{`metadata.annotations[container.apparmor.security.beta.kubernetes.io/main]: deprecated since v1.30; use the "appArmorProfile" field instead`},
		},
		"a volume nobody mounts any more": {
			change: func(_ *metav1.ObjectMeta, s *corev1.PodSpec) {
				s.Volumes = []corev1.Volume{{Name: "a", VolumeSource: corev1.VolumeSource{GitRepo: &corev1.GitRepoVolumeSource{}}}}
			},
			want: []string{"spec.volumes[0].gitRepo: deprecated in v1.11"},
		},
		"a variable twice": {
			change: one(func(c *corev1.Container) { c.Env = []corev1.EnvVar{{Name: "A"}, {Name: "B"}, {Name: "A"}} }),
			want:   []string{`spec.containers[0].env[2]: hides previous definition of "A", which may be dropped when using apply`},
		},
		"a port twice": {
			change: one(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{ContainerPort: 80}, {ContainerPort: 80}} }),
			want:   []string{"spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]"},
		},
		"a port's name in two containers": {
			change: func(_ *metav1.ObjectMeta, s *corev1.PodSpec) {
				for i := range s.Containers {
					s.Containers[i].Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: int32(80 + i)}}
				}
			},
			want: []string{`spec.containers[1].ports[0]: duplicate port name "http" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]`},
		},
		"a part of a byte": {
			change: one(func(c *corev1.Container) {
				c.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128m")}
			}),
			want: []string{`spec.containers[0].resources.requests[memory]: fractional byte value "128m" is invalid, must be an integer`},
		},
		"secrets of no name and twice": {
			change: func(_ *metav1.ObjectMeta, s *corev1.PodSpec) {
				s.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "a"}, {}, {Name: "a"}}
			},
			want: []string{`spec.imagePullSecrets[1]: invalid empty name ""`, `spec.imagePullSecrets[2]: duplicate name "a"`},
		},
		"an end before the beginning": {
			change: func(_ *metav1.ObjectMeta, s *corev1.PodSpec) { s.TerminationGracePeriodSeconds = ptr.To[int64](-1) },
			want:   []string{"spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			meta, spec := &metav1.ObjectMeta{}, &corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}, {Name: "side"}}}
			tc.change(meta, spec)
			if diff := cmp.Diff(tc.want, Warnings(meta, spec, nil)); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
	if got := Warnings(&metav1.ObjectMeta{}, &corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To[int64](-1)}, field.NewPath("spec", "template")); len(got) != 1 || got[0][:41] != "spec.template.spec.terminationGracePeriodS"[:41] {
		t.Errorf("warnings of a template: %v", got)
	}
}

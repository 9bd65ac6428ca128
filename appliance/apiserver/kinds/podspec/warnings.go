package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings says what is allowed in a pod and hardly meant. At is where its metadata and spec are.
func Warnings(meta *metav1.ObjectMeta, spec *corev1.PodSpec, at *field.Path) []string {
	w := &warner{}
	w.annotations(meta.Annotations, at.Child("metadata", "annotations"))
	at = at.Child("spec")
	for key := range spec.NodeSelector {
		w.nodeLabel(key, at.Child("nodeSelector").Key(key))
	}
	w.affinity(spec.Affinity, at.Child("affinity"))
	for i, c := range spec.TopologySpreadConstraints {
		here := at.Child("topologySpreadConstraints").Index(i)
		w.nodeLabel(c.TopologyKey, here.Child("topologyKey"))
		w.nobody(c.LabelSelector, here.Child("labelSelector"))
	}
	w.volumes(spec.Volumes, at.Child("volumes"))
	seen := sets.New[string]()
	for i, secret := range spec.ImagePullSecrets {
		here := at.Child("imagePullSecrets").Index(i)
		switch {
		case secret.Name == "":
			w.add(here, "invalid empty name %q", secret.Name)
		case seen.Has(secret.Name):
			w.add(here, "duplicate name %q", secret.Name)
		}
		seen.Insert(secret.Name)
	}
	hosts := map[string]int{}
	for i, alias := range spec.HostAliases {
		if first, found := hosts[alias.IP]; found {
			w.add(at.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q with %s", alias.IP, at.Child("hostAliases").Index(first).Child("ip"))
			continue
		}
		hosts[alias.IP] = i
	}
	if seconds := spec.TerminationGracePeriodSeconds; seconds != nil && *seconds < 0 {
		w.add(at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	w.containers(spec, at)
	return w.said
}

// HostnameWarnings is for names that pods' hostnames are made of; of says whose name it is.
func HostnameWarnings(name string, generated bool, of string) []string {
	if name == "" && generated {
		return nil
	}
	problems := validation.IsDNS1123Label(name)
	if len(problems) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", of, problems)}
}

// NodeLabelWarnings is for labels of nodes that have newer names.
func NodeLabelWarnings(keys map[string]string, at *field.Path) []string {
	w := &warner{}
	for key := range keys {
		w.nodeLabel(key, at.Key(key))
	}
	return w.said
}

// warner collects.
type warner struct{ said []string }

func (w *warner) add(at *field.Path, format string, args ...any) {
	w.said = append(w.said, at.String()+": "+fmt.Sprintf(format, args...))
}

// renamedLabels are labels of nodes from before there were rules for names.
var renamedLabels = map[string]struct{ since, now string }{
	"beta.kubernetes.io/arch":           {"v1.14", corev1.LabelArchStable},
	"beta.kubernetes.io/os":             {"v1.14", corev1.LabelOSStable},
	corev1.LabelFailureDomainBetaZone:   {"v1.17", corev1.LabelTopologyZone},
	corev1.LabelFailureDomainBetaRegion: {"v1.17", corev1.LabelTopologyRegion},
	corev1.LabelInstanceType:            {"v1.17", corev1.LabelInstanceTypeStable},
}

func (w *warner) nodeLabel(key string, at *field.Path) {
	if renamed, found := renamedLabels[key]; found {
		w.add(at, "deprecated since %s; use %q instead", renamed.since, renamed.now)
	}
}

// nobody is about selectors that were left out, which is not the same as selecting everything.
func (w *warner) nobody(selector *metav1.LabelSelector, at *field.Path) {
	if selector == nil {
		w.add(at, "a null labelSelector results in matching no pod")
	}
}

// oldAnnotations were fields before they were fields.
var oldAnnotations = []struct {
	key, since, now string
	prefix          bool
}{
	{key: "scheduler.alpha.kubernetes.io/critical-pod", since: "non-functional in v1.16+", now: "priorityClassName"},
	{key: "security.alpha.kubernetes.io/sysctls", since: "non-functional in v1.11+", now: "sysctls"},
	{key: "security.alpha.kubernetes.io/unsafe-sysctls", since: "non-functional in v1.11+", now: "sysctls"},
	{key: "seccomp.security.alpha.kubernetes.io/pod", since: "non-functional in v1.27+", now: "seccompProfile"},
	{key: "container.seccomp.security.alpha.kubernetes.io/", since: "non-functional in v1.27+", now: "seccompProfile", prefix: true},
	{key: corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix, since: "deprecated since v1.30", now: "appArmorProfile", prefix: true},
}

func (w *warner) annotations(annotations map[string]string, at *field.Path) {
	for key := range annotations {
		for _, old := range oldAnnotations {
			if key == old.key || old.prefix && strings.HasPrefix(key, old.key) {
				w.add(at.Key(key), "%s; use the %q field instead", old.since, old.now)
			}
		}
	}
}

func (w *warner) affinity(affinity *corev1.Affinity, at *field.Path) {
	if affinity == nil {
		return
	}
	if node := affinity.NodeAffinity; node != nil {
		here := at.Child("nodeAffinity")
		if required := node.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			for i := range required.NodeSelectorTerms {
				w.nodeTerm(&required.NodeSelectorTerms[i], here.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i))
			}
		}
		for i := range node.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(&node.PreferredDuringSchedulingIgnoredDuringExecution[i].Preference, here.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"))
		}
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, here *field.Path) {
		for i := range required {
			w.podTerm(&required[i], here.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i := range preferred {
			w.podTerm(&preferred[i].PodAffinityTerm, here.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"))
		}
	}
	if pods := affinity.PodAffinity; pods != nil {
		terms(pods.RequiredDuringSchedulingIgnoredDuringExecution, pods.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAffinity"))
	}
	if pods := affinity.PodAntiAffinity; pods != nil {
		terms(pods.RequiredDuringSchedulingIgnoredDuringExecution, pods.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("podAntiAffinity"))
	}
}

func (w *warner) nodeTerm(term *corev1.NodeSelectorTerm, at *field.Path) {
	for i, e := range term.MatchExpressions {
		w.nodeLabel(e.Key, at.Child("matchExpressions").Index(i).Child("key"))
	}
}

func (w *warner) podTerm(term *corev1.PodAffinityTerm, at *field.Path) {
	w.nodeLabel(term.TopologyKey, at.Child("topologyKey"))
	w.nobody(term.LabelSelector, at.Child("labelSelector"))
}

func (w *warner) volumes(volumes []corev1.Volume, at *field.Path) {
	for i := range volumes {
		v, here := &volumes[i], at.Index(i)
		for _, old := range []struct {
			used       bool
			name, what string
		}{
			{v.GitRepo != nil, "gitRepo", "deprecated in v1.11"},
			{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
			{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
			{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if old.used {
				w.add(here.Child(old.name), "%s", old.what)
			}
		}
	}
}

// port is what tells two ports of a pod apart.
type port struct {
	number   int32
	protocol corev1.Protocol
	hostIP   string
	hostPort int32
}

func (w *warner) containers(spec *corev1.PodSpec, at *field.Path) {
	names := map[string]*field.Path{}
	for _, list := range []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}} {
		for i := range list.containers {
			c, here := &list.containers[i], at.Child(list.name).Index(i)
			w.resources(c.Resources.Limits, here.Child("resources", "limits"))
			w.resources(c.Resources.Requests, here.Child("resources", "requests"))
			set := sets.New[string]()
			for j, env := range c.Env {
				if set.Has(env.Name) {
					w.add(here.Child("env").Index(j), "hides previous definition of %q, which may be dropped when using apply", env.Name)
				}
				set.Insert(env.Name)
			}
			ports := map[port]*field.Path{}
			for j, p := range c.Ports {
				where := here.Child("ports").Index(j)
				key := port{p.ContainerPort, p.Protocol, p.HostIP, p.HostPort}
				if first, found := ports[key]; found {
					w.add(where, "duplicate port definition with %s", first)
				} else {
					ports[key] = where
				}
				if p.Name == "" || list.name == "initContainers" && !restarts(c) {
					continue // gone when the others listen
				}
				if first, found := names[p.Name]; found {
					w.add(where, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, first, first)
				} else {
					names[p.Name] = where
				}
			}
		}
	}
}

func restarts(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func (w *warner) resources(list corev1.ResourceList, at *field.Path) {
	for name, amount := range list {
		if name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage && !isHugePages(name) {
			continue
		}
		if amount.MilliValue()%1000 != 0 {
			w.add(at.Key(string(name)), "fractional byte value %q is invalid, must be an integer", amount.String())
		}
	}
}

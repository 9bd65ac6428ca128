package snapshot

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	corev1helper "k8s.io/component-helpers/scheduling/corev1"
)

// Pod is a pod with everything about it that decisions need again and again, worked out once.
type Pod struct {
	Object   *corev1.Pod
	Priority int32
	Requests Resources
	Assumed  Resources // Requests with a guess for containers that name none
	Ports    []HostPort
	Claims   []Claim

	Affinity, AntiAffinity             []Term // required
	PreferAffinity, PreferAntiAffinity []Term

	kin, wants string
}

// Wants is the same for pods that want the same of a node by itself: amounts, ports, labels, taints they bear. It belongs to
// the goroutine that owns the snapshot.
func (p *Pod) Wants() string {
	if p.wants != "" {
		return p.wants
	}
	spec := &p.Object.Spec
	about := corev1.PodSpec{NodeName: spec.NodeName, NodeSelector: spec.NodeSelector, Tolerations: spec.Tolerations}
	if spec.Affinity != nil && spec.Affinity.NodeAffinity != nil {
		about.Affinity = &corev1.Affinity{NodeAffinity: spec.Affinity.NodeAffinity}
	}
	said, err := about.Marshal() // maps in the order of their keys, as fmt prints them
	if err != nil {
		return string(p.Object.UID) // nobody else wants that then
	}
	p.wants = fmt.Sprintf("%v %v %s", p.Requests, p.Assumed, said)
	for _, port := range p.Ports {
		p.wants = fmt.Sprintf("%s:%d/%s %s", port.IP, port.Port, port.Protocol, p.wants)
	}
	return p.wants
}

// Kin is the same for pods that are alike to every rule that counts other pods: in namespace, owner, labels, scheduler,
// and what they say about nodes and neighbours. It belongs to the goroutine that owns the snapshot.
func (p *Pod) Kin() string {
	if p.kin != "" {
		return p.kin
	}
	meta := metav1.ObjectMeta{Namespace: p.Object.Namespace, Labels: p.Object.Labels}
	if owner := metav1.GetControllerOfNoCopy(p.Object); owner != nil {
		meta.UID = owner.UID
	}
	spec := &p.Object.Spec
	kin := corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		SchedulerName: spec.SchedulerName, NodeSelector: spec.NodeSelector, Affinity: spec.Affinity, Tolerations: spec.Tolerations, TopologySpreadConstraints: spec.TopologySpreadConstraints,
	}}
	said, err := kin.Marshal() // maps in the order of their keys
	if err != nil {
		return string(p.Object.UID) // it has no kin then
	}
	p.kin = string(said)
	return p.kin
}

// HostPort is a port a pod takes on its node.
type HostPort struct {
	IP       string
	Protocol corev1.Protocol
	Port     int32
}

// Term is one pod (anti-)affinity term, parsed.
type Term struct {
	Selector    labels.Selector
	Namespaces  sets.Set[string]
	InNamespace labels.Selector // by the namespace's labels
	TopologyKey string
	Weight      int32
}

// Matches says whether the term means a pod, whose namespace carries the given labels.
func (t *Term) Matches(pod *corev1.Pod, namespace labels.Set) bool {
	if !t.Namespaces.Has(pod.Namespace) && !t.InNamespace.Matches(namespace) {
		return false
	}
	return t.Selector.Matches(labels.Set(pod.Labels))
}

// NewPod works a pod out.
func NewPod(pod *corev1.Pod) *Pod {
	p := &Pod{Object: pod, Priority: corev1helper.PodPriority(pod)}
	p.Requests, p.Assumed = requestsOf(pod)
	p.Ports, p.Claims = portsOf(pod), claimsOf(pod)
	if affinity := pod.Spec.Affinity; affinity != nil {
		if a := affinity.PodAffinity; a != nil {
			p.Affinity = terms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
			p.PreferAffinity = weighted(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a := affinity.PodAntiAffinity; a != nil {
			p.AntiAffinity = terms(pod, a.RequiredDuringSchedulingIgnoredDuringExecution)
			p.PreferAntiAffinity = weighted(pod, a.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	return p
}

// renewed is NewPod for news of a pod, which seldom are about what was worked out: its specification has a generation, and
// what containers were given counts only once there are some.
func (p *Pod) renewed(object *corev1.Pod) *Pod {
	made := func(pod *corev1.Pod) bool {
		return len(pod.Status.ContainerStatuses) > 0 || pod.Status.Resources != nil
	}
	if object.Generation == 0 || object.Generation != p.Object.Generation || made(object) || made(p.Object) || !alike(p.Object, object) {
		return NewPod(object)
	}
	after := *p
	after.Object = object
	return &after
}

func portsOf(pod *corev1.Pod) []HostPort {
	var ports []HostPort
	take := func(containers []corev1.Container) {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.HostPort == 0 {
					continue
				}
				port := HostPort{IP: p.HostIP, Protocol: p.Protocol, Port: p.HostPort}
				if port.IP == "" {
					port.IP = "0.0.0.0"
				}
				if port.Protocol == "" {
					port.Protocol = corev1.ProtocolTCP
				}
				ports = append(ports, port)
			}
		}
	}
	take(pod.Spec.Containers)
	for i := range pod.Spec.InitContainers {
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			take(pod.Spec.InitContainers[i : i+1])
		}
	}
	return ports
}

// conflicts says whether two pods cannot hold these ports on one node.
func (h HostPort) conflicts(other HostPort) bool {
	return h.Port == other.Port && h.Protocol == other.Protocol &&
		(h.IP == other.IP || h.IP == "0.0.0.0" || other.IP == "0.0.0.0")
}

func terms(pod *corev1.Pod, specs []corev1.PodAffinityTerm) []Term {
	parsed := make([]Term, len(specs))
	for i := range specs {
		parsed[i] = parse(pod, &specs[i])
	}
	return parsed
}

func weighted(pod *corev1.Pod, specs []corev1.WeightedPodAffinityTerm) []Term {
	parsed := make([]Term, len(specs))
	for i := range specs {
		parsed[i] = parse(pod, &specs[i].PodAffinityTerm)
		parsed[i].Weight = specs[i].Weight
	}
	return parsed
}

func parse(pod *corev1.Pod, spec *corev1.PodAffinityTerm) Term {
	t := Term{
		Selector:    Selector(spec.LabelSelector),
		Namespaces:  sets.New(spec.Namespaces...),
		InNamespace: Selector(spec.NamespaceSelector),
		TopologyKey: spec.TopologyKey,
	}
	if len(spec.Namespaces) == 0 && spec.NamespaceSelector == nil {
		t.Namespaces.Insert(pod.Namespace)
	}
	return t
}

// Selector parses one; what the API server would have refused matches nothing.
func Selector(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

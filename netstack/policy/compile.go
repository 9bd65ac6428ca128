package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Cluster is what rules follow from.
type Cluster struct {
	Policies   []*networkingv1.NetworkPolicy
	Namespaces map[string]labels.Set
	// Pods are all that have an address of their own, on this node and on others.
	Pods []Pod
	// Local are those whose packets pass here. nil is a pod of which nothing but the address is known yet.
	Local map[netip.Addr]*Pod
}

// Pod is what rules need to know of a pod.
type Pod struct {
	types.NamespacedName
	Labels    labels.Set
	Addresses []netip.Addr
	Ports     []NamedPort
}

// NamedPort is a container's port that has a name.
type NamedPort struct {
	Name     string
	Protocol uint8
	Number   uint16
}

// Rules are what the kernel is to do.
type Rules struct {
	Egress, Ingress map[netip.Addr]string // a local pod's address -> the chain for what it sends, and for what it gets
	Chains          map[string][]Step
	Sets            map[string]Set
}

// Set is the pods some rules are about; with the port of a name, if Named.
type Set struct {
	Named   bool
	Members map[Member]bool
}

// Step is one line of a chain: on to another chain and back, or an end for what matches. A chain that was jumped to and
// ends without a match goes back; so the last step of a pod's own chain drops.
type Step struct {
	Jump string
	Drop bool

	Out      bool         // the peer is whom the packet is for, not who sent it
	Set      string       // peers that are pods; without Set and Block anyone
	Named    bool         // the set is of named ports
	Block    netip.Prefix // peers by range, if valid
	Except   []netip.Prefix
	Protocol uint8  // 0 is any
	From, To uint16 // 0 is any
}

// Member of a set. The port is 0 unless the set is of named ports.
type Member struct {
	Addr netip.Addr
	Port uint16
}

// nobody is the chain of pods that nothing is known of: no policy that might select them must be missed.
const nobody = "nobody"

// direction is what differs between what pods send and what they get.
type direction struct {
	prefix string // of chains' names
	kind   networkingv1.PolicyType
	rules  func(*networkingv1.NetworkPolicySpec) []rule
}

// rule is an ingress or egress rule of a policy.
type rule struct {
	peers []networkingv1.NetworkPolicyPeer
	ports []networkingv1.NetworkPolicyPort
}

var (
	egress = direction{"out", networkingv1.PolicyTypeEgress, func(s *networkingv1.NetworkPolicySpec) (all []rule) {
		for _, r := range s.Egress {
			all = append(all, rule{r.To, r.Ports})
		}
		return all
	}}
	ingress = direction{"in", networkingv1.PolicyTypeIngress, func(s *networkingv1.NetworkPolicySpec) (all []rule) {
		for _, r := range s.Ingress {
			all = append(all, rule{r.From, r.Ports})
		}
		return all
	}}
)

// Compile is the rules of this node's pods.
func Compile(c Cluster) Rules {
	r := Rules{
		Egress: map[netip.Addr]string{}, Ingress: map[netip.Addr]string{},
		Chains: map[string][]Step{}, Sets: map[string]Set{},
	}
	b := builder{Cluster: c, rules: r, bySpace: map[string][]*Pod{}}
	for i := range c.Pods {
		b.bySpace[c.Pods[i].Namespace] = append(b.bySpace[c.Pods[i].Namespace], &c.Pods[i])
	}
	policies := map[string][]selecting{}
	for _, p := range c.Policies {
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil {
			selector = labels.Everything() // the API server takes no such thing; isolating too many is the safe side
		}
		policies[p.Namespace] = append(policies[p.Namespace], selecting{p, selector})
	}
	for address, pod := range c.Local {
		if pod == nil {
			if len(c.Policies) > 0 {
				r.Chains[nobody] = []Step{{Drop: true}}
				r.Egress[address], r.Ingress[address] = nobody, nobody
			}
			continue
		}
		if chain := b.pod(egress, pod, policies[pod.Namespace]); chain != "" {
			r.Egress[address] = chain
		}
		if chain := b.pod(ingress, pod, policies[pod.Namespace]); chain != "" {
			r.Ingress[address] = chain
		}
	}
	return r
}

// selecting is a policy with its selector ready to use.
type selecting struct {
	*networkingv1.NetworkPolicy
	selector labels.Selector
}

type builder struct {
	Cluster
	rules   Rules
	bySpace map[string][]*Pod
}

// pod is the chain of a pod: what any of its policies allows, and no more. "" is a pod that no policy selects.
func (b *builder) pod(d direction, pod *Pod, policies []selecting) string {
	var steps []Step
	for _, p := range policies {
		if applies(&p.Spec, d.kind) && p.selector.Matches(pod.Labels) {
			steps = append(steps, Step{Jump: b.policy(d, p.NetworkPolicy, pod)})
		}
	}
	if steps == nil {
		return ""
	}
	slices.SortFunc(steps, func(a, b Step) int { return cmp.Compare(a.Jump, b.Jump) })
	name := fmt.Sprintf("%s-pods-%s", d.prefix, digest(steps))
	if b.rules.Chains[name] == nil {
		b.rules.Chains[name] = append(steps, Step{Drop: true})
	}
	return name
}

func applies(s *networkingv1.NetworkPolicySpec, kind networkingv1.PolicyType) bool {
	if len(s.PolicyTypes) == 0 { // the API server fills it in; this is what it would say
		return kind == networkingv1.PolicyTypeIngress || len(s.Egress) > 0
	}
	return slices.Contains(s.PolicyTypes, kind)
}

// policy is the chain of what a policy allows. Pods share it, unless a name of one of their own ports is in it: that may
// be another number in each.
func (b *builder) policy(d direction, p *networkingv1.NetworkPolicy, pod *Pod) string {
	rules := d.rules(&p.Spec)
	name := d.prefix + "/" + p.Namespace + "/" + p.Name
	if d.kind == networkingv1.PolicyTypeIngress && slices.ContainsFunc(rules, named) {
		name += "/" + digest(pod.Ports)
	}
	if len(name) > 200 { // the kernel takes some 250
		name = name[:190] + digest(name)
	}
	if _, made := b.rules.Chains[name]; made {
		return name
	}
	steps := []Step{}
	for _, r := range rules {
		steps = append(steps, b.allow(d, p.Namespace, r, pod)...)
	}
	b.rules.Chains[name] = steps
	return name
}

func named(r rule) bool {
	return slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.String })
}

// allow is the steps of one rule: every peer with every port.
func (b *builder) allow(d direction, namespace string, r rule, pod *Pod) []Step {
	ports := r.ports
	if len(ports) == 0 {
		ports = []networkingv1.NetworkPolicyPort{{}}
	}
	peers := r.peers
	if len(peers) == 0 {
		peers = []networkingv1.NetworkPolicyPeer{{}}
	}
	var steps []Step
	out := d.kind == networkingv1.PolicyTypeEgress
	for _, port := range ports {
		protocol := uint8(0)
		if len(r.ports) > 0 {
			protocol = protocolOf(port.Protocol)
		}
		switch {
		case port.Port == nil:
			for _, peer := range peers {
				steps = append(steps, b.peer(namespace, peer, Step{Out: out, Protocol: protocol})...)
			}
		case port.Port.Type == intstr.Int:
			step := Step{Out: out, Protocol: protocol, From: uint16(port.Port.IntVal), To: uint16(port.Port.IntVal)}
			if port.EndPort != nil {
				step.To = uint16(*port.EndPort)
			}
			for _, peer := range peers {
				steps = append(steps, b.peer(namespace, peer, step)...)
			}
		case !out: // the name of a port of the pod that the rule is for
			for _, own := range pod.Ports {
				if own.Name != port.Port.StrVal || own.Protocol != protocol {
					continue
				}
				for _, peer := range peers {
					steps = append(steps, b.peer(namespace, peer, Step{Out: out, Protocol: protocol, From: own.Number, To: own.Number})...)
				}
			}
		default: // the name of a port of the peer: only pods have such
			for _, peer := range peers {
				if peer.IPBlock == nil {
					steps = append(steps, Step{Out: out, Set: b.set(namespace, peer, port.Port.StrVal, protocol), Named: true, Protocol: protocol})
				}
			}
		}
	}
	return steps
}

func protocolOf(p *corev1.Protocol) uint8 {
	if p == nil {
		return unix.IPPROTO_TCP
	}
	return protocolNumber(*p)
}

func protocolNumber(p corev1.Protocol) uint8 {
	switch p {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

// peer adds to a step whom it is about; a range that cannot be read is nobody.
func (b *builder) peer(namespace string, peer networkingv1.NetworkPolicyPeer, step Step) []Step {
	switch {
	case peer.IPBlock != nil:
		block, err := netip.ParsePrefix(peer.IPBlock.CIDR)
		if err != nil {
			return nil
		}
		step.Block = block.Masked()
		for _, text := range peer.IPBlock.Except {
			except, err := netip.ParsePrefix(text)
			if err != nil {
				return nil
			}
			step.Except = append(step.Except, except.Masked())
		}
	case peer.PodSelector != nil || peer.NamespaceSelector != nil:
		step.Set = b.set(namespace, peer, "", 0)
	}
	return []Step{step}
}

// set is the name of the set of pods that a peer selects; with the name of a port, of those ports of them. Rules that
// select alike share it.
func (b *builder) set(namespace string, peer networkingv1.NetworkPolicyPeer, port string, protocol uint8) string {
	key := struct {
		Namespace        string
		Namespaces, Pods *metav1.LabelSelector
		Port             string
		Protocol         uint8
	}{namespace, peer.NamespaceSelector, peer.PodSelector, port, protocol}
	if peer.NamespaceSelector != nil || peer.PodSelector == nil {
		key.Namespace = "" // it does not matter who asks
	}
	name := "peers-" + digest(key) + "-v" // and the family
	if _, made := b.rules.Sets[name]; made {
		return name
	}
	members := map[Member]bool{}
	b.rules.Sets[name] = Set{Named: port != "", Members: members}
	for _, pod := range b.selected(namespace, peer) {
		for _, address := range pod.Addresses {
			if port == "" {
				members[Member{Addr: address}] = true
				continue
			}
			for _, p := range pod.Ports {
				if p.Name == port && p.Protocol == protocol {
					members[Member{address, p.Number}] = true
				}
			}
		}
	}
	return name
}

// selected are the pods of a peer, or all for one that selects nothing.
func (b *builder) selected(namespace string, peer networkingv1.NetworkPolicyPeer) []*Pod {
	pods, namespaces := labels.Everything(), labels.Everything()
	var err error
	if peer.PodSelector != nil {
		if pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return nil
		}
	}
	var found []*Pod
	if peer.PodSelector != nil && peer.NamespaceSelector == nil {
		return appendMatching(found, b.bySpace[namespace], pods)
	}
	if peer.NamespaceSelector != nil {
		if namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return nil
		}
	}
	for name, set := range b.Namespaces {
		if namespaces.Matches(set) {
			found = appendMatching(found, b.bySpace[name], pods)
		}
	}
	return found
}

func appendMatching(found, pods []*Pod, selector labels.Selector) []*Pod {
	for _, pod := range pods {
		if selector.Matches(pod.Labels) {
			found = append(found, pod)
		}
	}
	return found
}

// digest names something by its content. It must not be possible to make up a policy whose peers take another's name:
// they would be let in for them.
func digest(what any) string {
	text, err := json.Marshal(what)
	if err != nil {
		text = fmt.Append(nil, what)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:12])
}

// String shows a step to people.
func (s Step) String() string {
	switch {
	case s.Jump != "":
		return "jump " + s.Jump
	case s.Drop:
		return "drop"
	}
	words := []string{"allow"}
	if s.Set != "" {
		words = append(words, "@"+s.Set)
	}
	if s.Block.IsValid() {
		words = append(words, s.Block.String())
	}
	for _, e := range s.Except {
		words = append(words, "except "+e.String())
	}
	if s.Protocol != 0 {
		words = append(words, fmt.Sprintf("protocol %d", s.Protocol))
	}
	if s.To != 0 {
		words = append(words, fmt.Sprintf("ports %d-%d", s.From, s.To))
	}
	return strings.Join(words, " ")
}

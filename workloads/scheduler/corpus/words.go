package corpus

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// list is amounts by name.
func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

// Nodes.

func has(pairs ...string) nodeChange {
	return func(n *corev1.Node) {
		for name, q := range list(pairs...) {
			n.Status.Allocatable[name] = q
		}
	}
}

func label(pairs ...string) nodeChange {
	return func(n *corev1.Node) {
		for i := 0; i < len(pairs); i += 2 {
			n.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

const (
	zoneKey = corev1.LabelTopologyZone
	hostKey = corev1.LabelHostname
)

func zone(name string) nodeChange { return label(zoneKey, name) }

func taint(key, value string, effect corev1.TaintEffect) nodeChange {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func declares(features ...string) nodeChange {
	return func(n *corev1.Node) { n.Status.DeclaredFeatures = features }
}

func cordoned(n *corev1.Node) {
	n.Spec.Unschedulable = true
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
}

func image(name string, mebibytes int64) nodeChange {
	return func(n *corev1.Node) {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: mebibytes << 20})
	}
}

// Pods.

func on(node string) podChange { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func in(namespace string) podChange { return func(p *corev1.Pod) { p.Namespace = namespace } }

func app(name string) podChange { return labels("app", name) }

func labels(pairs ...string) podChange {
	return func(p *corev1.Pod) {
		for i := 0; i < len(pairs); i += 2 {
			p.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

// asks is what the first container requests; of what may not be promised twice the limit is the same.
func asks(pairs ...string) podChange {
	return func(p *corev1.Pod) { request(&p.Spec.Containers[0], list(pairs...)) }
}

func request(c *corev1.Container, l corev1.ResourceList) {
	c.Resources.Requests = l
	for name, q := range l {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage {
			continue
		}
		if c.Resources.Limits == nil {
			c.Resources.Limits = corev1.ResourceList{}
		}
		c.Resources.Limits[name] = q
	}
}

// another is one more container.
func another(name string, pairs ...string) podChange {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: name, Image: "app:1"}
		request(&c, list(pairs...))
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
}

// first is an init container, helper one that stays.
func first(name string, pairs ...string) podChange {
	return func(p *corev1.Pod) {
		c := corev1.Container{Name: name, Image: "app:1"}
		request(&c, list(pairs...))
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
}

func helper(name string, pairs ...string) podChange {
	return func(p *corev1.Pod) {
		first(name, pairs...)(p)
		p.Spec.InitContainers[len(p.Spec.InitContainers)-1].RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	}
}

func overhead(pairs ...string) podChange {
	return func(p *corev1.Pod) { p.Spec.Overhead = list(pairs...) }
}

// whole is what the pod asks for as one.
func whole(pairs ...string) podChange {
	return func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Requests: list(pairs...)} }
}

func port(number int32, protocol corev1.Protocol, ip string) podChange {
	return func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		c.Ports = append(c.Ports, corev1.ContainerPort{ContainerPort: number, HostPort: number, Protocol: protocol, HostIP: ip})
	}
}

func runs(images ...string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Containers = nil
		for i, name := range images {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: string(rune('a' + i)), Image: name})
		}
	}
}

// restartsAll asks for all containers to be restarted when one ends with an error.
func restartsAll(p *corev1.Pod) {
	c := &p.Spec.Containers[0]
	c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyNever)
	c.RestartPolicyRules = []corev1.ContainerRestartRule{{
		Action:    corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{1}},
	}}
}

func tolerates(key string, operator corev1.TolerationOperator, value string, effect corev1.TaintEffect) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: operator, Value: value, Effect: effect})
	}
}

func selects(pairs ...string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.NodeSelector = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			p.Spec.NodeSelector[pairs[i]] = pairs[i+1]
		}
	}
}

// is a condition on a node's label.
func is(key string, operator corev1.NodeSelectorOperator, values ...string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: key, Operator: operator, Values: values}
}

func nodeAffinity(p *corev1.Pod) *corev1.NodeAffinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	if p.Spec.Affinity.NodeAffinity == nil {
		p.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	return p.Spec.Affinity.NodeAffinity
}

// requires adds a term: all of its conditions. Of several terms one is enough.
func requires(conditions ...corev1.NodeSelectorRequirement) podChange {
	return requiresTerm(corev1.NodeSelectorTerm{MatchExpressions: conditions})
}

func requiresField(conditions ...corev1.NodeSelectorRequirement) podChange {
	return requiresTerm(corev1.NodeSelectorTerm{MatchFields: conditions})
}

func requiresTerm(term corev1.NodeSelectorTerm) podChange {
	return func(p *corev1.Pod) {
		a := nodeAffinity(p)
		if a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			a.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{}
		}
		terms := &a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		*terms = append(*terms, term)
	}
}

func wishes(weight int32, conditions ...corev1.NodeSelectorRequirement) podChange {
	return func(p *corev1.Pod) {
		a := nodeAffinity(p)
		a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.PreferredSchedulingTerm{Weight: weight, Preference: corev1.NodeSelectorTerm{MatchExpressions: conditions}})
	}
}

// termChange is part of the description of a pod affinity term.
type termChange func(*corev1.PodAffinityTerm)

// with is the pods of an app, by a topology.
func with(name, key string, changes ...termChange) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}, TopologyKey: key}
	for _, c := range changes {
		c(&t)
	}
	return t
}

func of(namespaces ...string) termChange {
	return func(t *corev1.PodAffinityTerm) { t.Namespaces = namespaces }
}

func ofTeam(team string) termChange {
	return func(t *corev1.PodAffinityTerm) {
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": team}}
	}
}

func ofAll(t *corev1.PodAffinityTerm) { t.NamespaceSelector = &metav1.LabelSelector{} }

func whose(key string, operator metav1.LabelSelectorOperator, values ...string) termChange {
	return func(t *corev1.PodAffinityTerm) {
		t.LabelSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
	}
}

func affinity(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	if p.Spec.Affinity.PodAffinity == nil {
		p.Spec.Affinity.PodAffinity = &corev1.PodAffinity{}
	}
	if p.Spec.Affinity.PodAntiAffinity == nil {
		p.Spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{}
	}
	return p.Spec.Affinity
}

func near(terms ...corev1.PodAffinityTerm) podChange {
	return func(p *corev1.Pod) {
		affinity(p).PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = terms
	}
}

func far(terms ...corev1.PodAffinityTerm) podChange {
	return func(p *corev1.Pod) {
		affinity(p).PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = terms
	}
}

func likesNear(weight int32, term corev1.PodAffinityTerm) podChange {
	return func(p *corev1.Pod) {
		a := affinity(p).PodAffinity
		a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution, corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: term})
	}
}

func likesFar(weight int32, term corev1.PodAffinityTerm) podChange {
	return func(p *corev1.Pod) {
		a := affinity(p).PodAntiAffinity
		a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution, corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: term})
	}
}

// spreadChange is part of the description of a spread constraint.
type spreadChange func(*corev1.TopologySpreadConstraint)

// even is a hard constraint over the pods of an app; of a soft one it says so.
func even(name, key string, skew int32, changes ...spreadChange) podChange {
	return func(p *corev1.Pod) {
		c := corev1.TopologySpreadConstraint{
			MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
		}
		for _, change := range changes {
			change(&c)
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
}

func softly(c *corev1.TopologySpreadConstraint) { c.WhenUnsatisfiable = corev1.ScheduleAnyway }

func domains(n int32) spreadChange {
	return func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &n }
}

func affinityPolicy(policy corev1.NodeInclusionPolicy) spreadChange {
	return func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &policy }
}

func taintsPolicy(policy corev1.NodeInclusionPolicy) spreadChange {
	return func(c *corev1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &policy }
}

func byLabels(keys ...string) spreadChange {
	return func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = keys }
}

func whoeverIs(key string, operator metav1.LabelSelectorOperator, values ...string) spreadChange {
	return func(c *corev1.TopologySpreadConstraint) {
		c.LabelSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: key, Operator: operator, Values: values}}}
	}
}

// Other objects.

func namespace(name, team string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team, corev1.LabelMetadataName: name}}}
}

func uses(claims ...string) podChange {
	return func(p *corev1.Pod) {
		for _, c := range claims {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c},
			}})
		}
	}
}

type claimChange func(*corev1.PersistentVolumeClaim)

// claim is for 1Gi, and bound to a volume unless that is "".
func claim(name, class, volume string, changes ...claimChange) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: name, UID: types.UID(name), Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, VolumeName: volume, VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem),
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: list("storage", "1Gi")},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	if volume != "" {
		c.Annotations["pv.kubernetes.io/bind-completed"] = "yes"
		c.Status.Phase = corev1.ClaimBound
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func sized(size string) claimChange {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.Resources.Requests = list("storage", size) }
}

func modes(m ...corev1.PersistentVolumeAccessMode) claimChange {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes = m }
}

func marked(key, value string) claimChange {
	return func(c *corev1.PersistentVolumeClaim) { c.Annotations[key] = value }
}

type volumeChange func(*corev1.PersistentVolume)

// volume is a free one of 1Gi that all nodes reach.
func volume(name, class string, changes ...volumeChange) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, Capacity: list("storage", "1Gi"), VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem),
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/" + name}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, change := range changes {
		change(v)
	}
	return v
}

func reached(key string, values ...string) volumeChange {
	return func(v *corev1.PersistentVolume) {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}},
		}}}}
	}
}

func holds(size string) volumeChange {
	return func(v *corev1.PersistentVolume) { v.Spec.Capacity = list("storage", size) }
}

func can(m ...corev1.PersistentVolumeAccessMode) volumeChange {
	return func(v *corev1.PersistentVolume) { v.Spec.AccessModes = m }
}

func tagged(key, value string) volumeChange {
	return func(v *corev1.PersistentVolume) { v.Labels[key] = value }
}

// serves is a volume bound to, or with an empty uid reserved for, a claim.
func serves(claim string) volumeChange {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: Namespace, Name: claim}
		v.Status.Phase = corev1.VolumeBound
	}
}

func csi(driver string) volumeChange {
	return func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driver, VolumeHandle: v.Name}}
	}
}

type classChange func(*storagev1.StorageClass)

// later is a class whose claims wait for their pod's node.
func later(name, provisioner string, changes ...classChange) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	for _, change := range changes {
		change(c)
	}
	return c
}

func only(key string, values ...string) classChange {
	return func(c *storagev1.StorageClass) {
		c.AllowedTopologies = append(c.AllowedTopologies, corev1.TopologySelectorTerm{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: key, Values: values}}})
	}
}

func driver(name string, tracksCapacity bool) *storagev1.CSIDriver {
	return &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{StorageCapacity: &tracksCapacity}}
}

// capacity is what is left of a class in a zone.
// strict is a driver whose volumes go only where it is.
func strict(name string) *storagev1.CSIDriver {
	d := driver(name, false)
	d.Spec.PreventPodSchedulingIfMissing = ptr.To(true)
	return d
}

func capacity(name, class, zoneName, left string) *storagev1.CSIStorageCapacity {
	return &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: name}, StorageClassName: class, Capacity: ptr.To(resource.MustParse(left)),
		NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{zoneKey: zoneName}},
	}
}

// attaches is how many volumes of a driver a node can have.
func attaches(node, driver string, count int32) *storagev1.CSINode {
	return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
		Name: driver, NodeID: node, Allocatable: &storagev1.VolumeNodeResources{Count: &count},
	}}}}
}

func service(name, appName string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": appName}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

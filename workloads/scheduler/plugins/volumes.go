package plugins

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Why a node will not do for a pod's volumes.
const (
	noVolume   = "node(s) didn't find available persistent volumes to bind"
	elsewhere  = "node(s) didn't match PersistentVolume's node affinity"
	noSpace    = "node(s) did not have enough free storage"
	lostVolume = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
)

// Volumes keeps a pod to the nodes its volumes can be reached from, and chooses volumes for claims that wait for their
// pod's node. Nodes where those leave more of the storage they are taken from are preferred (KEP-4049).
type Volumes struct {
	patience time.Duration
	shape    []configv1.UtilizationShapePoint
}

// mostLeft is upstream's shape: the more is left the better.
var mostLeft = []configv1.UtilizationShapePoint{{Utilization: 0, Score: 10}, {Utilization: 100, Score: 0}}

func newVolumes(args *configv1.VolumeBindingArgs) (Plugin, error) {
	if seconds := ptr.Deref(args.BindTimeoutSeconds, 600); seconds < 0 {
		return nil, fmt.Errorf("bindTimeoutSeconds: %d is negative", seconds)
	}
	rule := Volumes{patience: time.Duration(ptr.Deref(args.BindTimeoutSeconds, 600)) * time.Second, shape: mostLeft}
	if len(args.Shape) > 0 {
		if err := validShape(args.Shape); err != nil {
			return nil, err
		}
		rule.shape = args.Shape
	}
	return rule, nil
}

// Name of the rule.
func (Volumes) Name() string { return "VolumeBinding" }

// volumeKinds are the kinds of objects the rule reads.
var volumeKinds = []Source{
	SourceOf(&corev1.PersistentVolumeClaim{}, (*snapshot.Snapshot).SetClaim, (*snapshot.Snapshot).RemoveClaim),
	SourceOf(&corev1.PersistentVolume{}, (*snapshot.Snapshot).SetVolume, (*snapshot.Snapshot).RemoveVolume),
	SourceOf(&storagev1.StorageClass{}, (*snapshot.Snapshot).SetClass, (*snapshot.Snapshot).RemoveClass),
	SourceOf(&storagev1.CSIDriver{}, (*snapshot.Snapshot).SetDriver, (*snapshot.Snapshot).RemoveDriver),
	SourceOf(&storagev1.CSIStorageCapacity{}, (*snapshot.Snapshot).SetCapacity, (*snapshot.Snapshot).RemoveCapacity),
}

// Needs implements Follower.
func (Volumes) Needs(pod *snapshot.Pod, _ *snapshot.Snapshot) []Source {
	if len(pod.Claims) == 0 {
		return nil
	}
	return volumeKinds
}

// Filter implements Filterer.
func (Volumes) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	wanted, why := sortClaims(pod, snap)
	switch {
	case why != "":
		return nil, &Refusal{Reasons: []string{why}, Final: true}
	case len(wanted.there) == 0 && len(wanted.open) == 0 && !wanted.lost:
		return nil, nil
	}
	refusals := map[string]*Refusal{}
	for _, reason := range []string{noVolume, elsewhere, noSpace, lostVolume} {
		refusals[reason] = &Refusal{Reasons: []string{reason}, Final: true}
	}
	return func(n *snapshot.Node) *Refusal {
		_, why := wanted.bindOn(n.Object, snap)
		return refusals[why]
	}, nil
}

// Helps implements Filterer.
func (Volumes) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	if change.Kind != snapshot.StorageChanged {
		return isNode(change)
	}
	if change.Claim == nil {
		return true
	}
	for _, wanted := range pod.Claims {
		if change.Claim.Namespace == pod.Object.Namespace && change.Claim.Name == wanted.Name {
			return true
		}
	}
	return false
}

// Score implements Scorer: by the share of what there is of each class that the pod would take, volumes there are before
// those to be made. A class nothing is known of does not count.
func (v Volumes) Score(pod *snapshot.Pod, snap *snapshot.Snapshot, _ []*snapshot.Node) Score {
	wanted, why := sortClaims(pod, snap)
	if why != "" || len(wanted.open) == 0 {
		return nil
	}
	return func(n *snapshot.Node) int64 {
		bindings, why := wanted.bindOn(n.Object, snap)
		if why != "" {
			return 0
		}
		classes := storageOf(bindings)
		var sum int64
		for _, s := range classes {
			percent := int64(100)
			if s.has > 0 && s.taken <= s.has {
				percent = s.taken * 100 / s.has
			}
			sum += along(v.shape, percent)
		}
		return int64(math.Round(float64(sum) / float64(max(len(classes), 1))))
	}
}

// storage is what a pod would take of a class, and what there is of it.
type storage struct{ has, taken int64 }

func storageOf(bindings []binding) map[string]storage {
	static := slices.ContainsFunc(bindings, func(b binding) bool { return b.volume != nil })
	classes := map[string]storage{}
	for _, b := range bindings {
		class := volume.GetPersistentVolumeClaimClass(b.claim)
		s := classes[class]
		switch {
		case static && b.volume != nil:
			s.has += b.volume.Spec.Capacity.Storage().Value()
		case !static && b.left != nil:
			s.has = b.left.Value() // the same storage for all that is made of it
		default:
			continue
		}
		s.taken += b.claim.Spec.Resources.Requests.Storage().Value()
		classes[class] = s
	}
	return classes
}

// Normalize implements Scorer; shares are on the scale already.
func (Volumes) Normalize([]int64) {}

// claims are the volume claims of a pod, by what has to be done about them.
type claims struct {
	there []*snapshot.Volume // bound, and not reached from everywhere
	open  []openClaim        // to be bound once the pod has a node, the smallest first
	lost  bool               // one is bound to what does not exist
}

// openClaim is a claim that waits for its pod's node.
type openClaim struct {
	claim   *corev1.PersistentVolumeClaim
	class   *storagev1.StorageClass
	local   map[string][]*snapshot.Volume // volumes that would do, by the only host they are reached from
	others  []*snapshot.Volume            // those reached from more or by other rules
	nowhere bool                          // nobody provisions volumes of the class
}

// sortClaims looks at a pod's claims; why says what keeps the pod from any node.
func sortClaims(pod *snapshot.Pod, snap *snapshot.Snapshot) (c claims, why string) {
	for _, wanted := range pod.Claims {
		claim := snap.Claim(pod.Object.Namespace, wanted.Name)
		if why := unready(pod.Object, wanted, claim, snap); why != "" {
			return c, why
		}
		if !bound(claim) {
			c.open = append(c.open, newOpenClaim(claim, snap))
			continue
		}
		switch v := snap.Volume(claim.Spec.VolumeName); {
		case v == nil:
			c.lost = true
		case !v.Anywhere():
			c.there = append(c.there, v)
		}
	}
	slices.SortStableFunc(c.open, func(a, b openClaim) int {
		size := a.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return size.Cmp(b.claim.Spec.Resources.Requests[corev1.ResourceStorage])
	})
	return c, ""
}

// unready says why a claim cannot be used on any node, "" if it can.
func unready(pod *corev1.Pod, wanted snapshot.Claim, claim *corev1.PersistentVolumeClaim, snap *snapshot.Snapshot) string {
	switch {
	case claim == nil && wanted.Own:
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", wanted.Name)
	case claim == nil:
		return fmt.Sprintf("persistentvolumeclaim %q not found", wanted.Name)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", wanted.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", wanted.Name, claim.Spec.VolumeName)
	}
	if wanted.Own {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return err.Error()
		}
	}
	if !bound(claim) && (claim.Spec.VolumeName != "" || !snap.Waits(claim)) {
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	return ""
}

func bound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[volume.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && (completed || claim.Status.Phase == corev1.ClaimBound)
}

// newOpenClaim collects the volumes that would do for a claim, wherever they are. What all nodes have in common is
// asked here, once.
func newOpenClaim(claim *corev1.PersistentVolumeClaim, snap *snapshot.Snapshot) openClaim {
	open := openClaim{claim: claim, class: snap.Class(volume.GetPersistentVolumeClaimClass(claim)), local: map[string][]*snapshot.Volume{}}
	open.nowhere = open.class.Provisioner == volume.NotSupportedProvisioner
	selector := labels.Everything()
	if claim.Spec.Selector != nil {
		selector = snapshot.Selector(claim.Spec.Selector)
	}
	for v := range snap.Volumes(open.class.Name) {
		if volume.IsVolumeBoundToClaim(v.Object, claim) && able(v.Object, claim) {
			// It and no other, but where it is not to be had one may be made: upstream decides so, too.
			open.local, open.others = nil, []*snapshot.Volume{v}
			return open
		}
		if !free(v.Object, claim, selector) {
			continue
		}
		if len(v.Hosts) == 0 {
			open.others = append(open.others, v)
		}
		for _, host := range v.Hosts {
			open.local[host] = append(open.local[host], v)
		}
	}
	slices.SortFunc(open.others, bySize)
	for _, of := range open.local {
		slices.SortFunc(of, bySize)
	}
	return open
}

// able says whether a volume is what a claim asks for.
func able(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	size := v.Spec.Capacity[corev1.ResourceStorage]
	return v.DeletionTimestamp == nil && size.Cmp(claim.Spec.Resources.Requests[corev1.ResourceStorage]) >= 0 &&
		!volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) &&
		ptr.Deref(claim.Spec.VolumeAttributesClassName, "") == ptr.Deref(v.Spec.VolumeAttributesClassName, "")
}

// free says whether a claim may take a volume.
func free(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim, selector labels.Selector) bool {
	return v.Spec.ClaimRef == nil && v.Status.Phase == corev1.VolumeAvailable && able(v, claim) &&
		volume.CheckAccessModes(claim, v) && selector.Matches(labels.Set(v.Labels))
}

func bySize(a, b *snapshot.Volume) int {
	size := a.Object.Spec.Capacity[corev1.ResourceStorage]
	return cmp.Or(size.Cmp(b.Object.Spec.Capacity[corev1.ResourceStorage]), cmp.Compare(a.Object.Name, b.Object.Name))
}

// binding is what becomes of an open claim on a node: it takes a volume, or gets one made when that is nil.
type binding struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
	left   *resource.Quantity // to make it of, where that is known
}

// bindOn chooses volumes for the open claims on a node; why says what is missing there.
func (c *claims) bindOn(node *corev1.Node, snap *snapshot.Snapshot) (bindings []binding, why string) {
	if c.lost {
		return nil, lostVolume
	}
	for _, v := range c.there {
		if !v.ReachedFrom(node) {
			return nil, elsewhere
		}
	}
	for i := range c.open {
		open := &c.open[i]
		made := binding{claim: open.claim}
		if selected := open.claim.Annotations[volume.AnnSelectedNode]; selected != "" {
			if selected != node.Name {
				return nil, noVolume // it is being made for another node
			}
		} else if v := open.smallest(node, bindings); v != nil {
			made.volume = v.Object
		}
		if made.volume == nil {
			if made.left, why = open.provided(node, snap); why != "" {
				return nil, why
			}
		}
		bindings = append(bindings, made)
	}
	return bindings, ""
}

// smallest is the smallest volume a node reaches that no other claim of the pod takes.
func (o *openClaim) smallest(node *corev1.Node, taken []binding) *snapshot.Volume {
	first := func(of []*snapshot.Volume) *snapshot.Volume {
		for _, v := range of {
			if v.ReachedFrom(node) && !slices.ContainsFunc(taken, func(b binding) bool { return b.volume == v.Object }) {
				return v
			}
		}
		return nil
	}
	here, other := first(o.local[node.Labels[corev1.LabelHostname]]), first(o.others)
	if here == nil || other != nil && bySize(other, here) < 0 {
		return other
	}
	return here
}

// provided says why no volume could be made for a claim on a node, "" if one could, and what is left to make it of, where
// the driver tells.
func (o *openClaim) provided(node *corev1.Node, snap *snapshot.Snapshot) (left *resource.Quantity, why string) {
	if o.nowhere || !allowed(o.class.AllowedTopologies, node.Labels) {
		return nil, noVolume
	}
	if driver := snap.Driver(o.class.Provisioner); driver == nil || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return nil, ""
	}
	wanted := o.claim.Spec.Resources.Requests[corev1.ResourceStorage]
	for left := range snap.Capacities() {
		if left.StorageClassName != o.class.Name || left.NodeTopology == nil || !snapshot.Selector(left.NodeTopology).Matches(labels.Set(node.Labels)) {
			continue
		}
		size := left.Capacity
		if left.MaximumVolumeSize != nil {
			size = left.MaximumVolumeSize
		}
		if size != nil && size.Cmp(wanted) >= 0 {
			return left.Capacity, ""
		}
	}
	return nil, noSpace
}

// allowed says whether a class makes volumes for a node: any of the terms, none means everywhere.
func allowed(terms []corev1.TopologySelectorTerm, node map[string]string) bool {
	matches := func(t corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			value, has := node[e.Key]
			return !has || !slices.Contains(e.Values, value)
		})
	}
	return len(terms) == 0 || slices.ContainsFunc(terms, matches)
}

// Reserve implements Reserver: the chosen volumes are nobody else's from now on.
func (v Volumes) Reserve(pod *snapshot.Pod, snap *snapshot.Snapshot, n *snapshot.Node) (*Reservation, error) {
	wanted, why := sortClaims(pod, snap)
	if why != "" {
		return nil, fmt.Errorf("reserve volumes: %s", why)
	}
	if len(wanted.open) == 0 {
		return nil, nil
	}
	bindings, why := wanted.bindOn(n.Object, snap)
	if why != "" {
		return nil, fmt.Errorf("reserve volumes on node %s: %s", n.Name, why)
	}
	r, err := newReservation(pod, n.Name, bindings)
	if err != nil {
		return nil, err
	}
	for _, taken := range r.volumes {
		snap.AssumeVolume(taken)
	}
	for _, c := range r.claims {
		snap.AssumeClaim(c)
	}
	return &Reservation{PreBind: r.write, Permit: r.done, Undo: r.undo, Patience: v.patience}, nil
}

// volumeReservation is the volumes taken for a pod, and the claims to have one made.
type volumeReservation struct {
	pod     *snapshot.Pod
	node    string
	volumes []*corev1.PersistentVolume
	claims  []*corev1.PersistentVolumeClaim
	written map[string]string // the versions of claims that say which node was selected, by name
}

func newReservation(pod *snapshot.Pod, node string, bindings []binding) (*volumeReservation, error) {
	r := &volumeReservation{pod: pod, node: node, written: map[string]string{}}
	for _, b := range bindings {
		if b.volume == nil {
			claim := b.claim
			if claim.Annotations[volume.AnnSelectedNode] != node {
				claim = claim.DeepCopy()
				metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, node)
				r.claims = append(r.claims, claim)
			}
			continue
		}
		taken, changed, err := volume.GetBindVolumeToClaim(b.volume, b.claim)
		if err != nil {
			return nil, fmt.Errorf("take volume %s: %w", b.volume.Name, err)
		}
		if changed {
			r.volumes = append(r.volumes, taken)
		}
	}
	return r, nil
}

// write reserves the volumes for their claims, and tells provisioners for which node the others are. Who binds them
// reads it and completes each pair.
func (r *volumeReservation) write(ctx context.Context, api client.Client) error {
	for _, v := range r.volumes {
		if err := api.Update(ctx, v.DeepCopy()); err != nil {
			return fmt.Errorf("take volume %s: %w", v.Name, err)
		}
	}
	for _, c := range r.claims {
		next := c.DeepCopy()
		if err := api.Update(ctx, next); err != nil {
			return fmt.Errorf("select node %s for claim %s: %w", r.node, c.Name, err)
		}
		r.written[c.Name] = next.ResourceVersion
	}
	return nil
}

// done says whether all claims of the pod are bound to volumes its node reaches.
func (r *volumeReservation) done(snap *snapshot.Snapshot) (bool, error) {
	node := snap.Node(r.node)
	if node == nil {
		return false, fmt.Errorf("node %s is gone", r.node)
	}
	for _, wanted := range r.pod.Claims {
		claim := snap.Claim(r.pod.Object.Namespace, wanted.Name)
		if claim == nil || claim.DeletionTimestamp != nil {
			return false, fmt.Errorf("persistentvolumeclaim %q is gone", wanted.Name)
		}
		if bound(claim) {
			v := snap.Volume(claim.Spec.VolumeName)
			if v == nil {
				return false, nil // the cache shows it soon, or the claim is lost
			}
			if !v.ReachedFrom(node.Object) {
				return false, fmt.Errorf("volume %s for claim %s cannot be reached from node %s", v.Object.Name, wanted.Name, r.node)
			}
			continue
		}
		written := r.written[wanted.Name]
		if written != "" && !snapshot.Newer(written, claim.ResourceVersion) && claim.Annotations[volume.AnnSelectedNode] != r.node {
			return false, fmt.Errorf("the provisioner gave claim %s back: node %s will not do", wanted.Name, r.node)
		}
		return false, nil
	}
	return true, nil
}

// undo gives up what was assumed. What was written stays: a volume reserved for a claim will be that claim's.
func (r *volumeReservation) undo(snap *snapshot.Snapshot) snapshot.Change {
	for _, v := range r.volumes {
		snap.ForgetVolume(v)
	}
	for _, c := range r.claims {
		snap.ForgetClaim(c)
	}
	return snapshot.Change{Kind: snapshot.StorageChanged}
}

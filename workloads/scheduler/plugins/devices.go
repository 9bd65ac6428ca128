package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// features of device allocation that Kubernetes 1.37 has on unless told otherwise.
var features = structured.Features{
	AdminAccess: true, ConsumableCapacity: true, DeviceBindingAndStatus: true, DeviceTaints: true,
	PartitionableDevices: true, PrioritizedList: true,
}

// expressions is how many compiled device selectors are kept.
const expressions = 256

// Devices gives resource claims the devices they ask for, and pods those that stand for an extended resource; it keeps a pod to the
// nodes that reach them.
type Devices struct {
	selectors func() *cel.Cache // made for the first claim: the compiler of expressions is large
	limit     time.Duration     // of looking for devices of one node; 0 is none
	patience  time.Duration     // with devices that have to be made ready
}

func newDevices(args *configv1.DynamicResourcesArgs) (Plugin, error) {
	d := Devices{
		selectors: sync.OnceValue(func() *cel.Cache { return cel.NewCache(expressions, cel.Features{EnableConsumableCapacity: true}) }),
		limit:     10 * time.Second, patience: 10 * time.Minute,
	}
	if args.FilterTimeout != nil {
		if d.limit = args.FilterTimeout.Duration; d.limit < 0 {
			return nil, fmt.Errorf("filterTimeout: %v is negative", d.limit)
		}
	}
	if args.BindingTimeout != nil {
		if d.patience = args.BindingTimeout.Duration; d.patience < time.Second {
			return nil, fmt.Errorf("bindingTimeout: %v is less than a second", d.patience)
		}
	}
	return d, nil
}

// Name of the rule.
func (Devices) Name() string { return "DynamicResources" }

// Kinds of objects the rule reads. A pod with extended resources is about devices only where a class says so.
var (
	deviceKinds = []Source{
		SourceOf(&resourcev1.DeviceClass{}, (*snapshot.Snapshot).SetDeviceClass, (*snapshot.Snapshot).RemoveDeviceClass),
		SourceOf(&resourcev1.ResourceClaim{}, (*snapshot.Snapshot).SetResourceClaim, (*snapshot.Snapshot).RemoveResourceClaim),
		SourceOf(&resourcev1.ResourceSlice{}, (*snapshot.Snapshot).SetResourceSlice, (*snapshot.Snapshot).RemoveResourceSlice),
		SourceOf(&resourcev1.DeviceTaintRule{}, (*snapshot.Snapshot).SetDeviceTaintRule, (*snapshot.Snapshot).RemoveDeviceTaintRule),
	}
	deviceClasses = deviceKinds[:1]
)

// Needs implements Follower.
func (Devices) Needs(pod *snapshot.Pod, snap *snapshot.Snapshot) []Source {
	switch {
	case len(pod.Object.Spec.ResourceClaims) > 0:
		return deviceKinds
	case !asksExtended(pod):
		return nil
	case len(extendedOf(pod, snap)) > 0:
		return deviceKinds
	}
	return deviceClasses
}

// concerns says whether a pod could need devices.
func (Devices) concerns(pod *snapshot.Pod) bool {
	return len(pod.Object.Spec.ResourceClaims) > 0 || asksExtended(pod)
}

// Filter implements Filterer.
func (d Devices) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	if !d.concerns(pod) {
		return nil, nil
	}
	wanted, why := sortResourceClaims(pod, snap)
	switch {
	case why != "":
		return nil, &Refusal{Reasons: []string{why}, Final: true}
	case len(wanted.reach) == 0 && len(wanted.open) == 0 && len(wanted.extended) == 0:
		return nil, nil
	}
	allocator, err := d.allocator(wanted, snap)
	if err != nil {
		return nil, &Refusal{Err: err}
	}
	elsewhere := &Refusal{Reasons: []string{"resourceclaim not available on the node"}}
	return func(n *snapshot.Node) *Refusal {
		for _, reach := range wanted.reach {
			if !reach.Match(n.Object) {
				return elsewhere
			}
		}
		open := wanted.open
		if own, _ := extendedClaim(pod.Object, wanted.extended, n, snap); own != nil {
			if made := wanted.made; made == nil || made.Status.Allocation == nil {
				open = append(slices.Clip(open), own)
			} else if !sameDevices(own, made) || !reaches(made, n.Object) {
				return elsewhere
			}
		}
		if len(open) == 0 {
			return nil
		}
		return d.find(allocator, n.Object, open)
	}, nil
}

// find says why the devices claims ask for are not to be had on a node, nil if they are.
func (d Devices) find(allocator structured.Allocator, n *corev1.Node, open []*resourcev1.ResourceClaim) *Refusal {
	ctx, cancel := d.search()
	defer cancel()
	results, err := allocator.Allocate(ctx, n, open)
	switch {
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return &Refusal{Reasons: []string{err.Error()}}
	case errors.Is(err, context.DeadlineExceeded):
		return &Refusal{Reasons: []string{"timed out trying to allocate devices"}}
	case err != nil:
		return &Refusal{Err: fmt.Errorf("allocate devices on node %s: %w", n.Name, err)}
	case len(results) == 0:
		return &Refusal{Reasons: []string{"cannot allocate all claims"}}
	}
	return nil
}

// search is as long as looking for devices of one node may take.
func (d Devices) search() (context.Context, context.CancelFunc) {
	if d.limit == 0 {
		return context.WithCancel(context.Background())
	}
	return context.WithTimeout(context.Background(), d.limit)
}

// reaches says whether a node reaches the devices of a claim.
func reaches(claim *resourcev1.ResourceClaim, n *corev1.Node) bool {
	selector := claim.Status.Allocation.NodeSelector
	if selector == nil {
		return true
	}
	parsed, err := nodeaffinity.NewNodeSelector(selector)
	return err == nil && parsed.Match(n)
}

// Helps implements Filterer.
func (Devices) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	return change.Kind == snapshot.DevicesChanged || isNode(change)
}

// resourceClaims are the claims of a pod, by what has to be done about them.
type resourceClaims struct {
	open  []*resourcev1.ResourceClaim  // to be allocated
	given []*resourcev1.ResourceClaim  // allocated already
	reach []*nodeaffinity.NodeSelector // where those can be used

	extended []extended                // what there are devices for without a claim of the user's
	made     *resourcev1.ResourceClaim // the claim for those that an earlier attempt made, or nil
}

// sortResourceClaims looks at a pod's claims; why says what keeps the pod from any node.
func sortResourceClaims(of *snapshot.Pod, snap *snapshot.Snapshot) (c resourceClaims, why string) {
	pod := of.Object
	if asksExtended(of) {
		c.extended, c.made = extendedOf(of, snap), snap.ResourceClaim(pod.Namespace, extendedName(pod))
	}
	if c.made != nil {
		if why := unusable(pod, c.made, true); why != "" {
			return c, why
		}
	}
	for i := range pod.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return c, err.Error()
		}
		if name == nil {
			continue // its template says that none is needed
		}
		claim := snap.ResourceClaim(pod.Namespace, *name)
		if claim == nil {
			return c, fmt.Sprintf("resourceclaim.resource.k8s.io %q not found", *name)
		}
		if why := unusable(pod, claim, own); why != "" {
			return c, why
		}
		if claim.Status.Allocation == nil {
			if why := classless(claim, snap); why != "" {
				return c, why
			}
			c.open = append(c.open, claim)
			continue
		}
		if !resourceclaim.IsReservedForPod(pod, claim, false) && len(claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize {
			return c, "resourceclaim in use"
		}
		c.given = append(c.given, claim)
		if selector := claim.Status.Allocation.NodeSelector; selector != nil {
			reach, err := nodeaffinity.NewNodeSelector(selector)
			if err != nil {
				return c, err.Error()
			}
			c.reach = append(c.reach, reach)
		}
	}
	return c, ""
}

// unusable says why a claim will not do, "" if it will; own that it was made for the pod.
func unusable(pod *corev1.Pod, claim *resourcev1.ResourceClaim, own bool) string {
	if claim.DeletionTimestamp != nil {
		return fmt.Sprintf("resourceclaim %q is being deleted", claim.Name)
	}
	if own {
		if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
			return err.Error()
		}
	}
	return ""
}

// classless says which class a claim asks for that does not exist, "" if all do.
func classless(claim *resourcev1.ResourceClaim, snap *snapshot.Snapshot) string {
	missing := func(request, class string) string {
		if snap.DeviceClass(class) != nil {
			return ""
		}
		return fmt.Sprintf("request %s: device class %s does not exist", request, class)
	}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			if why := missing(r.Name, r.Exactly.DeviceClassName); why != "" {
				return why
			}
		}
		for _, sub := range r.FirstAvailable {
			if why := missing(r.Name+"/"+sub.Name, sub.DeviceClassName); why != "" {
				return why
			}
		}
	}
	return ""
}

// allocator knows which devices are free; nil when nothing is to be allocated.
func (d Devices) allocator(wanted resourceClaims, snap *snapshot.Snapshot) (structured.Allocator, error) {
	if len(wanted.open) == 0 && len(wanted.extended) == 0 {
		return nil, nil
	}
	allocator, err := structured.NewAllocator(context.Background(), features, taken(snap), classes{snap}, snap.ResourceSlices(), d.selectors())
	if err != nil {
		return nil, fmt.Errorf("look which devices are free: %w", err)
	}
	return allocator, nil
}

// taken are the devices that claims have, or were decided to get. Administrators look at devices without taking them.
func taken(snap *snapshot.Snapshot) structured.AllocatedState {
	state := structured.AllocatedState{
		AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection(),
	}
	for claim := range snap.ResourceClaims() {
		if claim.Status.Allocation == nil {
			continue
		}
		for _, r := range claim.Status.Allocation.Devices.Results {
			id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
			switch {
			case ptr.Deref(r.AdminAccess, false):
			case r.ShareID == nil:
				state.AllocatedDevices.Insert(id)
			default:
				state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
				state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
			}
		}
	}
	return state
}

// classes are the device classes as the allocator asks for them.
type classes struct{ snap *snapshot.Snapshot }

func (c classes) List() ([]*resourcev1.DeviceClass, error) {
	return slices.Collect(c.snap.DeviceClasses()), nil
}

func (c classes) Get(name string) (*resourcev1.DeviceClass, error) {
	if class := c.snap.DeviceClass(name); class != nil {
		return class, nil
	}
	return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclasses"), name)
}

// PostFilter implements PostFilterer: a claim that has devices on a node where its pod cannot go, and that nobody else
// uses, gives them back.
func (d Devices) PostFilter(pod *snapshot.Pod, snap *snapshot.Snapshot) func(context.Context, client.Client) error {
	if !d.concerns(pod) {
		return nil
	}
	wanted, _ := sortResourceClaims(pod, snap)
	for _, claim := range wanted.given {
		if claim.Status.Allocation.NodeSelector == nil {
			continue
		}
		if act := release(pod.Object, claim); act != nil {
			return act
		}
	}
	if wanted.made != nil && wanted.made.DeletionTimestamp == nil {
		return release(pod.Object, wanted.made)
	}
	return nil
}

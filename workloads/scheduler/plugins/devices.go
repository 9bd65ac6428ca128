package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// features of device allocation that Kubernetes 1.37 has on unless told otherwise.
var features = structured.Features{
	AdminAccess: true, ConsumableCapacity: true, DeviceBindingAndStatus: true, DeviceTaints: true,
	FractionalCapacityRange: true, PartitionableDevices: true, PrioritizedList: true,
}

// expressions is how many compiled device selectors are kept.
const expressions = 256

// Devices gives resource claims the devices they ask for, and keeps a pod to the nodes that reach them.
type Devices struct {
	selectors func() *cel.Cache // made for the first claim: the compiler of expressions is large
}

func newDevices() Devices {
	return Devices{sync.OnceValue(func() *cel.Cache { return cel.NewCache(expressions, cel.Features{EnableConsumableCapacity: true}) })}
}

// Name of the rule.
func (Devices) Name() string { return "DynamicResources" }

// Needs implements Follower.
func (Devices) Needs(pod *snapshot.Pod) bool { return len(pod.Object.Spec.ResourceClaims) > 0 }

// Sources implements Follower.
func (Devices) Sources() []Source {
	return []Source{
		SourceOf(&resourcev1.ResourceClaim{}, (*snapshot.Snapshot).SetResourceClaim, (*snapshot.Snapshot).RemoveResourceClaim),
		SourceOf(&resourcev1.ResourceSlice{}, (*snapshot.Snapshot).SetResourceSlice, (*snapshot.Snapshot).RemoveResourceSlice),
		SourceOf(&resourcev1.DeviceClass{}, (*snapshot.Snapshot).SetDeviceClass, (*snapshot.Snapshot).RemoveDeviceClass),
		SourceOf(&resourcev1.DeviceTaintRule{}, (*snapshot.Snapshot).SetDeviceTaintRule, (*snapshot.Snapshot).RemoveDeviceTaintRule),
	}
}

// Filter implements Filterer.
func (d Devices) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	if !d.Needs(pod) {
		return nil, nil
	}
	wanted, why := sortResourceClaims(pod.Object, snap)
	switch {
	case why != "":
		return nil, &Refusal{Reasons: []string{why}, Final: true}
	case len(wanted.reach) == 0 && len(wanted.open) == 0:
		return nil, nil
	}
	allocator, err := d.allocator(wanted, snap)
	if err != nil {
		return nil, &Refusal{Err: err}
	}
	elsewhere := &Refusal{Reasons: []string{"resourceclaim not available on the node"}}
	none := &Refusal{Reasons: []string{"cannot allocate all claims"}}
	return func(n *snapshot.Node) *Refusal {
		for _, reach := range wanted.reach {
			if !reach.Match(n.Object) {
				return elsewhere
			}
		}
		if allocator == nil {
			return nil
		}
		results, err := allocator.Allocate(context.Background(), n.Object, wanted.open)
		switch {
		case errors.Is(err, structured.ErrFailedAllocationOnNode):
			return &Refusal{Reasons: []string{err.Error()}}
		case err != nil:
			return &Refusal{Err: fmt.Errorf("allocate devices on node %s: %w", n.Name, err)}
		case len(results) == 0:
			return none
		}
		return nil
	}, nil
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
}

// sortResourceClaims looks at a pod's claims; why says what keeps the pod from any node.
func sortResourceClaims(pod *corev1.Pod, snap *snapshot.Snapshot) (c resourceClaims, why string) {
	for i := range pod.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return c, err.Error()
		}
		if name == nil {
			continue // its template says that none is needed
		}
		claim := snap.ResourceClaim(pod.Namespace, *name)
		switch {
		case claim == nil:
			return c, fmt.Sprintf("resourceclaim.resource.k8s.io %q not found", *name)
		case claim.DeletionTimestamp != nil:
			return c, fmt.Sprintf("resourceclaim %q is being deleted", claim.Name)
		}
		if own {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return c, err.Error()
			}
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
	if len(wanted.open) == 0 {
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

// Reserve implements Reserver: the devices are nobody else's from now on, and the claims know the pod.
func (d Devices) Reserve(pod *snapshot.Pod, snap *snapshot.Snapshot, n *snapshot.Node) (*Reservation, error) {
	if !d.Needs(pod) {
		return nil, nil
	}
	wanted, why := sortResourceClaims(pod.Object, snap)
	if why != "" {
		return nil, fmt.Errorf("reserve devices: %s", why)
	}
	allocator, err := d.allocator(wanted, snap)
	if err != nil {
		return nil, err
	}
	r := &deviceReservation{pod: pod.Object}
	if allocator != nil {
		results, err := allocator.Allocate(context.Background(), n.Object, wanted.open)
		if err != nil {
			return nil, fmt.Errorf("allocate devices on node %s: %w", n.Name, err)
		}
		if len(results) != len(wanted.open) {
			return nil, fmt.Errorf("allocate devices on node %s: they are no longer free", n.Name)
		}
		for i, claim := range wanted.open {
			next := claim.DeepCopy()
			next.Status.Allocation = &results[i]
			next.Status.Allocation.AllocationTimestamp = ptr.To(metav1.Now())
			r.take(next)
		}
	}
	for _, claim := range wanted.given {
		if !resourceclaim.IsReservedForPod(pod.Object, claim, false) {
			r.take(claim.DeepCopy())
		}
		r.all = append(r.all, claim.Name)
	}
	for _, claim := range r.claims {
		snap.AssumeResourceClaim(claim)
		r.all = append(r.all, claim.Name)
	}
	return &Reservation{PreBind: r.write, Permit: r.done, Undo: r.undo}, nil
}

// deviceReservation is the claims that were allocated or reserved for a pod.
type deviceReservation struct {
	pod    *corev1.Pod
	claims []*resourcev1.ResourceClaim // as they are to become
	all    []string                    // names of all claims of the pod
}

func (r *deviceReservation) take(claim *resourcev1.ResourceClaim) {
	claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: r.pod.Name, UID: r.pod.UID})
	r.claims = append(r.claims, claim)
}

// write makes the reservation true. The finalizer comes first: an allocated claim must not go unnoticed.
func (r *deviceReservation) write(ctx context.Context, api client.Client) error {
	for _, claim := range r.claims {
		next := claim.DeepCopy()
		if controllerutil.AddFinalizer(next, resourcev1.Finalizer) {
			if err := api.Update(ctx, next); err != nil {
				return fmt.Errorf("protect resource claim %s: %w", claim.Name, err)
			}
			next.Status = *claim.Status.DeepCopy()
		}
		if err := api.Status().Update(ctx, next); err != nil {
			return fmt.Errorf("allocate resource claim %s: %w", claim.Name, err)
		}
	}
	return nil
}

// done says whether all devices are ready that have to be made so first.
func (r *deviceReservation) done(snap *snapshot.Snapshot) (bool, error) {
	for _, name := range r.all {
		claim := snap.ResourceClaim(r.pod.Namespace, name)
		if claim == nil || claim.Status.Allocation == nil {
			return false, fmt.Errorf("resource claim %s lost its devices", name)
		}
		for i := range claim.Status.Allocation.Devices.Results {
			result := &claim.Status.Allocation.Devices.Results[i]
			if len(result.BindingConditions) == 0 {
				continue
			}
			conditions := conditionsOf(claim, result)
			for _, failure := range result.BindingFailureConditions {
				if meta.IsStatusConditionTrue(conditions, failure) {
					return false, fmt.Errorf("device %s of resource claim %s cannot be bound: %s", result.Device, name, failure)
				}
			}
			for _, wanted := range result.BindingConditions {
				if !meta.IsStatusConditionTrue(conditions, wanted) {
					return false, nil
				}
			}
		}
	}
	return true, nil
}

// conditionsOf are what a driver says about an allocated device.
func conditionsOf(claim *resourcev1.ResourceClaim, result *resourcev1.DeviceRequestAllocationResult) []metav1.Condition {
	for i := range claim.Status.Devices {
		if d := &claim.Status.Devices[i]; d.Driver == result.Driver && d.Pool == result.Pool && d.Device == result.Device {
			return d.Conditions
		}
	}
	return nil
}

func (r *deviceReservation) undo(snap *snapshot.Snapshot) snapshot.Change {
	for _, claim := range r.claims {
		snap.ForgetResourceClaim(claim)
	}
	return snapshot.Change{Kind: snapshot.DevicesChanged}
}

// PostFilter implements PostFilterer: a claim that has devices on a node where its pod cannot go, and that nobody else
// uses, gives them back.
func (d Devices) PostFilter(pod *snapshot.Pod, snap *snapshot.Snapshot) func(context.Context, client.Client) error {
	if !d.Needs(pod) {
		return nil
	}
	wanted, _ := sortResourceClaims(pod.Object, snap)
	for _, claim := range wanted.given {
		others := slices.ContainsFunc(claim.Status.ReservedFor, func(ref resourcev1.ResourceClaimConsumerReference) bool { return ref.UID != pod.Object.UID })
		if others || claim.Status.Allocation.NodeSelector == nil {
			continue
		}
		return func(ctx context.Context, api client.Client) error {
			next := claim.DeepCopy()
			next.Status.Allocation, next.Status.ReservedFor, next.Status.Devices = nil, nil, nil
			if err := api.Status().Update(ctx, next); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				return fmt.Errorf("give the devices of resource claim %s back: %w", claim.Name, err)
			}
			return nil
		}
	}
	return nil
}

package devicetaint

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/utils/ptr"
)

// device is the name of one in the cluster.
type device struct{ driver, pool, name string }

func allocated(r *resourcev1.DeviceRequestAllocationResult) device {
	return device{r.Driver, r.Pool, r.Device}
}

// taintsOf are the taints of a device: those its driver reports, and those of rules that mean it.
func taintsOf(d device, slices []resourcev1.ResourceSlice, rules []resourcev1.DeviceTaintRule) []resourcev1.DeviceTaint {
	var taints []resourcev1.DeviceTaint
	newest := newest(d, slices)
	for i := range slices {
		s := &slices[i]
		if s.Spec.Driver != d.driver || s.Spec.Pool.Name != d.pool || s.Spec.Pool.Generation != newest {
			continue
		}
		for j := range s.Spec.Devices {
			if s.Spec.Devices[j].Name == d.name {
				taints = append(taints, s.Spec.Devices[j].Taints...)
			}
		}
	}
	for i := range rules {
		if rules[i].DeletionTimestamp == nil && means(rules[i].Spec.DeviceSelector, d) {
			taints = append(taints, rules[i].Spec.Taint)
		}
	}
	return taints
}

// newest is the generation of a device's pool that counts: slices of older ones are about to go.
func newest(d device, slices []resourcev1.ResourceSlice) int64 {
	var generation int64
	for i := range slices {
		if s := &slices[i]; s.Spec.Driver == d.driver && s.Spec.Pool.Name == d.pool {
			generation = max(generation, s.Spec.Pool.Generation)
		}
	}
	return generation
}

// means says whether a selector selects a device: without one none, with an empty one all.
func means(s *resourcev1.DeviceTaintSelector, d device) bool {
	return s != nil && ptr.Deref(s.Driver, d.driver) == d.driver && ptr.Deref(s.Pool, d.pool) == d.pool && ptr.Deref(s.Device, d.name) == d.name
}

// judge says whether the pods that use a claim have to go now; if only later, again is when to look. The claim's
// tolerations were copied into its allocation.
func judge(claim *resourcev1.ResourceClaim, slices []resourcev1.ResourceSlice, rules []resourcev1.DeviceTaintRule, now time.Time) (evict bool, again time.Duration) {
	if claim.Status.Allocation == nil {
		return false, 0
	}
	results := claim.Status.Allocation.Devices.Results
	for i := range results {
		for _, taint := range taintsOf(allocated(&results[i]), slices, rules) {
			left, tolerated := tolerance(results[i].Tolerations, &taint, claim, now)
			switch {
			case taint.Effect != resourcev1.DeviceTaintEffectNoExecute || tolerated && left == forever:
			case !tolerated || left <= 0:
				return true, 0
			case again == 0 || left < again:
				again = left
			}
		}
	}
	return false, again
}

const forever = time.Duration(1<<63 - 1)

// tolerance is how much longer a taint is tolerated, by the toleration that ends first.
func tolerance(tolerations []resourcev1.DeviceToleration, taint *resourcev1.DeviceTaint, claim *resourcev1.ResourceClaim, now time.Time) (left time.Duration, tolerated bool) {
	left = forever
	for i := range tolerations {
		if !tolerates(&tolerations[i], taint) {
			continue
		}
		tolerated = true
		if seconds := tolerations[i].TolerationSeconds; seconds != nil {
			left = min(left, since(taint, claim, now).Add(time.Duration(max(0, *seconds))*time.Second).Sub(now))
		}
	}
	return left, tolerated
}

// since is when a taint began to matter to a claim; another machine's clock must not keep pods for ever.
func since(taint *resourcev1.DeviceTaint, claim *resourcev1.ResourceClaim, now time.Time) time.Time {
	at := claim.CreationTimestamp.Time
	if allocated := claim.Status.Allocation.AllocationTimestamp; allocated != nil {
		at = allocated.Time
	}
	if taint.TimeAdded != nil && taint.TimeAdded.After(at) {
		at = taint.TimeAdded.Time
	}
	if at.After(now) {
		return now
	}
	return at
}

func tolerates(t *resourcev1.DeviceToleration, taint *resourcev1.DeviceTaint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		return true
	case "", resourcev1.DeviceTolerationOpEqual:
		return t.Value == taint.Value
	}
	return false
}

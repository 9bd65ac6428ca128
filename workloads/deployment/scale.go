package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// bounds are how many pods a rolling update may have too many, and how many too few.
func bounds(d *appsv1.Deployment) (surge, unavailable int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	// Percentages the API server let through cannot fail to parse.
	up, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(rolling.MaxSurge, intstr.FromInt32(0)), int(desired(d)), true)
	down, _ := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(rolling.MaxUnavailable, intstr.FromInt32(0)), int(desired(d)), false)
	if up == 0 && down == 0 {
		down = 1 // small percentages of few replicas round to nothing, and nothing would ever move
	}
	return int32(up), min(int32(down), desired(d))
}

// scale sets a ReplicaSet's size and notes what it is part of; it says whether the size changed.
func (r *rollout) scale(rs *appsv1.ReplicaSet, to int32) bool {
	from := size(rs)
	surge, _ := bounds(r.d)
	rs.Spec.Replicas = ptr.To(to)
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	rs.Annotations[desiredAnnotation] = strconv.Itoa(int(desired(r.d)))
	rs.Annotations[maxAnnotation] = strconv.Itoa(int(desired(r.d) + surge))
	return from != to
}

// nextSize is how large the current ReplicaSet may be now.
func (r *rollout) nextSize() int32 {
	want, have := desired(r.d), size(r.current)
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || have >= want {
		return want
	}
	surge, _ := bounds(r.d)
	room := want + surge - total(r.all(), standing)
	return have + max(min(room, want-have), 0)
}

// standing is how many pods a ReplicaSet may have now: those it is to have, and those it has not let go yet. Another one
// that starts its own is not waiting for that.
func standing(rs *appsv1.ReplicaSet) int32 { return max(size(rs), rs.Status.Replicas) }

// shrinkOlds scales old ReplicaSets down as far as enough pods stay available: first what never became healthy,
// then the oldest. It says whether anything changed.
func (r *rollout) shrinkOlds() bool {
	_, unavailable := bounds(r.d)
	needed := desired(r.d) - unavailable
	budget := total(r.all(), size) - needed - (size(r.current) - available(r.current))
	if total(r.olds, size) == 0 || budget <= 0 {
		return false
	}
	changed := false
	for _, rs := range r.olds {
		if broken := min(budget, size(rs)-available(rs)); broken > 0 {
			changed = r.scale(rs, size(rs)-broken) || changed
			budget -= broken
		}
	}
	spare := total(r.all(), staying) - needed
	for _, rs := range r.olds {
		if drop := min(spare, size(rs)); drop > 0 {
			changed = r.scale(rs, size(rs)-drop) || changed
			spare -= drop
		}
	}
	return changed
}

// staying is how many available pods of a ReplicaSet are meant to stay: those it has not let go yet serve nobody for long.
func staying(rs *appsv1.ReplicaSet) int32 { return min(size(rs), available(rs)) }

// resized says whether the user changed the number of replicas since the ReplicaSets were last scaled.
func (r *rollout) resized() bool {
	for _, rs := range r.all() {
		if noted, has := number(rs, desiredAnnotation); has && size(rs) > 0 && noted != desired(r.d) {
			return true
		}
	}
	return false
}

// resize spreads a new number of replicas. In the middle of a rollout every ReplicaSet gets its share, so that a
// broken new version does not receive all the added pods.
func (r *rollout) resize() {
	var active []*appsv1.ReplicaSet
	for _, rs := range r.all() {
		if size(rs) > 0 {
			active = append(active, rs)
		}
	}
	switch {
	case len(active) == 1:
		r.scale(active[0], desired(r.d))
		return
	case len(active) == 0 && r.current != nil:
		r.scale(r.current, desired(r.d))
		return
	case len(active) == 0 && len(r.olds) > 0:
		r.scale(r.olds[len(r.olds)-1], desired(r.d))
		return
	case len(active) == 0:
		return
	}
	if r.saturated() {
		for _, rs := range r.olds {
			if size(rs) > 0 {
				r.scale(rs, 0)
			}
		}
		return
	}
	if r.d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		r.share(active)
	}
}

// saturated says whether the current ReplicaSet carries the whole Deployment.
func (r *rollout) saturated() bool {
	if r.current == nil {
		return false
	}
	noted, has := number(r.current, desiredAnnotation)
	return has && noted == desired(r.d) && size(r.current) == desired(r.d) && available(r.current) == desired(r.d)
}

// share distributes the difference to the allowed total in proportion to size; what rounding leaves over goes to
// the largest.
func (r *rollout) share(active []*appsv1.ReplicaSet) {
	var allowed int32
	if surge, _ := bounds(r.d); desired(r.d) > 0 {
		allowed = desired(r.d) + surge
	}
	add := allowed - total(active, size)
	slices.SortFunc(active, func(a, b *appsv1.ReplicaSet) int {
		age := oldestFirst(a, b)
		if add > 0 {
			age = -age // growing favours the new, shrinking takes from the old
		}
		return cmp.Or(cmp.Compare(size(b), size(a)), age)
	})
	sizes := make([]int32, len(active))
	left := add
	for i, rs := range active {
		part := r.part(rs)
		if add > 0 {
			part = min(part, left)
		} else {
			part = max(part, left)
		}
		sizes[i] = size(rs) + part
		left -= part
	}
	for i, rs := range active {
		if i == 0 {
			sizes[i] = max(sizes[i]+left, 0)
		}
		r.scale(rs, sizes[i])
	}
}

// part is how much a ReplicaSet would change if everything scaled exactly in proportion.
func (r *rollout) part(rs *appsv1.ReplicaSet) int32 {
	if desired(r.d) == 0 {
		return -size(rs)
	}
	surge, _ := bounds(r.d)
	before, has := number(rs, maxAnnotation)
	if !has || before == 0 {
		before = r.d.Status.Replicas
	}
	if before == 0 {
		return 0
	}
	scaled := float64(size(rs)) * float64(desired(r.d)+surge) / float64(before)
	return int32(math.Round(scaled)) - size(rs)
}

func number(rs *appsv1.ReplicaSet, annotation string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[annotation], 10, 32)
	return int32(n), err == nil
}

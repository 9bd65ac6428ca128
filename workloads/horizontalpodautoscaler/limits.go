package horizontalpodautoscaler

import (
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// calm is how long a lower recommendation has to last before pods go, when the autoscaler does not say:
// kube-controller-manager's default.
const calm = 5 * time.Minute

// mark is something that was at some time: a recommendation, or by how many replicas the size was changed.
type mark struct {
	at       time.Time
	replicas int32
}

// history of one autoscaler. It is kept in memory: a controller that starts over waits a whole window before pods go.
type history struct {
	recommended []mark
	added       []mark
	removed     []mark
}

// begin notes the size an autoscaler was first seen with, which holds for a window.
func (h *history) begin(replicas int32, now time.Time) {
	if len(h.recommended) == 0 {
		h.recommended = append(h.recommended, mark{now, replicas})
	}
}

// resized notes a change, which counts against policies for as long as the longest of them looks back.
func (h *history) resized(b *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) {
	if b == nil {
		return
	}
	if to > from {
		h.added = append(recent(h.added, lookBack(b.ScaleUp), now), mark{now, to - from})
	} else {
		h.removed = append(recent(h.removed, lookBack(b.ScaleDown), now), mark{now, from - to})
	}
}

func lookBack(r *autoscalingv2.HPAScalingRules) time.Duration {
	var longest int32
	if r != nil {
		for _, p := range r.Policies {
			longest = max(longest, p.PeriodSeconds)
		}
	}
	return time.Duration(longest) * time.Second
}

func recent(marks []mark, window time.Duration, now time.Time) []mark {
	kept := marks[:0]
	for _, m := range marks {
		if now.Sub(m.at) < window {
			kept = append(kept, m)
		}
	}
	return kept
}

func sum(marks []mark, window time.Duration, now time.Time) (total int32) {
	for _, m := range marks {
		if now.Sub(m.at) < window {
			total += m.replicas
		}
	}
	return total
}

// verdict is why a size is what it is, as conditions say it.
type verdict struct{ reason, message string }

var (
	steady          = verdict{"ReadyForNewScale", "recommended size matches current size"}
	upStabilized    = verdict{"ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
	downStabilized  = verdict{"ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"}
	withinRange     = verdict{"DesiredWithinRange", "the desired count is within the acceptable range"}
	tooFew          = verdict{"TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	tooMany         = verdict{"TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	increasesFaster = verdict{"ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	decreasesFaster = verdict{"ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
)

// bounds of one autoscaler.
type bounds struct{ min, max, current int32 }

// stabilize applies what was recommended lately: of the last window, the lowest before pods are added and the highest
// before some go. It notes the new recommendation.
func (h *history) stabilize(b *autoscalingv2.HorizontalPodAutoscalerBehavior, current, desired int32, now time.Time) (int32, verdict) {
	var up, down time.Duration
	if b == nil {
		down = calm
	} else {
		up, down = window(b.ScaleUp, 0), window(b.ScaleDown, calm)
	}
	lowest, highest := desired, desired
	for _, m := range h.recommended {
		if now.Sub(m.at) < up {
			lowest = min(lowest, m.replicas)
		}
		if now.Sub(m.at) < down {
			highest = max(highest, m.replicas)
		}
	}
	h.recommended = append(recent(h.recommended, max(up, down), now), mark{now, desired})
	if b == nil { // no rule for the way up: what was higher lately is what is wanted, even if it is more than there is
		if highest != desired {
			return highest, downStabilized
		}
		return desired, steady
	}
	stable := min(max(current, lowest), highest)
	switch {
	case stable == desired:
		return stable, steady
	case desired >= current:
		return stable, upStabilized
	}
	return stable, downStabilized
}

func window(r *autoscalingv2.HPAScalingRules, otherwise time.Duration) time.Duration {
	if r == nil || r.StabilizationWindowSeconds == nil {
		return otherwise
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

// limit keeps a size within bounds and changes within policies.
func (h *history) limit(b *autoscalingv2.HorizontalPodAutoscalerBehavior, in bounds, desired int32, now time.Time) (int32, verdict) {
	if b == nil {
		return limitDefault(in, desired)
	}
	switch {
	case desired > in.current:
		most, why := in.max, tooMany
		if rate := max(h.upTo(b.ScaleUp, in.current, now), in.current); rate < most {
			most, why = rate, increasesFaster
		}
		if desired > most {
			return most, why
		}
	case desired < in.current:
		least, why := in.min, tooFew
		if rate := min(h.downTo(b.ScaleDown, in.current, now), in.current); rate > least {
			least, why = rate, decreasesFaster
		}
		if desired < least {
			return least, why
		}
	}
	return desired, withinRange
}

// limitDefault is for autoscalers without behaviour: at most twice as many at a time, or 4.
func limitDefault(in bounds, desired int32) (int32, verdict) {
	most, why := in.max, tooMany
	if rate := max(2*in.current, 4); rate < most {
		most, why = rate, increasesFaster
	}
	switch {
	case desired < in.min:
		return in.min, tooFew
	case desired > most:
		return most, why
	}
	return desired, withinRange
}

// upTo is the most replicas the policies for the way up allow now.
func (h *history) upTo(r *autoscalingv2.HPAScalingRules, current int32, now time.Time) int32 {
	return h.byPolicies(r, current, now, func(p autoscalingv2.HPAScalingPolicy, before int32) int32 {
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return ceil(float64(before) + float64(p.Value))
		}
		return ceil(float64(before) * (1 + float64(p.Value)/100))
	}, true)
}

// downTo is the fewest replicas the policies for the way down allow now.
func (h *history) downTo(r *autoscalingv2.HPAScalingRules, current int32, now time.Time) int32 {
	return h.byPolicies(r, current, now, func(p autoscalingv2.HPAScalingPolicy, before int32) int32 {
		if p.Type == autoscalingv2.PodsScalingPolicy {
			return before - p.Value
		}
		return int32(float64(before) * (1 - float64(p.Value)/100))
	}, false)
}

// byPolicies finds the policy that counts. Each allows a change from the size at the start of its own period.
func (h *history) byPolicies(r *autoscalingv2.HPAScalingRules, current int32, now time.Time, allow func(autoscalingv2.HPAScalingPolicy, int32) int32, up bool) int32 {
	if r == nil || r.SelectPolicy != nil && *r.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	least := r.SelectPolicy != nil && *r.SelectPolicy == autoscalingv2.MinChangePolicySelect
	out := current
	for i, p := range r.Policies {
		period := time.Duration(p.PeriodSeconds) * time.Second
		to := allow(p, current-sum(h.added, period, now)+sum(h.removed, period, now))
		if i == 0 || (to > out) == (up != least) {
			out = to
		}
	}
	return out
}

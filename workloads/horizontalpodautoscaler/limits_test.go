package horizontalpodautoscaler

import (
	"math"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
)

// rules of a behaviour: its window in seconds, and policies.
func rules(window int32, which autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &which, Policies: policies}
}

func byPods(value, seconds int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: value, PeriodSeconds: seconds}
}

func byPercent(value, seconds int32) autoscalingv2.HPAScalingPolicy {
	return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: value, PeriodSeconds: seconds}
}

func behaviour(up, down *autoscalingv2.HPAScalingRules) *autoscalingv2.HorizontalPodAutoscalerBehavior {
	return &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: up, ScaleDown: down}
}

const (
	most  = autoscalingv2.MaxChangePolicySelect
	least = autoscalingv2.MinChangePolicySelect
	none  = autoscalingv2.DisabledPolicySelect
)

func ago(d time.Duration, replicas int32) mark { return mark{now.Add(-d), replicas} }

func TestStabilize(t *testing.T) {
	free := behaviour(rules(0, most), rules(0, most))
	slow := behaviour(rules(60, most), rules(120, most))
	tests := map[string]struct {
		behaviour *autoscalingv2.HorizontalPodAutoscalerBehavior
		earlier   []mark
		current   int32
		desired   int32
		want      int32
		why       verdict
	}{
		"nothing was recommended before":                       {nil, nil, 3, 5, 5, steady},
		"without behaviour, up is at once":                     {nil, []mark{ago(time.Minute, 2)}, 3, 5, 5, steady},
		"without behaviour, down waits five minutes":           {nil, []mark{ago(4*time.Minute, 4)}, 4, 2, 4, downStabilized},
		"and goes to the highest of them":                      {nil, []mark{ago(4*time.Minute, 3), ago(6*time.Minute, 9)}, 4, 2, 3, downStabilized},
		"and is over after them":                               {nil, []mark{ago(5*time.Minute, 4)}, 4, 2, 2, steady},
		"windows of nothing hold nothing":                      {free, []mark{ago(time.Second, 9), ago(time.Second, 1)}, 4, 2, 2, steady},
		"the way up waits for its window":                      {slow, []mark{ago(30*time.Second, 4)}, 4, 8, 4, upStabilized},
		"the lowest of it is applied":                          {slow, []mark{ago(30*time.Second, 5), ago(40*time.Second, 6)}, 4, 8, 5, upStabilized},
		"and is over after it":                                 {slow, []mark{ago(60*time.Second, 4)}, 4, 8, 8, steady},
		"the way down waits for its own":                       {slow, []mark{ago(100*time.Second, 4)}, 4, 1, 4, downStabilized},
		"a low one lately does not add, a high one not remove": {slow, []mark{ago(10*time.Second, 2), ago(20*time.Second, 9)}, 4, 6, 4, upStabilized},
		"down has five minutes unless it says otherwise":       {behaviour(rules(0, most), &autoscalingv2.HPAScalingRules{}), []mark{ago(4*time.Minute, 4)}, 4, 2, 4, downStabilized},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h := &history{recommended: tc.earlier}
			got, why := h.stabilize(tc.behaviour, tc.current, tc.desired, now)
			if got != tc.want || why != tc.why {
				t.Errorf("stabilize() = %d, %v; want %d, %v", got, why, tc.want, tc.why)
			}
			if last := h.recommended[len(h.recommended)-1]; last != (mark{now, tc.desired}) {
				t.Errorf("the last recommendation is %v", last)
			}
		})
	}
}

func TestLimit(t *testing.T) {
	tests := map[string]struct {
		behaviour      *autoscalingv2.HorizontalPodAutoscalerBehavior
		added, removed []mark
		in             bounds
		desired        int32
		want           int32
		why            verdict
	}{
		"within bounds":     {nil, nil, nil, bounds{1, 10, 3}, 5, 5, withinRange},
		"below the minimum": {nil, nil, nil, bounds{2, 10, 3}, 1, 2, tooFew},
		"above the maximum": {nil, nil, nil, bounds{1, 5, 3}, 9, 5, tooMany},
		"without behaviour, twice as many at a time":       {nil, nil, nil, bounds{1, 100, 10}, 50, 20, increasesFaster},
		"without behaviour, four are always allowed":       {nil, nil, nil, bounds{1, 100, 1}, 50, 4, increasesFaster},
		"from zero as well":                                {nil, nil, nil, bounds{0, 100, 0}, 50, 4, increasesFaster},
		"to zero if that is the minimum":                   {nil, nil, nil, bounds{0, 100, 3}, 0, 0, withinRange},
		"so many pods a period":                            {behaviour(rules(0, most, byPods(3, 60)), nil), nil, nil, bounds{1, 100, 5}, 50, 8, increasesFaster},
		"so many percent a period, rounded up":             {behaviour(rules(0, most, byPercent(50, 60)), nil), nil, nil, bounds{1, 100, 5}, 50, 8, increasesFaster},
		"the policy that allows most":                      {behaviour(rules(0, most, byPods(3, 60), byPercent(100, 60)), nil), nil, nil, bounds{1, 100, 5}, 50, 10, increasesFaster},
		"the policy that allows least":                     {behaviour(rules(0, least, byPods(3, 60), byPercent(100, 60)), nil), nil, nil, bounds{1, 100, 5}, 50, 8, increasesFaster},
		"no way up at all":                                 {behaviour(rules(0, none, byPods(3, 60)), nil), nil, nil, bounds{1, 100, 5}, 50, 5, increasesFaster},
		"what was added in the period counts":              {behaviour(rules(0, most, byPods(3, 60)), nil), []mark{ago(30*time.Second, 2), ago(61*time.Second, 9)}, nil, bounds{1, 100, 5}, 50, 6, increasesFaster},
		"what was removed in it as well":                   {behaviour(rules(0, most, byPods(3, 60)), nil), nil, []mark{ago(30*time.Second, 2)}, bounds{1, 100, 5}, 50, 10, increasesFaster},
		"too much added already is not taken back":         {behaviour(rules(0, most, byPods(3, 60)), nil), []mark{ago(30*time.Second, 9)}, nil, bounds{1, 100, 10}, 50, 10, increasesFaster},
		"the maximum before the policy":                    {behaviour(rules(0, most, byPods(30, 60)), nil), nil, nil, bounds{1, 7, 5}, 50, 7, tooMany},
		"so many fewer a period":                           {behaviour(nil, rules(0, most, byPods(2, 60))), nil, nil, bounds{1, 100, 10}, 1, 8, decreasesFaster},
		"so many percent fewer, rounded down":              {behaviour(nil, rules(0, most, byPercent(15, 60))), nil, nil, bounds{1, 100, 10}, 1, 8, decreasesFaster},
		"the policy that removes most":                     {behaviour(nil, rules(0, most, byPods(2, 60), byPercent(50, 60))), nil, nil, bounds{1, 100, 10}, 1, 5, decreasesFaster},
		"the policy that removes least":                    {behaviour(nil, rules(0, least, byPods(2, 60), byPercent(50, 60))), nil, nil, bounds{1, 100, 10}, 1, 8, decreasesFaster},
		"no way down at all":                               {behaviour(nil, rules(0, none, byPods(2, 60))), nil, nil, bounds{1, 100, 10}, 1, 10, decreasesFaster},
		"what was removed in the period counts there":      {behaviour(nil, rules(0, most, byPods(2, 60))), nil, []mark{ago(30*time.Second, 1)}, bounds{1, 100, 10}, 1, 9, decreasesFaster},
		"the minimum before the policy":                    {behaviour(nil, rules(0, most, byPercent(100, 15))), nil, nil, bounds{4, 100, 10}, 1, 4, tooFew},
		"a policy for more than there are ends at minimum": {behaviour(nil, rules(0, most, byPods(50, 60))), nil, nil, bounds{2, 100, 10}, 1, 2, tooFew},
		"each policy looks back its own period":            {behaviour(rules(0, most, byPods(4, 15), byPods(10, 60)), nil), []mark{ago(30*time.Second, 8)}, nil, bounds{1, 100, 10}, 50, 14, increasesFaster},
		"a policy of more pods than can be counted":        {behaviour(rules(0, most, byPods(math.MaxInt32, 60)), nil), nil, nil, bounds{1, 100, 10}, 50, 50, withinRange},
		"a policy of more percent than can be counted":     {behaviour(rules(0, most, byPercent(math.MaxInt32, 60)), nil), nil, nil, bounds{1, 10000, 200}, 5000, 5000, withinRange},
		"no change is within any policy":                   {behaviour(rules(0, none), rules(0, none)), nil, nil, bounds{1, 100, 10}, 10, 10, withinRange},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h := &history{added: tc.added, removed: tc.removed}
			got, why := h.limit(tc.behaviour, tc.in, tc.desired, now)
			if got != tc.want || why != tc.why {
				t.Errorf("limit() = %d, %v; want %d, %v", got, why, tc.want, tc.why)
			}
		})
	}
}

func TestHistoryForgets(t *testing.T) {
	b := behaviour(rules(30, most, byPods(1, 60)), rules(60, most, byPods(1, 15)))
	h := &history{}
	h.begin(3, now)
	h.begin(9, now.Add(time.Second)) // only the first is the beginning
	for i := range int32(600) {
		at := now.Add(time.Duration(i) * time.Second)
		h.stabilize(b, 3, 3, at)
		h.resized(b, i, i+1, at)
		h.resized(b, i+1, i, at)
	}
	if len(h.recommended) > 61 || len(h.added) > 61 || len(h.removed) > 16 {
		t.Errorf("after ten minutes %d recommendations, %d and %d changes are kept", len(h.recommended), len(h.added), len(h.removed))
	}
	h.resized(nil, 1, 2, now.Add(time.Hour))
	if len(h.added) > 61 {
		t.Error("a change without behaviour was kept")
	}
	if got := (&history{}).upTo(&autoscalingv2.HPAScalingRules{SelectPolicy: ptr.To(most)}, 3, now); got != 3 {
		t.Errorf("without a policy up to %d, want no change", got)
	}
}

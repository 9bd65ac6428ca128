package devicetaint

import (
	"context"
	"fmt"
	"sync"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// tally remembers which pods were driven away by which rule.
type tally struct {
	mu   sync.Mutex
	pods map[types.UID]sets.Set[types.UID] // by rule
}

func (t *tally) add(rules []types.UID, pod types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, rule := range rules {
		if t.pods == nil {
			t.pods = map[types.UID]sets.Set[types.UID]{}
		}
		if t.pods[rule] == nil {
			t.pods[rule] = sets.New[types.UID]()
		}
		t.pods[rule].Insert(pod)
	}
}

// of is which pods a rule drove away, as a copy.
func (t *tally) of(rule types.UID) sets.Set[types.UID] {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pods[rule].Clone()
}

// forget drops what is remembered of rules that are gone.
func (r *Reconciler) forget(ctx context.Context) error {
	var rules resourcev1.DeviceTaintRuleList
	if err := r.devices.List(ctx, &rules, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list device taint rules: %w", err)
	}
	there := sets.New[types.UID]()
	for i := range rules.Items {
		there.Insert(rules.Items[i].UID)
	}
	r.tally.mu.Lock()
	defer r.tally.mu.Unlock()
	for rule := range r.tally.pods {
		if !there.Has(rule) {
			delete(r.tally.pods, rule)
		}
	}
	return nil
}

// blamed are the rules that alone would drive the pods of a claim away.
func blamed(claim *resourcev1.ResourceClaim, rules []resourcev1.DeviceTaintRule, now time.Time) (out []types.UID) {
	for i := range rules {
		if evict, _ := judge(claim, nil, rules[i:i+1], now); evict {
			out = append(out, rules[i].UID)
		}
	}
	return out
}

// progress is a rule's condition, in the words of the documentation on device taints. What a rule without effect would do
// is said once for each of its versions. evicted are the pods the rule drove away, which may not be gone yet.
func progress(rule *resourcev1.DeviceTaintRule, claims []resourcev1.ResourceClaim, slices []resourcev1.ResourceSlice, evicted sets.Set[types.UID], now metav1.Time) metav1.Condition {
	pods, namespaces := pending(rule, claims, evicted, now.Time)
	c := metav1.Condition{
		Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, Reason: "NotStarted",
		ObservedGeneration: rule.Generation, LastTransitionTime: now,
	}
	switch {
	case rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute && pods > 0:
		c.Status, c.Reason = metav1.ConditionTrue, "PodsPendingEviction"
		c.Message = counted(pods, "%d pod needs", "%d pods need") + " to be evicted in " + counted(namespaces, "%d namespace.", "%d different namespaces.")
	case rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute:
		if len(evicted) > 0 {
			c.Reason = "Completed"
		}
	case rule.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNone:
		for _, said := range rule.Status.Conditions {
			if said.Type == c.Type && said.ObservedGeneration == rule.Generation {
				return said
			}
		}
		c.Reason = "NoEffect"
		c.Message = fmt.Sprintf("%s %s %s would be evicted in %s if the effect was NoExecute. "+
			"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
			counted(published(rule, slices), "%d published device selected.", "%d published devices selected."),
			counted(taken(rule, claims), "%d allocated device selected.", "%d allocated devices selected."),
			counted(pods, "%d pod", "%d pods"), counted(namespaces, "%d namespace", "%d different namespaces"))
	default:
		c.Reason, c.Message = "OtherEffect", "Eviction only happens for the NoExecute effect."
	}
	if len(evicted) > 0 {
		if c.Message != "" {
			c.Message += " "
		}
		c.Message += counted(len(evicted), "%d pod", "%d pods") + " evicted since starting the controller."
	}
	return c
}

func counted(n int, one, more string) string {
	if n == 1 {
		return fmt.Sprintf(one, n)
	}
	return fmt.Sprintf(more, n)
}

// pending counts the pods that a rule drives away, or would, and the namespaces they are in.
func pending(rule *resourcev1.DeviceTaintRule, claims []resourcev1.ResourceClaim, evicted sets.Set[types.UID], now time.Time) (pods, namespaces int) {
	would := rule.DeepCopy()
	would.Spec.Taint.Effect = resourcev1.DeviceTaintEffectNoExecute
	found, in := sets.New[types.UID](), sets.New[string]()
	for i := range claims {
		if evict, _ := judge(&claims[i], nil, []resourcev1.DeviceTaintRule{*would}, now); !evict {
			continue
		}
		for _, ref := range claims[i].Status.ReservedFor {
			if ref.APIGroup == "" && ref.Resource == "pods" && !evicted.Has(ref.UID) {
				found.Insert(ref.UID)
				in.Insert(claims[i].Namespace)
			}
		}
	}
	return len(found), len(in)
}

// published counts the devices of drivers that a rule means.
func published(rule *resourcev1.DeviceTaintRule, slices []resourcev1.ResourceSlice) int {
	found := sets.New[device]()
	for i := range slices {
		s := &slices[i].Spec
		for j := range s.Devices {
			d := device{s.Driver, s.Pool.Name, s.Devices[j].Name}
			if means(rule.Spec.DeviceSelector, d) && s.Pool.Generation == newest(d, slices) {
				found.Insert(d)
			}
		}
	}
	return len(found)
}

// taken counts the devices of claims that a rule means.
func taken(rule *resourcev1.DeviceTaintRule, claims []resourcev1.ResourceClaim) int {
	found := sets.New[device]()
	for i := range claims {
		if claims[i].Status.Allocation == nil {
			continue
		}
		results := claims[i].Status.Allocation.Devices.Results
		for j := range results {
			if d := allocated(&results[j]); means(rule.Spec.DeviceSelector, d) {
				found.Insert(d)
			}
		}
	}
	return len(found)
}

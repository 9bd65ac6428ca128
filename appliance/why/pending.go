package why

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	corev1helper "k8s.io/component-helpers/scheduling/corev1"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// unplaced explains a pod that has no node.
func unplaced(f *Facts) (*Report, error) {
	pod, r := f.Pod, &Report{Unknown: f.Unknown}
	name, since := pod.Namespace+"/"+pod.Name, ago(f.Now, pod.CreationTimestamp.Time)
	if gates := pod.Spec.SchedulingGates; len(gates) > 0 {
		names := make([]string, len(gates))
		for i, g := range gates {
			names[i] = g.Name
		}
		r.Cause = fmt.Sprintf("Pod %s is held back by %d scheduling gate(s): nobody looks for a node for it. It has waited for %s.", name, len(gates), since)
		r.section("Gates", names...)
		r.do("Have whoever set a gate remove it from spec.schedulingGates; the gate's name says who that is.")
		return r, nil
	}
	told := conditionOf(pod, corev1.PodScheduled)
	verdicts, anywhere, err := judgeNodes(f)
	if err != nil {
		return nil, err
	}
	fits := slices.DeleteFunc(slices.Clone(verdicts), func(v verdict) bool { return len(v.refusals) > 0 })
	switch {
	case len(f.Nodes) == 0 && len(f.Unknown) == 0:
		r.Cause = fmt.Sprintf("Pod %s waits for a node: the cluster has none. It has waited for %s.", name, since)
		r.do("Start `knarr agent` (or a server with a node) on a machine and join it.")
	case len(anywhere) > 0:
		r.Cause = fmt.Sprintf("Pod %s cannot go to any node: %s. It has waited for %s.", name, strings.Join(anywhere, ", "), since)
	case pod.Spec.SchedulerName != corev1.DefaultSchedulerName && told == nil:
		r.Cause = fmt.Sprintf("Pod %s asks for the scheduler %q, which has not said anything about it for %s.", name, pod.Spec.SchedulerName, since)
		r.do("Start a scheduler of that name, or remove spec.schedulerName to have the cluster's own place the pod.")
	case pod.Status.NominatedNodeName != "" && len(leaving(f)) > 0:
		r.Cause = fmt.Sprintf("Pod %s waits for room on node %s, which less important pods are leaving for it.", name, pod.Status.NominatedNodeName)
		r.section("Leaving", leaving(f)...)
		r.do("Wait: pods that leave have their grace period.")
	case pod.Status.NominatedNodeName != "" && slices.ContainsFunc(fits, func(v verdict) bool { return v.node == pod.Status.NominatedNodeName }):
		r.Cause = fmt.Sprintf("Pod %s goes to node %s once what it needs there is ready: volumes or devices. It has waited for %s.", name, pod.Status.NominatedNodeName, since)
		r.do("Wait: those who make volumes and devices ready (their drivers) say in events of the pod, its claims and their own logs what holds them up.")
	case len(fits) > 0:
		r.Cause = fmt.Sprintf("Pod %s has waited for %s, but node %s would do by now: it is placed with the scheduler's next try.", name, since, fits[0].node)
		if told == nil {
			r.do("No scheduler has said anything about it: if that stays so, look whether the control plane runs (`knarr status` on a server).")
		}
	case len(f.Nodes) > 0:
		r.Cause = fmt.Sprintf("Pod %s waits for a node: none of %d will do. It has waited for %s.", name, len(f.Nodes), since)
	default:
		r.Cause = fmt.Sprintf("Pod %s waits for a node. It has waited for %s.", name, since)
	}
	r.section("Claims", claimLines(f)...)
	if len(fits) == 0 && len(anywhere) == 0 {
		r.section("Nodes", groups(verdicts)...)
	}
	if told != nil && told.Status == corev1.ConditionFalse && told.Message != "" {
		r.section("The scheduler says ("+ago(f.Now, told.LastTransitionTime.Time)+" ago)", told.Message)
	}
	r.section("Preemption", preemption(f, told)...)
	if len(fits) == 0 && len(anywhere) == 0 {
		suggest(r, verdicts)
	}
	return r, nil
}

// verdict is all that speaks against a node, with what would change it.
type verdict struct {
	node     string
	refusals []string
	fixes    []fix
}

func (v *verdict) cost() (sum int) {
	for _, f := range v.fixes {
		sum += f.cost
	}
	return sum
}

// judgeNodes asks the scheduler's own rules about each node, all of them and not only up to the first refusal.
// anywhere is what speaks against all nodes.
func judgeNodes(f *Facts) (verdicts []verdict, anywhere []string, err error) {
	snap, pod := picture(f), snapshot.NewPod(f.Pod)
	verdicts = make([]verdict, 0, len(snap.Nodes()))
	for _, n := range snap.Nodes() {
		verdicts = append(verdicts, verdict{node: n.Name})
	}
	for _, rule := range plugins.Rules() {
		plugin, err := rule.New(nil)
		if err != nil {
			return nil, nil, fmt.Errorf("make rule %s: %w", rule.Name, err)
		}
		filterer, ok := plugin.(plugins.Filterer)
		if !ok {
			continue
		}
		filter, everywhere := filterer.Filter(pod, snap)
		if everywhere != nil {
			anywhere = append(anywhere, everywhere.Reasons...)
			continue
		}
		if filter == nil {
			continue
		}
		for i, n := range snap.Nodes() {
			if refusal := filter(n); refusal != nil {
				verdicts[i].refusals = append(verdicts[i].refusals, refusal.Reasons...)
				verdicts[i].fixes = append(verdicts[i].fixes, fixes(rule.Name, refusal, pod, n)...)
			} else if full := snap.WithExpected(pod, n); full != nil && filter(full) != nil {
				verdicts[i].refusals = append(verdicts[i].refusals, "room is kept for pods that are to go there")
				verdicts[i].fixes = append(verdicts[i].fixes, fix{rethink, fmt.Sprintf("Node %s keeps room for %s: give the pod a higher priority, or delete those", n.Name, expected(snap, pod, n))})
			}
		}
	}
	return verdicts, anywhere, nil
}

// expected names the pods that are to go to a node and matter as much as a pod.
func expected(snap *snapshot.Snapshot, pod *snapshot.Pod, n *snapshot.Node) string {
	var names []string
	for _, other := range snap.Expected(n.Name) {
		if other.Priority >= pod.Priority && other.Object.UID != pod.Object.UID {
			names = append(names, other.Object.Namespace+"/"+other.Object.Name)
		}
	}
	return some(names)
}

// picture is the cluster as the scheduler would see it.
func picture(f *Facts) *snapshot.Snapshot {
	snap := snapshot.New()
	for i := range f.Namespaces {
		snap.SetNamespace(&f.Namespaces[i])
	}
	for i := range f.Nodes {
		snap.SetNode(&f.Nodes[i])
	}
	for i := range f.Pods {
		snap.SetPod(&f.Pods[i])
	}
	for i := range f.Claims {
		snap.SetClaim(&f.Claims[i])
	}
	for i := range f.Volumes {
		snap.SetVolume(&f.Volumes[i])
	}
	for i := range f.Classes {
		snap.SetClass(&f.Classes[i])
	}
	for i := range f.CSINodes {
		snap.SetCSINode(&f.CSINodes[i])
	}
	for i := range f.ResourceClaims {
		snap.SetResourceClaim(&f.ResourceClaims[i])
	}
	for i := range f.ResourceSlices {
		snap.SetResourceSlice(&f.ResourceSlices[i])
	}
	for i := range f.DeviceClasses {
		snap.SetDeviceClass(&f.DeviceClasses[i])
	}
	for i := range f.DeviceTaints {
		snap.SetDeviceTaintRule(&f.DeviceTaints[i])
	}
	for i := range f.Drivers {
		snap.SetDriver(&f.Drivers[i])
	}
	for i := range f.Capacities {
		snap.SetCapacity(&f.Capacities[i])
	}
	for i := range f.Expected {
		snap.Nominate(snapshot.NewPod(&f.Expected[i]), f.Expected[i].Status.NominatedNodeName)
	}
	return snap
}

// groups says how many nodes each reason keeps away, and which, the most frequent first.
func groups(verdicts []verdict) (lines []string) {
	by := map[string][]string{}
	for _, v := range verdicts {
		for _, reason := range v.refusals {
			by[reason] = append(by[reason], v.node)
		}
	}
	reasons := slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(by[b]), len(by[a])), cmp.Compare(a, b))
	})
	for _, reason := range reasons {
		lines = append(lines, fmt.Sprintf("%d\t%s\t%s", len(by[reason]), reason, some(by[reason])))
	}
	return lines
}

// some names a few and counts the rest.
func some(names []string) string {
	const shown = 5
	slices.Sort(names)
	if len(names) > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
	}
	return strings.Join(names, ", ")
}

// suggest names the node that lacks least, and what it lacks.
func suggest(r *Report, verdicts []verdict) {
	if len(verdicts) == 0 {
		return
	}
	best := slices.MinFunc(verdicts, func(a, b verdict) int { return cmp.Or(cmp.Compare(a.cost(), b.cost()), cmp.Compare(a.node, b.node)) })
	if len(best.fixes) > 1 {
		r.do("Node %s lacks least. All of this is needed there:", best.node)
	}
	for _, fix := range best.fixes {
		r.Do = append(r.Do, fix.text)
	}
}

// leaving are the pods with lower priority that go from the node a pod waits for.
func leaving(f *Facts) (lines []string) {
	for i := range f.Pods {
		p := &f.Pods[i]
		if p.Spec.NodeName == f.Pod.Status.NominatedNodeName && p.DeletionTimestamp != nil {
			lines = append(lines, fmt.Sprintf("%s/%s\tgone at %s at the latest", p.Namespace, p.Name, p.DeletionTimestamp.UTC().Format("15:04:05 UTC")))
		}
	}
	return lines
}

// preemption says whether less important pods could make room.
func preemption(f *Facts, told *corev1.PodCondition) []string {
	if told != nil {
		if _, answer, found := strings.Cut(told.Message, "preemption: "); found {
			return []string{answer}
		}
	}
	if policy := f.Pod.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return []string{"The pod may not send others away (preemptionPolicy: Never)."}
	}
	own := corev1helper.PodPriority(f.Pod)
	for i := range f.Pods {
		if corev1helper.PodPriority(&f.Pods[i]) < own {
			return nil
		}
	}
	if len(f.Pods) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("No pod is less important than this one (priority %d): nobody can be sent away for it.", own)}
}

// claimLines show the claims of a pod that are not bound.
func claimLines(f *Facts) (lines []string) {
	for _, wanted := range snapshot.NewPod(f.Pod).Claims {
		i := slices.IndexFunc(f.Claims, func(c corev1.PersistentVolumeClaim) bool { return c.Namespace == f.Namespace && c.Name == wanted.Name })
		switch {
		case i < 0:
			lines = append(lines, wanted.Name+"\tdoes not exist")
		case f.Claims[i].Status.Phase != corev1.ClaimBound:
			news := f.ClaimNews[wanted.Name]
			lines = append(lines, fmt.Sprintf("%s\t%s\t%s", wanted.Name, f.Claims[i].Status.Phase, strings.TrimSpace(news.Reason+" "+news.Message)))
		}
	}
	return lines
}

func conditionOf(pod *corev1.Pod, of corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == of {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

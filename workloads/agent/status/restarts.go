package status

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/translate"
)

// rule is the first of a container's own that speaks of an exit code, nil when none does.
func rule(c *corev1.Container, code int32) *corev1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		r := &c.RestartPolicyRules[i]
		if r.ExitCodes == nil {
			continue
		}
		listed := slices.Contains(r.ExitCodes.Values, code)
		if listed == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return r
		}
	}
	return nil
}

// Policy is what happens to a container that ended with code: the container's own rules go before the pod's.
func Policy(pod *corev1.Pod, c *corev1.Container, code int32) corev1.RestartPolicy {
	if rule(c, code) != nil {
		return corev1.RestartPolicyAlways // alone, or with all others
	}
	if c.RestartPolicy != nil {
		return corev1.RestartPolicy(*c.RestartPolicy)
	}
	return pod.Spec.RestartPolicy
}

// A container's end can have the whole pod begin anew, in its sandbox and with its volumes (KEP-5532). Each such beginning is
// a round: a container is of the round it was made in, and those of earlier ones end, whatever their restart policy, and run
// again in the order of a first start. The rounds are told by what the runtime has, so that they outlive everything else.

// RestartsAll says whether the end of this run of a container has the whole pod begin anew.
func RestartsAll(pod *corev1.Pod, run *observed.Container) bool {
	c := translate.Find(pod, run.Name)
	if c == nil || run.State != observed.Exited {
		return false
	}
	r := rule(c, run.ExitCode)
	return r != nil && r.Action == corev1.ContainerRestartRuleActionRestartAllContainers
}

// Round is the one a pod is in, and the run whose end began it, if that is still known.
func Round(pod *corev1.Pod, runtime observed.Pod) (round int, cause *observed.Container) {
	for _, runs := range runtime.Containers {
		for i := range runs {
			of := runs[i].Round
			why := (*observed.Container)(nil)
			if RestartsAll(pod, &runs[i]) {
				of, why = of+1, &runs[i]
			}
			if of > round {
				round, cause = of, nil
			}
			if of == round && why != nil && (cause == nil || why.Finished.Before(cause.Finished)) {
				cause = why
			}
		}
	}
	return round, cause
}

// outdated says whether a container is to run anew, because its newest run is of an earlier round.
func (in *Input) outdated(name string) bool {
	latest := in.Runtime.Latest(name)
	return !in.Stopping && !in.Stopped && latest != nil && latest.Round < in.round
}

// beginsAnew: are there containers of an earlier round that have not run in this one?
func (in *Input) beginsAnew() bool {
	return slices.ContainsFunc(slices.Concat(in.Pod.Spec.InitContainers, in.Pod.Spec.Containers), func(c corev1.Container) bool { return in.outdated(c.Name) })
}

// restarting is the condition that all containers are being ended for another round, with why.
func (in *Input) restarting(set *conditionSet) {
	known := slices.ContainsFunc(set.old, func(c corev1.PodCondition) bool { return c.Type == corev1.AllContainersRestarting })
	if in.round == 0 && !known {
		return
	}
	ending := !in.Stopping && slices.ContainsFunc(in.Runtime.Alive(), func(c observed.Container) bool { return c.Round < in.round })
	if !ending || in.cause == nil {
		set.add(corev1.AllContainersRestarting, ending, "", "")
		return
	}
	set.add(corev1.AllContainersRestarting, true, "ContainerExited",
		fmt.Sprintf("Container %s exited with code %d, triggering pod restart", in.cause.Name, in.cause.ExitCode))
}

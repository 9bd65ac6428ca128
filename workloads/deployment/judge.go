package deployment

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"
)

// Plan is what one look at a Deployment leads to.
type Plan struct {
	Create   *appsv1.ReplicaSet // for a template no ReplicaSet has
	Updates  []Change
	Deletes  []*appsv1.ReplicaSet // beyond the history limit
	Revision string               // of the current template, "" while it has no ReplicaSet
	Status   appsv1.DeploymentStatus
	Again    time.Duration // when the progress deadline wants another look
}

// Change is a ReplicaSet as it should be, and the size it has now.
type Change struct {
	Set  *appsv1.ReplicaSet
	From int32
}

// rollout is a Deployment's ReplicaSets while a plan is made: copies are edited freely, and what then differs from
// the originals is the plan.
type rollout struct {
	d          *appsv1.Deployment
	now        time.Time
	originals  []*appsv1.ReplicaSet
	current    *appsv1.ReplicaSet   // has d's template; nil if there is none
	olds       []*appsv1.ReplicaSet // oldest first
	created    bool                 // current exists in the plan only
	pruned     []*appsv1.ReplicaSet
	conditions []appsv1.DeploymentCondition
}

// judge decides one pass over d. oldPods says whether pods of other templates still run.
func judge(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, oldPods bool, now time.Time) Plan {
	r := begin(d, sets, now)
	switch {
	case d.DeletionTimestamp != nil:
		return r.plan(r.count())
	case d.Spec.Paused:
		r.notePause()
		r.identify()
		r.resize()
		r.prune()
		return r.plan(r.count())
	}
	r.notePause()
	r.identify()
	if r.resized() {
		r.resize()
		return r.plan(r.count())
	}
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		r.recreate(oldPods)
	} else {
		r.roll()
	}
	status, again := r.progress(r.count())
	plan := r.plan(status)
	plan.Again = again
	return plan
}

func begin(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, now time.Time) *rollout {
	r := &rollout{d: d, now: now, originals: sets, conditions: slices.Clone(d.Status.Conditions)}
	found := findNew(d, sets)
	for _, rs := range sets {
		if rs == found {
			r.current = rs.DeepCopy()
		} else {
			r.olds = append(r.olds, rs.DeepCopy())
		}
	}
	slices.SortFunc(r.olds, oldestFirst)
	return r
}

// all is every ReplicaSet of the plan, the current one last.
func (r *rollout) all() []*appsv1.ReplicaSet {
	if r.current == nil {
		return r.olds
	}
	return append(slices.Clone(r.olds), r.current)
}

// recreate starts pods of the new template only when the last of any other is gone.
func (r *rollout) recreate(oldPods bool) {
	stopped := false
	for _, rs := range r.olds {
		if size(rs) > 0 {
			stopped = r.scale(rs, 0) || stopped
		}
	}
	if stopped || oldPods {
		return
	}
	r.ensureCurrent()
	r.scale(r.current, desired(r.d))
	if complete(r.d, &r.d.Status) {
		r.prune()
	}
}

// roll takes one step of a rolling update: up if the surge allows, otherwise down as far as availability allows.
func (r *rollout) roll() {
	r.ensureCurrent()
	if r.scale(r.current, r.nextSize()) {
		return
	}
	if r.shrinkOlds() {
		return
	}
	if complete(r.d, &r.d.Status) {
		r.prune()
	}
}

// prune drops ReplicaSets beyond the history limit, oldest revision first; one that still has pods, or might have,
// stays.
func (r *rollout) prune() {
	limit := r.d.Spec.RevisionHistoryLimit
	if limit == nil {
		return
	}
	var alive []*appsv1.ReplicaSet
	for _, rs := range r.olds {
		if rs.DeletionTimestamp == nil {
			alive = append(alive, rs)
		}
	}
	surplus := len(alive) - int(*limit)
	if surplus <= 0 {
		return
	}
	slices.SortStableFunc(alive, func(a, b *appsv1.ReplicaSet) int { return int(revision(a) - revision(b)) })
	for _, rs := range alive[:surplus] {
		if rs.Status.Replicas == 0 && size(rs) == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			r.pruned = append(r.pruned, rs)
		}
	}
}

// plan is the difference between the edited copies and the originals.
func (r *rollout) plan(status appsv1.DeploymentStatus) Plan {
	plan := Plan{Deletes: r.pruned, Status: status}
	if r.current != nil {
		plan.Revision = r.current.Annotations[revisionAnnotation]
		if r.created {
			plan.Create = r.current
		}
	}
	for _, rs := range r.all() {
		at := slices.IndexFunc(r.originals, func(o *appsv1.ReplicaSet) bool { return o.UID == rs.UID })
		if at < 0 || (r.created && rs == r.current) || slices.Contains(r.pruned, rs) {
			continue
		}
		if before := r.originals[at]; !apiequality.Semantic.DeepEqual(before, rs) {
			plan.Updates = append(plan.Updates, Change{Set: rs, From: size(before)})
		}
	}
	return plan
}

// notePause keeps the Progressing condition from timing out while a Deployment is paused.
func (r *rollout) notePause() {
	if !hasDeadline(r.d) {
		return
	}
	c := condition(r.conditions, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonTimedOut {
		return
	}
	paused := c != nil && c.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !paused:
		r.conditions = withCondition(r.conditions, progressing(corev1.ConditionUnknown, reasonPaused, "Deployment is paused", r.now))
	case !r.d.Spec.Paused && paused:
		r.conditions = withCondition(r.conditions, progressing(corev1.ConditionUnknown, reasonResumed, "Deployment is resumed", r.now))
	}
}

func desired(d *appsv1.Deployment) int32 { return ptr.Deref(d.Spec.Replicas, 1) }

func size(rs *appsv1.ReplicaSet) int32 { return ptr.Deref(rs.Spec.Replicas, 1) }

func total(sets []*appsv1.ReplicaSet, of func(*appsv1.ReplicaSet) int32) int32 {
	var sum int32
	for _, rs := range sets {
		sum += of(rs)
	}
	return sum
}

func available(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas }

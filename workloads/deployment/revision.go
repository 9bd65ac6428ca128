package deployment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"
)

// The annotations kubectl rollout reads and other tools rely on.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// historyLimit bounds the length of the revision history in characters: a Deployment rolled back and forth for
// years must not grow its ReplicaSets without end.
const historyLimit = 2000

// ours are the annotations that do not travel from a Deployment to its ReplicaSets.
var ours = map[string]bool{
	corev1.LastAppliedConfigAnnotation: true,
	revisionAnnotation:                 true,
	historyAnnotation:                  true,
	desiredAnnotation:                  true,
	maxAnnotation:                      true,
	appsv1.DeprecatedRollbackTo:        true,
}

// sameTemplate compares templates as users wrote them.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	return apiequality.Semantic.DeepEqual(withoutHash(a), withoutHash(b))
}

func withoutHash(t *corev1.PodTemplateSpec) *corev1.PodTemplateSpec {
	if _, has := t.Labels[appsv1.DefaultDeploymentUniqueLabelKey]; !has {
		return t
	}
	bare := *t
	bare.Labels = maps.Clone(t.Labels)
	delete(bare.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return &bare
}

// findNew is the ReplicaSet with d's template, the oldest if there are several: controllers before us may have
// made more than one, and every pass has to choose the same.
func findNew(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	var found *appsv1.ReplicaSet
	for _, rs := range sets {
		if sameTemplate(&rs.Spec.Template, &d.Spec.Template) && (found == nil || oldestFirst(rs, found) < 0) {
			found = rs
		}
	}
	return found
}

func oldestFirst(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func revision(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0 // made by a hand, or before its first pass
	}
	return n
}

// hash names a template. It is taken over JSON, where fields the API gains later are absent while unset: an
// upgraded binary finds the names its predecessor chose.
func hash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	if err := json.NewEncoder(h).Encode(template); err != nil {
		panic(fmt.Sprintf("encode a pod template: %v", err)) // every template came in as JSON or protobuf of these types
	}
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

// identify brings the current ReplicaSet's revision and copied annotations up to date, if it exists.
func (r *rollout) identify() {
	if r.current == nil {
		return
	}
	annotate(r.current, r.d, r.nextRevision())
	r.current.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
	if hasDeadline(r.d) && condition(r.conditions, appsv1.DeploymentProgressing) == nil {
		message := fmt.Sprintf("Found new replica set %q", r.current.Name)
		r.conditions = withCondition(r.conditions, progressing(corev1.ConditionTrue, "FoundNewReplicaSet", message, r.now))
	}
}

func (r *rollout) nextRevision() int64 {
	var last int64
	for _, rs := range r.olds {
		last = max(last, revision(rs))
	}
	return last + 1
}

// annotate copies d's annotations to rs and moves rs to revision next, unless it is there or further.
func annotate(rs *appsv1.ReplicaSet, d *appsv1.Deployment, next int64) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for key, value := range d.Annotations {
		if !ours[key] {
			rs.Annotations[key] = value
		}
	}
	was := rs.Annotations[revisionAnnotation]
	if revision(rs) >= next {
		return
	}
	rs.Annotations[revisionAnnotation] = strconv.FormatInt(next, 10)
	if was == "" {
		return
	}
	history := strings.Split(rs.Annotations[historyAnnotation], ",")
	if history[0] == "" {
		history = nil
	}
	history = append(history, was)
	for len(history) > 1 && len(strings.Join(history, ",")) > historyLimit {
		history = history[1:]
	}
	rs.Annotations[historyAnnotation] = strings.Join(history, ",")
}

// ensureCurrent plans a ReplicaSet for d's template if there is none.
func (r *rollout) ensureCurrent() {
	if r.current != nil {
		return
	}
	d := r.d
	template := d.Spec.Template.DeepCopy()
	sum := hash(template, d.Status.CollisionCount)
	template.Labels = withLabel(template.Labels, sum)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, sum)
	r.current = &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       d.Namespace,
			Name:            d.Name + "-" + sum,
			Labels:          template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        ptr.To[int32](0),
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        *template,
		},
	}
	r.created = true
	annotate(r.current, d, r.nextRevision())
	r.scale(r.current, r.nextSize())
	if hasDeadline(d) {
		message := fmt.Sprintf("Created new replica set %q", r.current.Name)
		r.conditions = withCondition(r.conditions, progressing(corev1.ConditionTrue, "NewReplicaSetCreated", message, r.now))
	}
}

func withLabel(labels map[string]string, sum string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[appsv1.DefaultDeploymentUniqueLabelKey] = sum
	return labels
}

package controllerrevision

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// prefixLimit leaves room for a dash and a hash of ten letters in a label's value: pods carry the name of their
// revision in a label.
const prefixLimit = 63 - 11

// Data is a template as a revision keeps it: a patch that puts it back, which is what kubectl rollout undo sends and
// compares byte by byte.
func Data(template *corev1.PodTemplateSpec) ([]byte, error) {
	plain, err := json.Marshal(template)
	if err != nil {
		return nil, fmt.Errorf("encode a pod template: %w", err)
	}
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(plain))
	decoder.UseNumber()
	if err := decoder.Decode(&fields); err != nil {
		return nil, fmt.Errorf("read a pod template: %w", err)
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Template is the template a revision keeps.
func Template(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var patch struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &patch); err != nil {
		return nil, fmt.Errorf("read revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	return &patch.Spec.Template, nil
}

// Find is the newest of revisions, which are sorted, that keeps data; nil if none does.
func Find(revisions []*appsv1.ControllerRevision, data []byte) *appsv1.ControllerRevision {
	for _, r := range slices.Backward(revisions) {
		if bytes.Equal(r.Data.Raw, data) {
			return r
		}
	}
	return nil
}

// Surplus is what the history limit has no room for, oldest first. Revisions in use stay and take no room.
func Surplus(revisions []*appsv1.ControllerRevision, limit int32, inUse func(*appsv1.ControllerRevision) bool) []*appsv1.ControllerRevision {
	history := slices.DeleteFunc(slices.Clone(revisions), func(r *appsv1.ControllerRevision) bool {
		return inUse(r) || r.DeletionTimestamp != nil
	})
	return history[:max(len(history)-int(limit), 0)]
}

// sorted puts the newest last.
func sorted(revisions []*appsv1.ControllerRevision) []*appsv1.ControllerRevision {
	slices.SortFunc(revisions, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return revisions
}

// next is the number after the newest.
func next(revisions []*appsv1.ControllerRevision) int64 {
	if len(revisions) == 0 {
		return 1
	}
	return revisions[len(revisions)-1].Revision + 1
}

// revision makes one of owner's. Its name comes from what it keeps, so a second attempt finds the first.
func (h *History) revision(owner client.Object, template *corev1.PodTemplateSpec, data []byte, number int64, collisions int32) *appsv1.ControllerRevision {
	sum := hash(data, collisions)
	prefix := owner.GetName()
	prefix = strings.TrimRight(prefix[:min(len(prefix), prefixLimit)], "-.")
	labels := maps.Clone(template.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[h.HashLabel] = sum
	annotations := maps.Clone(owner.GetAnnotations())
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	return &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), Name: prefix + "-" + sum,
			Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, h.Kind)},
		},
		Data:     runtime.RawExtension{Raw: data},
		Revision: number,
	}
}

func hash(data []byte, collisions int32) string {
	h := fnv.New32a()
	h.Write(data)
	if collisions > 0 {
		fmt.Fprint(h, collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

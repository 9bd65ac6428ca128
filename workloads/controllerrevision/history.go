// Package controllerrevision keeps what the pod templates of a workload have been.
//
// In:       an owner's template; its ControllerRevisions, from the shared cache.
// Out:      ControllerRevisions created, renumbered, adopted, released and dropped beyond the history limit.
// Promise:  the owner's template is always the newest of its revisions; going back to an old one renumbers it.
// Not here: which pods have which revision (workloads/statefulset, workloads/daemonset).
package controllerrevision

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/podcontrol"
)

// History is the revisions of one kind of owner.
type History struct {
	Client    client.Client
	Live      client.Reader // past the cache
	Kind      schema.GroupVersionKind
	HashLabel string // carries a revision's hash
}

// Of lists owner's revisions, the newest last, adopting and releasing on the way.
func (h *History) Of(ctx context.Context, owner client.Object, labels *metav1.LabelSelector) ([]*appsv1.ControllerRevision, error) {
	selector, err := metav1.LabelSelectorAsSelector(labels)
	if err != nil {
		return nil, fmt.Errorf("read the selector of %s %s: %w", h.Kind.Kind, owner.GetName(), err)
	}
	var list appsv1.ControllerRevisionList
	if err := h.Client.List(ctx, &list, client.InNamespace(owner.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list revisions in %s: %w", owner.GetNamespace(), err)
	}
	all := make([]*appsv1.ControllerRevision, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	claims := &podcontrol.Claimer{Client: h.Client, Live: h.Live, Kind: h.Kind}
	mine, err := podcontrol.Take(ctx, claims, owner, selector, all)
	return sorted(mine), err
}

// Newest makes the template the newest of owner's revisions and returns that one. collisions is owner's count of
// names that were taken, which may grow.
func (h *History) Newest(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec, revisions []*appsv1.ControllerRevision, collisions *int32) (*appsv1.ControllerRevision, error) {
	data, err := Data(template)
	if err != nil {
		return nil, err
	}
	found := Find(revisions, data)
	switch {
	case found == nil:
		return h.create(ctx, owner, template, data, next(revisions), collisions)
	case found == revisions[len(revisions)-1]:
		return found, nil
	}
	again := found.DeepCopy()
	again.Revision = next(revisions)
	if err := h.Client.Update(ctx, again); err != nil {
		return nil, fmt.Errorf("renumber revision %s/%s: %w", again.Namespace, again.Name, err)
	}
	return again, nil
}

func (h *History) create(ctx context.Context, owner client.Object, template *corev1.PodTemplateSpec, data []byte, number int64, collisions *int32) (*appsv1.ControllerRevision, error) {
	for {
		made := h.revision(owner, template, data, number, *collisions)
		err := h.Client.Create(ctx, made)
		if err == nil {
			return made, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("create revision %s/%s: %w", made.Namespace, made.Name, err)
		}
		var there appsv1.ControllerRevision
		if err := h.Live.Get(ctx, client.ObjectKeyFromObject(made), &there); err != nil {
			return nil, fmt.Errorf("look at revision %s/%s: %w", made.Namespace, made.Name, err)
		}
		ref := metav1.GetControllerOfNoCopy(&there)
		switch {
		case ref != nil && ref.UID == owner.GetUID() && bytes.Equal(there.Data.Raw, data):
			return &there, nil // from a pass whose result the cache does not show yet
		case ref != nil && ref.UID != owner.GetUID() && ref.Kind == h.Kind.Kind && ref.Name == owner.GetName():
			return nil, fmt.Errorf("create revision %s/%s: the one of a namesake deleted before is still there", there.Namespace, there.Name)
		}
		*collisions++
	}
}

// Prune deletes revisions; those gone already are no error.
func (h *History) Prune(ctx context.Context, surplus []*appsv1.ControllerRevision) error {
	var errs []error
	for _, r := range surplus {
		if err := h.Client.Delete(ctx, r.DeepCopy(), client.Preconditions{UID: &r.UID}); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("drop revision %s/%s: %w", r.Namespace, r.Name, err))
		}
	}
	return errors.Join(errs...)
}

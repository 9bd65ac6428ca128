package podcontrol

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Claim is what an owner does about one object that carries or could carry its reference.
type Claim int

const (
	// Leave: not ours.
	Leave Claim = iota
	// Keep: ours, and stays so.
	Keep
	// Adopt: nobody's, and our selector matches.
	Adopt
	// Release: ours, but our selector no longer matches.
	Release
)

// Judge decides about one child of an owner with the given selector.
func Judge(owner, child metav1.Object, selector labels.Selector) Claim {
	matches := selector.Matches(labels.Set(child.GetLabels()))
	ref := metav1.GetControllerOfNoCopy(child)
	switch {
	case ref != nil && ref.UID != owner.GetUID():
		return Leave
	case ref != nil && matches:
		return Keep
	case ref != nil && owner.GetDeletionTimestamp() != nil:
		return Leave // the garbage collector decides about the children of what goes
	case ref != nil:
		return Release
	case !matches || owner.GetDeletionTimestamp() != nil || child.GetDeletionTimestamp() != nil || child.GetNamespace() != owner.GetNamespace():
		return Leave
	}
	return Adopt
}

// Claimer carries claims out.
type Claimer struct {
	Client client.Client
	Live   client.Reader // past the cache: adopting for an owner that is already gone would be for ever
	Kind   schema.GroupVersionKind
	// Finalizer comes with adoption and goes with release; "" for owners that track nothing.
	Finalizer string
}

// Take returns the children that are owner's when it is done, adopting and releasing as Judge says.
func Take[T client.Object](ctx context.Context, c *Claimer, owner client.Object, selector labels.Selector, children []T) ([]T, error) {
	var (
		mine   []T
		errs   []error
		alive  error
		looked bool
	)
	for _, child := range children {
		switch Judge(owner, child, selector) {
		case Keep:
			mine = append(mine, child)
		case Release:
			errs = append(errs, c.release(ctx, owner, child))
		case Adopt:
			if !looked {
				alive, looked = c.mayAdopt(ctx, owner), true
			}
			if alive != nil {
				errs = append(errs, alive)
				continue
			}
			adopted, err := c.adopt(ctx, owner, child)
			if err != nil {
				errs = append(errs, err)
			} else if adopted {
				mine = append(mine, child)
			}
		}
	}
	return mine, errors.Join(errs...)
}

func (c *Claimer) mayAdopt(ctx context.Context, owner client.Object) error {
	live := &metav1.PartialObjectMetadata{}
	live.SetGroupVersionKind(c.Kind)
	if err := c.Live.Get(ctx, client.ObjectKeyFromObject(owner), live); err != nil {
		return fmt.Errorf("look at %s %s before adopting: %w", c.Kind.Kind, owner.GetName(), err)
	}
	if live.GetUID() != owner.GetUID() || live.GetDeletionTimestamp() != nil {
		return fmt.Errorf("adopt for %s %s: it was deleted meanwhile", c.Kind.Kind, owner.GetName())
	}
	return nil
}

func (c *Claimer) adopt(ctx context.Context, owner, child client.Object) (bool, error) {
	ref := metav1.NewControllerRef(owner, c.Kind)
	change := map[string]any{
		"uid":             child.GetUID(), // a precondition: not some later object of the same name
		"ownerReferences": []any{ref},
	}
	if c.Finalizer != "" {
		change["finalizers"] = []string{c.Finalizer}
	}
	err := c.patch(ctx, child, map[string]any{"metadata": change})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("adopt %s for %s %s: %w", child.GetName(), c.Kind.Kind, owner.GetName(), err)
	}
	return true, nil
}

func (c *Claimer) release(ctx context.Context, owner, child client.Object) error {
	change := map[string]any{
		"uid":             child.GetUID(),
		"ownerReferences": []any{map[string]any{"$patch": "delete", "uid": owner.GetUID()}},
	}
	if c.Finalizer != "" {
		change["$deleteFromPrimitiveList/finalizers"] = []string{c.Finalizer}
	}
	err := c.patch(ctx, child, map[string]any{"metadata": change})
	// Invalid: the uid is another's, or the reference is gone already. Either way it is not ours any more.
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return fmt.Errorf("release %s from %s %s: %w", child.GetName(), c.Kind.Kind, owner.GetName(), err)
}

func (c *Claimer) patch(ctx context.Context, child client.Object, change map[string]any) error {
	body, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	target := child.DeepCopyObject().(client.Object) // Patch writes its answer into what it is given
	return c.Client.Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, body))
}

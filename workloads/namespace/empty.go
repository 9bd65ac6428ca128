package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// leftovers is what emptying a namespace left, and what kept it from knowing.
type leftovers struct {
	unknown    error   // of discovery: kinds that exist but cannot be told
	unreadable error   // group versions that make no sense
	undeleted  []error // one for a kind
	remaining  map[schema.GroupVersionResource]int
	finalizers map[string]int
	grace      time.Duration // the longest one a remaining object was given
}

func (l *leftovers) nothing() bool {
	return l.unknown == nil && l.unreadable == nil && len(l.undeleted) == 0 && len(l.remaining) == 0
}

// resource is a kind of object a namespace may hold.
type resource struct {
	schema.GroupVersionResource
	collection bool // can be deleted all at once
}

// empty deletes what a namespace holds. Pods go first, and while one is left nothing else does: what a pod uses
// until its end (its secrets, its network policy) must not vanish from under it.
func (r *Reconciler) empty(ctx context.Context, namespace string) *leftovers {
	left := &leftovers{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}}
	lists, err := r.kinds.ServerPreferredResources()
	if err != nil {
		left.unknown = err // what was found is emptied all the same
	}
	all, err := deletable(lists)
	left.unreadable = err
	for _, res := range all {
		if err := r.emptyOne(ctx, namespace, res, left); err != nil {
			left.undeleted = append(left.undeleted, err)
		}
		if isPods(res) && len(left.remaining) > 0 {
			break
		}
	}
	return left
}

func isPods(r resource) bool { return r.Group == "" && r.Resource == "pods" }

// deletable lists the namespaced kinds that can be listed and deleted, pods first.
func deletable(lists []*metav1.APIResourceList) ([]resource, error) {
	var all []resource
	var errs []error
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, r := range list.APIResources {
			if r.Namespaced && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "delete") && !strings.Contains(r.Name, "/") {
				all = append(all, resource{gv.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection")})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b resource) int {
		switch {
		case isPods(a) == isPods(b):
			return 0
		case isPods(a):
			return -1
		}
		return 1
	})
	return all, errors.Join(errs...)
}

func (r *Reconciler) emptyOne(ctx context.Context, namespace string, res resource, left *leftovers) error {
	contents := r.contents.Resource(res.GroupVersionResource).Namespace(namespace)
	list, err := contents.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return nil // the kind went since discovery
	}
	if err != nil {
		return fmt.Errorf("list %s: %w", res.Resource, err)
	}
	if len(list.Items) == 0 {
		return nil
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if res.collection {
		err = contents.DeleteCollection(ctx, options, metav1.ListOptions{})
	} else {
		var errs []error
		for i := range list.Items {
			if err := contents.Delete(ctx, list.Items[i].Name, options); !apierrors.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
		err = errors.Join(errs...)
	}
	if err != nil {
		err = fmt.Errorf("delete %s: %w", res.Resource, err)
	}
	list, listErr := contents.List(ctx, metav1.ListOptions{})
	if listErr != nil {
		return errors.Join(err, fmt.Errorf("list %s: %w", res.Resource, listErr))
	}
	left.count(res.GroupVersionResource, list.Items)
	return err
}

func (l *leftovers) count(res schema.GroupVersionResource, items []metav1.PartialObjectMetadata) {
	for i := range items {
		l.remaining[res]++
		for _, finalizer := range items[i].Finalizers {
			l.finalizers[finalizer]++
		}
		if seconds := items[i].DeletionGracePeriodSeconds; seconds != nil {
			l.grace = max(l.grace, time.Duration(*seconds)*time.Second)
		}
	}
}

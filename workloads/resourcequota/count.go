package resourcequota

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/resourcequota/usage"
)

// page is how many objects are asked for when the server does not say how many more there are.
const page = 500

// meter measures what a namespace uses. Pods and services come from the shared cache; claims, and kinds of which
// only the number counts, are asked for when a quota names them: no kind is watched for its quota.
type meter struct {
	cache   client.Reader
	live    client.Reader
	mapper  meta.RESTMapper
	groups  discovery.ServerGroupsInterface
	objects metadata.Interface
	clock   clock.PassiveClock
}

// measure sums up what a quota bounds. Names that nobody can measure are left out.
func (m *meter) measure(ctx context.Context, q *corev1.ResourceQuota) (corev1.ResourceList, error) {
	evaluators := usage.Evaluators(
		m.clock.Now,
		func(ns string) ([]runtime.Object, error) {
			return list(ctx, m.cache, ns, &corev1.PodList{}, client.UnsafeDisableDeepCopy)
		},
		func(ns string) ([]runtime.Object, error) {
			return list(ctx, m.cache, ns, &corev1.ServiceList{}, client.UnsafeDisableDeepCopy)
		},
		func(ns string) ([]runtime.Object, error) {
			return list(ctx, m.live, ns, &corev1.PersistentVolumeClaimList{})
		},
		func(ns string) ([]runtime.Object, error) {
			return list(ctx, m.live, ns, &resourcev1.ResourceClaimList{})
		},
	)
	used, err := quota.CalculateUsage(q.Namespace, q.Spec.Scopes, q.Spec.Hard, generic.NewRegistry(evaluators), q.Spec.ScopeSelector)
	if err != nil {
		return nil, fmt.Errorf("measure namespace %s: %w", q.Namespace, err)
	}
	var errs []error
	for name := range q.Spec.Hard {
		kind, counted := usage.Counted(name)
		if _, done := used[name]; done || !counted {
			continue
		}
		if len(q.Spec.Scopes) > 0 || q.Spec.ScopeSelector != nil {
			used[name] = quantity(0) // objects that are only counted are in no scope
			continue
		}
		n, known, err := m.count(ctx, kind, q.Namespace)
		if err != nil {
			errs = append(errs, err)
		} else if known {
			used[name] = quantity(n)
		}
	}
	return used, errors.Join(errs...)
}

// count asks how many objects of a kind there are in a namespace; known is false if nobody serves the kind.
func (m *meter) count(ctx context.Context, kind schema.GroupResource, namespace string) (n int64, known bool, err error) {
	resource, known, err := m.served(kind)
	if err != nil || !known {
		return 0, false, err
	}
	options := metav1.ListOptions{Limit: 1}
	for {
		some, err := m.objects.Resource(resource).Namespace(namespace).List(ctx, options)
		if err != nil {
			return 0, false, fmt.Errorf("count %s in %s: %w", kind, namespace, err)
		}
		n += int64(len(some.Items))
		if more := some.RemainingItemCount; more != nil {
			return n + *more, true, nil
		}
		if some.Continue == "" {
			return n, true, nil
		}
		options.Continue, options.Limit = some.Continue, page
	}
}

// served finds a version in which a kind is served.
func (m *meter) served(kind schema.GroupResource) (schema.GroupVersionResource, bool, error) {
	resource, err := m.mapper.ResourceFor(kind.WithVersion(""))
	if err == nil {
		return resource, true, nil
	}
	if !meta.IsNoMatchError(err) {
		return schema.GroupVersionResource{}, false, fmt.Errorf("find %s: %w", kind, err)
	}
	groups, err := m.groups.ServerGroups()
	if err != nil {
		return schema.GroupVersionResource{}, false, fmt.Errorf("find the version of %s: %w", kind, err)
	}
	at := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == kind.Group })
	if at < 0 {
		return schema.GroupVersionResource{}, false, nil
	}
	return kind.WithVersion(groups.Groups[at].PreferredVersion.Version), true, nil
}

func list(ctx context.Context, from client.Reader, namespace string, into client.ObjectList, options ...client.ListOption) ([]runtime.Object, error) {
	if err := from.List(ctx, into, append(options, client.InNamespace(namespace))...); err != nil {
		return nil, err
	}
	return meta.ExtractList(into)
}

package disruption

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// scale is how many pods an owner wants. The UID is of the one who says so, which may be the owner's owner.
type scale struct {
	uid      types.UID
	replicas int32
}

// scales asks owners how many pods they want: those of the built-in kinds through the cache, all others through
// their scale subresource.
type scales struct {
	cache   client.Reader
	kinds   discovery.DiscoveryInterface
	objects dynamic.Interface
}

func newScales(mgr manager.Manager) (*scales, error) {
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a discovery client: %w", err)
	}
	objects, err := dynamic.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a client of all kinds: %w", err)
	}
	return &scales{cache: mgr.GetClient(), kinds: kinds, objects: objects}, nil
}

// of asks one owner; found is false if it is gone.
func (s *scales) of(ctx context.Context, o owner) (wants scale, found bool, err error) {
	version, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil {
		return scale{}, false, fmt.Errorf("read the API version of %s %s: %w", o.Kind, o.Name, err)
	}
	switch version.WithKind(o.Kind).GroupKind() {
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet").GroupKind():
		set := &appsv1.ReplicaSet{}
		if found, err := s.read(ctx, o, set); err != nil || !found {
			return scale{}, found, err
		}
		if above := metav1.GetControllerOfNoCopy(set); above != nil && above.Kind == "Deployment" {
			if wants, found, err := s.of(ctx, owner{*above, o.namespace}); err != nil || found {
				return wants, found, err
			}
		}
		return scale{set.UID, ptr.Deref(set.Spec.Replicas, 1)}, true, nil
	case appsv1.SchemeGroupVersion.WithKind("Deployment").GroupKind():
		d := &appsv1.Deployment{}
		found, err := s.read(ctx, o, d)
		return scale{d.UID, ptr.Deref(d.Spec.Replicas, 1)}, found, err
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind():
		set := &appsv1.StatefulSet{}
		found, err := s.read(ctx, o, set)
		return scale{set.UID, ptr.Deref(set.Spec.Replicas, 1)}, found, err
	case corev1.SchemeGroupVersion.WithKind("ReplicationController").GroupKind():
		rc := &corev1.ReplicationController{}
		found, err := s.read(ctx, o, rc)
		return scale{rc.UID, ptr.Deref(rc.Spec.Replicas, 1)}, found, err
	}
	return s.ask(ctx, version, o)
}

func (s *scales) read(ctx context.Context, o owner, into client.Object) (bool, error) {
	err := s.cache.Get(ctx, client.ObjectKey{Namespace: o.namespace, Name: o.Name}, into)
	if apierrors.IsNotFound(err) || (err == nil && into.GetUID() != o.UID) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s %s/%s: %w", o.Kind, o.namespace, o.Name, err)
	}
	return true, nil
}

// ask reads the scale of a kind we do not know.
func (s *scales) ask(ctx context.Context, version schema.GroupVersion, o owner) (scale, bool, error) {
	list, err := s.kinds.ServerResourcesForGroupVersion(version.String())
	if err != nil {
		return scale{}, false, fmt.Errorf("discover the resources of %s: %w", version, err)
	}
	resource, scalable := "", map[string]bool{}
	for _, r := range list.APIResources {
		if r.Kind == o.Kind && r.Name != "" && r.Group == "" {
			resource = r.Name
		}
		scalable[r.Name] = true
	}
	if !scalable[resource+"/scale"] {
		return scale{}, false, fmt.Errorf("%s does not implement the scale subresource", version.WithResource(resource).GroupResource())
	}
	resources := s.objects.Resource(version.WithResource(resource)).Namespace(o.namespace)
	answer, err := resources.Get(ctx, o.Name, metav1.GetOptions{}, "scale")
	if apierrors.IsNotFound(err) {
		return scale{}, false, nil
	}
	if err != nil {
		return scale{}, false, fmt.Errorf("ask %s %s/%s for its scale: %w", o.Kind, o.namespace, o.Name, err)
	}
	replicas, _, err := unstructured.NestedInt64(answer.Object, "spec", "replicas")
	if err != nil {
		return scale{}, false, fmt.Errorf("read the scale of %s %s/%s: %w", o.Kind, o.namespace, o.Name, err)
	}
	return scale{answer.GetUID(), int32(replicas)}, answer.GetUID() == o.UID, nil
}

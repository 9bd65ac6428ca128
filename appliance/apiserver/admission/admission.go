// Package admission completes and refuses objects by what other objects say.
//
// In:       what clients create, update and delete, on its way into the store; service accounts, limits, classes.
// Out:      the same with what the cluster adds (tokens, tolerations, priorities); refusals.
// Promise:  every plugin reads from the watch caches this process has anyway; none keeps a copy of its own.
// Not here: rules that need one object only (kinds), webhooks and policies (k8s.io/apiserver), what nodes may
//
//	write (authz/noderestriction).
package admission

import (
	"context"
	"errors"
	"io"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Plugin is one of ours, under the name Kubernetes knows it by. New is given what the admission configuration says of
// it, nil for nothing.
type Plugin struct {
	Name string
	New  admission.Factory
	Use  Use
}

// Use is whether the operator decides about a plugin.
type Use int

const (
	On     Use = iota // unless it is turned off
	Always            // it is a part of storing in Kubernetes, with no switch
	Off               // unless it is turned on
)

// plain makes a plugin of a rule that has nothing to configure.
func plain(r *rule) admission.Factory {
	return func(config io.Reader) (admission.Interface, error) {
		if config != nil {
			return nil, errors.New("it has nothing to configure; remove it from the admission configuration")
		}
		return r, nil
	}
}

// Plugins in the order requests pass them: after the namespace was looked at, before webhooks and policies.
func Plugins(env *resource.Env) []Plugin {
	return []Plugin{
		{"LimitRanger", plain(limitRanger(env)), On},
		{"ServiceAccount", plain(serviceAccount(env)), On},
		{"TaintNodesByCondition", plain(taintNewNodes()), On},
		{"AlwaysPullImages", plain(alwaysPullImages()), Off},
		{"PodSecurity", podSecurity(env), On},
		{"Priority", plain(priority(env)), On},
		{"DefaultTolerationSeconds", plain(defaultTolerations()), On},
		{"DefaultStorageClass", plain(defaultStorageClass(env)), On},
		{"StorageObjectInUseProtection", plain(protectUsedStorage()), On},
		{"PersistentVolumeClaimResize", plain(resizeClaims(env)), On},
		{"RuntimeClass", plain(runtimeClass(env)), On},
		{"CertificateApproval", plain(certificateApproval(env)), On},
		{"CertificateSigning", plain(certificateSigning(env)), On},
		{"PodCertificateSigning", plain(podCertificateSigning(env)), Always},
		{"ClusterTrustBundleAttest", plain(trustBundleAttest(env)), On},
		{"CertificateSubjectRestriction", plain(certificateSubjects()), On},
		{"DefaultIngressClass", plain(defaultIngressClass(env)), On},
		{"PodTopologyLabels", plain(podTopology(env)), On},
		{"DenyServiceExternalIPs", plain(denyExternalIPs()), Off},
		{"DeviceAdminAccess", plain(deviceAdminAccess(env)), Always},
	}
}

// rule is a plugin for some paths.
type rule struct {
	*admission.Handler
	on       []string // "pods", "pods/resize": resources with their subresources, of any group
	admit    func(ctx context.Context, a admission.Attributes) error
	validate func(ctx context.Context, a admission.Attributes) error
}

var (
	_ admission.MutationInterface   = &rule{}
	_ admission.ValidationInterface = &rule{}
)

// Admit changes objects before they are validated.
func (r *rule) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if r.admit == nil || !r.concerns(a) {
		return nil
	}
	return r.admit(ctx, a)
}

// Validate refuses objects as they would be stored.
func (r *rule) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if r.validate == nil || !r.concerns(a) {
		return nil
	}
	return r.validate(ctx, a)
}

func (r *rule) concerns(a admission.Attributes) bool {
	path := a.GetResource().Resource
	if sub := a.GetSubresource(); sub != "" {
		path += "/" + sub
	}
	return slices.Contains(r.on, path)
}

// object is the object of a request, when it is of the expected type; webhooks may be older than the type they send.
func object[T runtime.Object](a admission.Attributes) (T, error) {
	obj, ok := a.GetObject().(T)
	if !ok {
		return obj, apierrors.NewBadRequest("resource was marked with kind " + a.GetKind().Kind + " but was unable to be converted")
	}
	return obj, nil
}

// get reads another object: from the watch cache, and from the datastore when it is not there yet.
func get[T runtime.Object](ctx context.Context, env *resource.Env, from schema.GroupResource, namespace, name string) (T, error) {
	var none T
	ctx = genericapirequest.WithNamespace(ctx, namespace)
	obj, err := env.Storage(from).Get(ctx, name, &metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		obj, err = env.Storage(from).Get(ctx, name, &metav1.GetOptions{})
	}
	if err != nil {
		return none, err
	}
	return obj.(T), nil
}

// list reads all objects of a kind in a namespace, or everywhere, from the watch cache. They are shared: nobody changes them.
func list[T runtime.Object](ctx context.Context, env *resource.Env, from schema.GroupResource, namespace string) (T, error) {
	var none T
	obj, err := env.Storage(from).List(genericapirequest.WithNamespace(ctx, namespace), &metainternalversion.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return none, err
	}
	return obj.(T), nil
}

// isMirror is true for pods that stand for what a node runs by itself.
func isMirror(pod *corev1.Pod) bool {
	_, found := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return found
}

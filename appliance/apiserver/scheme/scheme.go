// Package scheme knows every type the API server serves.
//
// In:       the types of k8s.io/api, their defaults (appliance/apiserver/kinds).
// Out:      Scheme, Codecs and ParameterCodec.
// Promise:  a type of the hub version is its own internal version, so nothing is converted on the way to storage;
//
//	only kinds that are served in two versions have conversions, and they lose nothing.
//
// Not here: custom resources and APIServices, whose servers have schemes of their own.
package scheme

import (
	"fmt"
	"reflect"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/appliance/apiserver/declared"
	"knarr.dev/knarr/appliance/apiserver/kinds"
)

var (
	// Scheme is complete when the package is initialised and never changes after.
	Scheme = runtime.NewScheme()
	// Codecs encode and decode what clients send.
	Codecs = serializer.NewCodecFactory(Scheme)
	// ParameterCodec decodes query parameters into options types.
	ParameterCodec = runtime.NewParameterCodec(Scheme)
)

// version is one served version of a group.
type version struct {
	gv  schema.GroupVersion
	add func(*runtime.Scheme) error
	hub bool // its types are the internal ones
}

// Served are the versions in the order clients should prefer them within a group.
var served = []version{
	{corev1.SchemeGroupVersion, corev1.AddToScheme, true},
	{admissionregistrationv1.SchemeGroupVersion, admissionregistrationv1.AddToScheme, true},
	{appsv1.SchemeGroupVersion, appsv1.AddToScheme, true},
	{authenticationv1.SchemeGroupVersion, authenticationv1.AddToScheme, true},
	{authorizationv1.SchemeGroupVersion, authorizationv1.AddToScheme, true},
	{autoscalingv2.SchemeGroupVersion, autoscalingv2.AddToScheme, true},
	{autoscalingv1.SchemeGroupVersion, autoscalingv1.AddToScheme, false},
	{batchv1.SchemeGroupVersion, batchv1.AddToScheme, true},
	{certificatesv1.SchemeGroupVersion, certificatesv1.AddToScheme, true},
	{coordinationv1.SchemeGroupVersion, coordinationv1.AddToScheme, true},
	{discoveryv1.SchemeGroupVersion, discoveryv1.AddToScheme, true},
	{eventsv1.SchemeGroupVersion, eventsv1.AddToScheme, false},
	{flowcontrolv1.SchemeGroupVersion, flowcontrolv1.AddToScheme, true},
	{networkingv1.SchemeGroupVersion, networkingv1.AddToScheme, true},
	{nodev1.SchemeGroupVersion, nodev1.AddToScheme, true},
	{policyv1.SchemeGroupVersion, policyv1.AddToScheme, true},
	{rbacv1.SchemeGroupVersion, rbacv1.AddToScheme, true},
	{resourcev1.SchemeGroupVersion, resourcev1.AddToScheme, true},
	{schedulingv1.SchemeGroupVersion, schedulingv1.AddToScheme, true},
	{storagev1.SchemeGroupVersion, storagev1.AddToScheme, true},
	{storagemigrationv1.SchemeGroupVersion, storagemigrationv1.AddToScheme, true},
	{metricsv1beta1.SchemeGroupVersion, metricsv1beta1.AddToScheme, true},
}

func init() { utilruntime.Must(build(Scheme)) }

func build(s *runtime.Scheme) error {
	unversioned := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(s, unversioned)
	s.AddUnversionedTypes(unversioned, &metav1.Status{}, &metav1.APIVersions{}, &metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})
	if err := metainternalversion.AddToScheme(s); err != nil {
		return fmt.Errorf("register list options: %w", err)
	}
	order := map[string][]schema.GroupVersion{}
	for _, v := range served {
		if err := v.add(s); err != nil {
			return fmt.Errorf("register %s: %w", v.gv, err)
		}
		if v.hub {
			addInternal(s, v.gv)
		}
		order[v.gv.Group] = append(order[v.gv.Group], v.gv)
	}
	for _, versions := range order {
		if err := s.SetVersionPriority(versions...); err != nil {
			return fmt.Errorf("order versions of %s: %w", versions[0].Group, err)
		}
	}
	internal := func(group string) schema.GroupVersion {
		return schema.GroupVersion{Group: group, Version: runtime.APIVersionInternal}
	}
	// The kinds of these versions have their hub elsewhere.
	s.AddKnownTypes(internal(eventsv1.GroupName), &corev1.Event{}, &corev1.EventList{})
	s.AddKnownTypes(internal(autoscalingv1.GroupName), &autoscalingv1.Scale{})

	for _, add := range []func(*runtime.Scheme) error{addConversions, addOptions, addFieldLabels, kinds.RegisterDefaults, declared.AddToScheme} {
		if err := add(s); err != nil {
			return err
		}
	}
	return nil
}

// addInternal registers the types of a version as internal ones too, except those every group shares.
func addInternal(s *runtime.Scheme, gv schema.GroupVersion) {
	home := reflect.TypeFor[metav1.ObjectMeta]().PkgPath()
	for kind, t := range s.KnownTypes(gv) {
		if t.PkgPath() == home {
			continue
		}
		obj := reflect.New(t).Interface().(runtime.Object)
		s.AddKnownTypeWithName(schema.GroupVersionKind{Group: gv.Group, Version: runtime.APIVersionInternal, Kind: kind}, obj)
	}
}

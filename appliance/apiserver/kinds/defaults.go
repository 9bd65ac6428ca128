package kinds

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
)

// RegisterDefaults makes decoding fill in what clients leave out.
func RegisterDefaults(s *runtime.Scheme) error {
	register(s, podspec.DefaultPod, func(l *corev1.PodList) []corev1.Pod { return l.Items })
	register(s, defaultPodTemplate, func(l *corev1.PodTemplateList) []corev1.PodTemplate { return l.Items })
	register(s, defaultService, func(l *corev1.ServiceList) []corev1.Service { return l.Items })
	register(s, defaultNamespace, func(l *corev1.NamespaceList) []corev1.Namespace { return l.Items })
	register(s, defaultNode, func(l *corev1.NodeList) []corev1.Node { return l.Items })
	register(s, defaultSecret, func(l *corev1.SecretList) []corev1.Secret { return l.Items })
	register(s, defaultEndpoints, func(l *corev1.EndpointsList) []corev1.Endpoints { return l.Items })
	register(s, defaultReplicationController, func(l *corev1.ReplicationControllerList) []corev1.ReplicationController { return l.Items })
	register(s, defaultLimitRange, func(l *corev1.LimitRangeList) []corev1.LimitRange { return l.Items })
	register(s, defaultPersistentVolume, func(l *corev1.PersistentVolumeList) []corev1.PersistentVolume { return l.Items })
	register(s, DefaultPersistentVolumeClaim, func(l *corev1.PersistentVolumeClaimList) []corev1.PersistentVolumeClaim { return l.Items })

	register(s, defaultEndpointSlice, func(l *discoveryv1.EndpointSliceList) []discoveryv1.EndpointSlice { return l.Items })
	register(s, defaultDeployment, func(l *appsv1.DeploymentList) []appsv1.Deployment { return l.Items })
	register(s, defaultReplicaSet, func(l *appsv1.ReplicaSetList) []appsv1.ReplicaSet { return l.Items })
	register(s, defaultStatefulSet, func(l *appsv1.StatefulSetList) []appsv1.StatefulSet { return l.Items })
	register(s, defaultDaemonSet, func(l *appsv1.DaemonSetList) []appsv1.DaemonSet { return l.Items })
	register(s, defaultRevision, func(l *appsv1.ControllerRevisionList) []appsv1.ControllerRevision { return l.Items })
	register(s, defaultJob, func(l *batchv1.JobList) []batchv1.Job { return l.Items })
	register(s, defaultCronJob, func(l *batchv1.CronJobList) []batchv1.CronJob { return l.Items })
	register(s, defaultHorizontalPodAutoscaler, func(l *autoscalingv2.HorizontalPodAutoscalerList) []autoscalingv2.HorizontalPodAutoscaler {
		return l.Items
	})
	register(s, defaultHorizontalPodAutoscalerV1, func(l *autoscalingv1.HorizontalPodAutoscalerList) []autoscalingv1.HorizontalPodAutoscaler {
		return l.Items
	})

	register(s, defaultNetworkPolicy, func(l *networkingv1.NetworkPolicyList) []networkingv1.NetworkPolicy { return l.Items })
	register(s, defaultIngressClass, func(l *networkingv1.IngressClassList) []networkingv1.IngressClass { return l.Items })
	register(s, defaultStorageClass, func(l *storagev1.StorageClassList) []storagev1.StorageClass { return l.Items })
	register(s, defaultCSIDriver, func(l *storagev1.CSIDriverList) []storagev1.CSIDriver { return l.Items })
	register(s, defaultPriorityClass, func(l *schedulingv1.PriorityClassList) []schedulingv1.PriorityClass { return l.Items })
	register(s, defaultRoleBinding, func(l *rbacv1.RoleBindingList) []rbacv1.RoleBinding { return l.Items })
	register(s, defaultClusterRoleBinding, func(l *rbacv1.ClusterRoleBindingList) []rbacv1.ClusterRoleBinding { return l.Items })
	register(s, defaultFlowSchema, func(l *flowcontrolv1.FlowSchemaList) []flowcontrolv1.FlowSchema { return l.Items })
	register(s, defaultPriorityLevel, func(l *flowcontrolv1.PriorityLevelConfigurationList) []flowcontrolv1.PriorityLevelConfiguration {
		return l.Items
	})
	register(s, defaultValidatingWebhooks, func(l *admissionregistrationv1.ValidatingWebhookConfigurationList) []admissionregistrationv1.ValidatingWebhookConfiguration {
		return l.Items
	})
	register(s, defaultMutatingWebhooks, func(l *admissionregistrationv1.MutatingWebhookConfigurationList) []admissionregistrationv1.MutatingWebhookConfiguration {
		return l.Items
	})
	register(s, defaultValidatingPolicy, func(l *admissionregistrationv1.ValidatingAdmissionPolicyList) []admissionregistrationv1.ValidatingAdmissionPolicy {
		return l.Items
	})
	register(s, defaultValidatingPolicyBinding, func(l *admissionregistrationv1.ValidatingAdmissionPolicyBindingList) []admissionregistrationv1.ValidatingAdmissionPolicyBinding {
		return l.Items
	})
	register(s, defaultMutatingPolicy, func(l *admissionregistrationv1.MutatingAdmissionPolicyList) []admissionregistrationv1.MutatingAdmissionPolicy {
		return l.Items
	})
	register(s, defaultMutatingPolicyBinding, func(l *admissionregistrationv1.MutatingAdmissionPolicyBindingList) []admissionregistrationv1.MutatingAdmissionPolicyBinding {
		return l.Items
	})
	register(s, defaultDeviceClass, func(l *resourcev1.DeviceClassList) []resourcev1.DeviceClass { return l.Items })
	register(s, defaultResourceClaim, func(l *resourcev1.ResourceClaimList) []resourcev1.ResourceClaim { return l.Items })
	register(s, defaultResourceClaimTemplate, func(l *resourcev1.ResourceClaimTemplateList) []resourcev1.ResourceClaimTemplate { return l.Items })

	register(s, defaultPodCertificateRequest, func(l *certificatesv1.PodCertificateRequestList) []certificatesv1.PodCertificateRequest {
		return l.Items
	})
	registerOne(s, defaultTokenRequest)
	return nil
}

// pointer is the address of a T, which is what the scheme knows.
type pointer[T any] interface {
	*T
	runtime.Object
}

// register adds the defaults of a kind and of its list.
func register[T, L any, PT pointer[T], PL pointer[L]](s *runtime.Scheme, one func(PT), items func(PL) []T) {
	registerOne(s, one)
	s.AddTypeDefaultingFunc(PL(new(L)), func(list any) {
		all := items(list.(PL))
		for i := range all {
			one(&all[i])
		}
	})
}

func registerOne[T any, PT pointer[T]](s *runtime.Scheme, one func(PT)) {
	s.AddTypeDefaultingFunc(PT(new(T)), func(obj any) { one(obj.(PT)) })
}

func defaultTokenRequest(r *authenticationv1.TokenRequest) {
	set.Pointer(&r.Spec.ExpirationSeconds, int64(60*60))
}

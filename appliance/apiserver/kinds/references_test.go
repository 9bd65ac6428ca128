package kinds

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

func TestScaledObject(t *testing.T) {
	scaler := &autoscalingv2.HorizontalPodAutoscaler{Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
		MinReplicas:    ptr.To[int32](1), MaxReplicas: 3,
	}}
	type target = autoscalingv2.CrossVersionObjectReference
	tests := map[string]change[*target]{
		"a deployment has a group":             {to: func(*target) {}},
		"a replication controller has none":    {to: func(t *target) { t.APIVersion, t.Kind = "v1", "ReplicationController" }},
		"nothing else without a group scales":  {to: func(t *target) { t.APIVersion, t.Kind = "v1", "Pod" }, want: "spec.scaleTargetRef.apiVersion: Invalid value"},
		"a group has one version":              {to: func(t *target) { t.APIVersion = "a/b/c" }, want: "spec.scaleTargetRef.apiVersion: Invalid value"},
		"a kind is part of a path":             {to: func(t *target) { t.Kind = "a/b" }, want: "spec.scaleTargetRef.kind: Invalid value"},
		"a name is part of a path":             {to: func(t *target) { t.Name = ".." }, want: "spec.scaleTargetRef.name: Invalid value"},
		"something has to be scaled":           {to: func(t *target) { t.Name = "" }, want: "spec.scaleTargetRef.name: Required value"},
		"something of a kind has to be scaled": {to: func(t *target) { t.Kind = "" }, want: "spec.scaleTargetRef.kind: Required value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := scaler.DeepCopy()
			tc.to(&next.Spec.ScaleTargetRef)
			expect(t, HorizontalPodAutoscaler.Validate(context.Background(), next), tc.want)
		})
	}
	old := scaler.DeepCopy()
	old.Spec.ScaleTargetRef.APIVersion = ""
	expect(t, HorizontalPodAutoscaler.ValidateUpdate(context.Background(), old.DeepCopy(), old), "")
	expect(t, HorizontalPodAutoscaler.ValidateUpdate(context.Background(), old, scaler), "must specify API group")
}

func TestParametersOfAnIngressClass(t *testing.T) {
	class := &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{
		Controller: "example.com/ingress",
		Parameters: &networkingv1.IngressClassParametersReference{
			APIGroup: ptr.To("example.com"), Kind: "Parameters", Name: "large", Scope: ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster),
		},
	}}
	type parameters = networkingv1.IngressClassParametersReference
	inNamespace := func(p *parameters) {
		p.Scope, p.Namespace = ptr.To(networkingv1.IngressClassParametersReferenceScopeNamespace), ptr.To("web")
	}
	tests := map[string]change[*parameters]{
		"they may be in no namespace":        {to: func(*parameters) {}},
		"they may be in one":                 {to: inNamespace},
		"of a core kind they have no group":  {to: func(p *parameters) { p.APIGroup = nil }},
		"it is said where they are":          {to: func(p *parameters) { p.Scope = nil }, want: "spec.parameters.scope: Required value"},
		"they are in one of two places":      {to: func(p *parameters) { p.Scope = ptr.To("Galaxy") }, want: "spec.parameters.scope: Unsupported value"},
		"the cluster's have no namespace":    {to: func(p *parameters) { p.Namespace = ptr.To("web") }, want: "spec.parameters.namespace: Forbidden"},
		"a namespace's name it":              {to: func(p *parameters) { inNamespace(p); p.Namespace = nil }, want: "spec.parameters.namespace: Required value"},
		"a namespace has a label for a name": {to: func(p *parameters) { inNamespace(p); p.Namespace = ptr.To("a.b") }, want: "spec.parameters.namespace: Invalid value"},
		"a group is a domain":                {to: func(p *parameters) { p.APIGroup = ptr.To("a_b") }, want: "spec.parameters.apiGroup: Invalid value"},
		"they are of a kind":                 {to: func(p *parameters) { p.Kind = "" }, want: "spec.parameters.kind: Required value"},
		"their name can stand in a path":     {to: func(p *parameters) { p.Name = "a/b" }, want: "spec.parameters.name: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := class.DeepCopy()
			tc.to(next.Spec.Parameters)
			expect(t, IngressClass.Validate(context.Background(), next), tc.want)
			expect(t, IngressClass.ValidateUpdate(context.Background(), next, next), tc.want)
		})
	}
}

func TestFinalizersOfANamespace(t *testing.T) {
	tests := map[string]struct {
		name corev1.FinalizerName
		want string
	}{
		"Kubernetes' own has no domain": {name: corev1.FinalizerKubernetes},
		"anybody's has one":             {name: "example.com/last"},
		"one without is nobody's":       {name: "last", want: "neither a standard finalizer name nor is it fully qualified"},
		"one that is no name":           {name: "a b", want: "spec.finalizers: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ns := &corev1.Namespace{Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{tc.name}}}
			expect(t, Namespace.Validate(context.Background(), ns), tc.want)
		})
	}
}

func TestValuesThereAreNot(t *testing.T) {
	ctx := context.Background()
	expect(t, CSIDriver.Validate(ctx, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{"Ephemeral"}}}), "")
	expect(t, CSIDriver.Validate(ctx, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{"Brief"}}}),
		"spec.volumeLifecycleModes: Unsupported value")
	expect(t, RuntimeClass.Validate(ctx, &nodev1.RuntimeClass{Handler: "runc", Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"a b": "c"}}}),
		"scheduling.nodeSelector: Invalid value")
	expect(t, ControllerRevision.Validate(ctx, &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(` {"spec":{}}`)}}), "")
	expect(t, ControllerRevision.Validate(ctx, &appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: []byte(`"spec"`)}}), "data: Required value")

	request := &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Usages: []certificatesv1.KeyUsage{"client auth", "world domination"}},
	}
	expect(t, CertificateSigningRequest.Validate(ctx, request), "spec.usages[1]: Unsupported value")
}

package kinds

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
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
	tokens := []storagev1.TokenRequest{{Audience: "a"}, {Audience: "b", ExpirationSeconds: ptr.To[int64](599)}, {Audience: "a", ExpirationSeconds: ptr.To[int64](1<<32 + 1)}}
	for _, want := range []string{"spec.tokenRequests[2].audience: Duplicate value", "spec.tokenRequests[1].expirationSeconds: Invalid value", "spec.tokenRequests[2].expirationSeconds: Invalid value"} {
		expect(t, CSIDriver.Validate(ctx, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{TokenRequests: tokens}}), want)
	}
	expect(t, CSIDriver.Validate(ctx, &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{FSGroupPolicy: ptr.To(storagev1.FSGroupPolicy("Some"))}}), "spec.fsGroupPolicy: Unsupported value")
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

func TestLimitsNeedNoName(t *testing.T) {
	limits := &corev1.LimitRange{}
	LimitRange.PrepareCreate(context.Background(), limits)
	if limits.Name == "" {
		t.Error("limits that nobody named have no name")
	}
}

func TestAttachedVolumes(t *testing.T) {
	inline := func(source corev1.PersistentVolumeSource) *corev1.PersistentVolumeSpec {
		return &corev1.PersistentVolumeSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeSource: source}
	}
	csi := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "example.com", VolumeHandle: "1"}}
	tests := map[string]struct {
		source storagev1.VolumeAttachmentSource
		want   string
	}{
		"a volume by its name":   {source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("data")}},
		"a name that is none":    {source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("a b")}, want: "spec.source.persistentVolumeName: Invalid value"},
		"a pod's own of CSI":     {source: storagev1.VolumeAttachmentSource{InlineVolumeSpec: inline(csi)}},
		"a pod's own of another": {source: storagev1.VolumeAttachmentSource{InlineVolumeSpec: inline(corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a"}})}, want: "spec.source.inlineVolumeSpec.csi: Required value"},
		"a pod's own of two":     {source: storagev1.VolumeAttachmentSource{InlineVolumeSpec: inline(corev1.PersistentVolumeSource{CSI: csi.CSI, NFS: &corev1.NFSVolumeSource{Server: "a", Path: "/a"}})}, want: "spec.source.inlineVolumeSpec.nfs: Forbidden"},
		"a pod's own for no use": {source: storagev1.VolumeAttachmentSource{InlineVolumeSpec: &corev1.PersistentVolumeSpec{PersistentVolumeSource: csi}}, want: "spec.source.inlineVolumeSpec.accessModes: Required value"},
		"nothing":                {want: "spec.source: Required value"},
		"both":                   {source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("data"), InlineVolumeSpec: inline(csi)}, want: "spec.source: Forbidden"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a := &storagev1.VolumeAttachment{Spec: storagev1.VolumeAttachmentSpec{Attacher: "example.com", NodeName: "one", Source: tc.source}}
			expect(t, VolumeAttachment.Validate(context.Background(), a), tc.want)
		})
	}
}

func TestHintsOfEndpoints(t *testing.T) {
	tests := map[string]struct {
		hints discoveryv1.EndpointHints
		want  string
	}{
		"zones and nodes":           {hints: discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "north"}}, ForNodes: []discoveryv1.ForNode{{Name: "one"}}}},
		"a zone is a label's value": {hints: discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a/b"}}}, want: "endpoints[0].hints.forZones[0].name: Invalid value"},
		"a node has a node's name":  {hints: discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: "A"}}}, want: "endpoints[0].hints.forNodes[0].name: Invalid value"},
		"a zone comes once":         {hints: discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "a"}}}, want: "endpoints[0].hints.forZones[1].name: Duplicate value"},
		"they are few":              {hints: discoveryv1.EndpointHints{ForNodes: make([]discoveryv1.ForNode, 9)}, want: "endpoints[0].hints.forNodes: Too many: 9"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Hints: &tc.hints}}}
			expect(t, EndpointSlice.Validate(context.Background(), s), tc.want)
		})
	}
}

func TestWhatAnIngressNames(t *testing.T) {
	ingress := &networkingv1.Ingress{Spec: networkingv1.IngressSpec{
		DefaultBackend: &networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{APIGroup: ptr.To("example.com"), Kind: "Bucket", Name: "files"}},
		TLS:            []networkingv1.IngressTLS{{SecretName: "key"}},
	}}
	service := func(name string) *networkingv1.IngressBackend {
		return &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Number: 80}}}
	}
	tests := map[string]change[*networkingv1.IngressSpec]{
		"any resource":                 {to: func(*networkingv1.IngressSpec) {}},
		"its group is a domain":        {to: func(s *networkingv1.IngressSpec) { s.DefaultBackend.Resource.APIGroup = ptr.To("a b") }, want: "spec.defaultBackend.resource.apiGroup: Invalid value"},
		"its name fits into a path":    {to: func(s *networkingv1.IngressSpec) { s.DefaultBackend.Resource.Name = "a/b" }, want: "spec.defaultBackend.resource.name: Invalid value"},
		"a service may begin with a 1": {to: func(s *networkingv1.IngressSpec) { s.DefaultBackend = service("1web") }},
		"a service's name has no dots": {to: func(s *networkingv1.IngressSpec) { s.DefaultBackend = service("a.b") }, want: "spec.defaultBackend.service.name: Invalid value"},
		"a secret has a secret's name": {to: func(s *networkingv1.IngressSpec) { s.TLS[0].SecretName = "A" }, want: "spec.tls[0].secretName: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := ingress.DeepCopy()
			tc.to(&next.Spec)
			expect(t, Ingress.Validate(context.Background(), next), tc.want)
		})
	}
}

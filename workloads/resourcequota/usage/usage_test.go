package usage

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

func resources(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func pod(changes ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a"}}}}
	for _, c := range changes {
		c(p)
	}
	return p
}

func asking(requests, limits corev1.ResourceList) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	}
}

func ended(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }

func told(ago time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(time.Now().Add(-ago))), ptr.To[int64](30)
	}
}

// TestAJumpOfTheClockGivesNothingBack: what is ending uses its share until its time is up.
func TestAJumpOfTheClockGivesNothingBack(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			got, err := Pods(steadytest.Jumped(time.Now(), by).Now, nil).Usage(pod(told(0)))
			if want := resources("count/pods", "1", "pods", "1"); err != nil || !quota.Equals(got, want) {
				t.Errorf("uses %v (%v), want %v", got, err, want)
			}
		})
	}
}

func deadline(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }

func urgent(p *corev1.Pod) { p.Spec.PriorityClassName = "urgent" }

func TestUsage(t *testing.T) {
	service := func(kind corev1.ServiceType, allocate *bool) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, AllocateLoadBalancerNodePorts: allocate, Ports: []corev1.ServicePort{{Port: 80}, {Port: 443, NodePort: 30443}}}}
	}
	claim := func(class *string, allocated string) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class, Resources: corev1.VolumeResourceRequirements{Requests: resources("storage", "10Gi")}}}
		if allocated != "" {
			c.Status.AllocatedResources = resources("storage", allocated)
		}
		return c
	}
	devices := &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gold", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2}},
		{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "tin", AllocationMode: resourcev1.DeviceAllocationModeAll}},
		{FirstAvailable: []resourcev1.DeviceSubRequest{{DeviceClassName: "gold", Count: 1}, {DeviceClassName: "gold", Count: 3}, {DeviceClassName: "lead", Count: 4}}},
	}}}}
	tests := map[string]struct {
		by   quota.Evaluator
		of   runtime.Object
		want corev1.ResourceList
	}{
		"a pod that asks for nothing": {by: Pods(time.Now, nil), of: pod(), want: resources("count/pods", "1", "pods", "1")},
		"a pod that asks": {by: Pods(time.Now, nil), of: pod(asking(resources("cpu", "1", "example.com/gpu", "2"), resources("memory", "1Gi"))), want: resources(
			"count/pods", "1", "pods", "1", "cpu", "1", "requests.cpu", "1", "requests.example.com/gpu", "2", "limits.memory", "1Gi",
		)},
		"a pod that has ended is only there":           {by: Pods(time.Now, nil), of: pod(ended, asking(resources("cpu", "1"), nil)), want: resources("count/pods", "1")},
		"a pod that is ending still uses":              {by: Pods(time.Now, nil), of: pod(told(0)), want: resources("count/pods", "1", "pods", "1")},
		"a pod that nobody ended in time uses no more": {by: Pods(time.Now, nil), of: pod(told(time.Hour)), want: resources("count/pods", "1")},
		"a service inside":                             {by: Services(nil), of: service(corev1.ServiceTypeClusterIP, nil), want: resources("count/services", "1", "services", "1", "services.nodeports", "0", "services.loadbalancers", "0")},
		"a service on node ports":                      {by: Services(nil), of: service(corev1.ServiceTypeNodePort, nil), want: resources("count/services", "1", "services", "1", "services.nodeports", "2", "services.loadbalancers", "0")},
		"a load balancer":                              {by: Services(nil), of: service(corev1.ServiceTypeLoadBalancer, nil), want: resources("count/services", "1", "services", "1", "services.nodeports", "2", "services.loadbalancers", "1")},
		"a load balancer of few node ports":            {by: Services(nil), of: service(corev1.ServiceTypeLoadBalancer, ptr.To(false)), want: resources("count/services", "1", "services", "1", "services.nodeports", "1", "services.loadbalancers", "1")},
		"a claim to devices": {by: Devices(nil), of: devices, want: resources("count/resourceclaims.resource.k8s.io", "1",
			"gold.deviceclass.resource.k8s.io/devices", "5", "tin.deviceclass.resource.k8s.io/devices", "32", "lead.deviceclass.resource.k8s.io/devices", "4",
		)},
		"a claim": {by: Claims(nil), of: claim(nil, ""), want: resources("count/persistentvolumeclaims", "1", "persistentvolumeclaims", "1", "requests.storage", "10Gi")},
		"a claim of a class that grows": {by: Claims(nil), of: claim(ptr.To("gold"), "20Gi"), want: resources(
			"count/persistentvolumeclaims", "1", "persistentvolumeclaims", "1", "requests.storage", "20Gi",
			"gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1", "gold.storageclass.storage.k8s.io/requests.storage", "20Gi",
		)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tc.by.Usage(tc.of)
			if err != nil {
				t.Fatal(err)
			}
			if !quota.Equals(got, tc.want) {
				t.Errorf("usage (-want +got):\n%s", cmp.Diff(tc.want, got))
			}
			for used := range got {
				if len(tc.by.MatchingResources([]corev1.ResourceName{used})) != 1 {
					t.Errorf("%s is measured and not bounded", used)
				}
			}
		})
	}
}

func TestScopes(t *testing.T) {
	exists := func(name corev1.ResourceQuotaScope) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: name, Operator: corev1.ScopeSelectorOpExists}
	}
	priority := func(operator corev1.ScopeSelectorOperator, values ...string) corev1.ScopedResourceSelectorRequirement {
		return corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: operator, Values: values}
	}
	elsewhere := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{Namespaces: []string{"other"}}}}}
	}
	tests := map[string]struct {
		pod   *corev1.Pod
		scope corev1.ScopedResourceSelectorRequirement
		want  bool
	}{
		"with a deadline it ends":           {pod: pod(deadline), scope: exists(corev1.ResourceQuotaScopeTerminating), want: true},
		"without one it does not":           {pod: pod(), scope: exists(corev1.ResourceQuotaScopeNotTerminating), want: true},
		"without one it is not among those": {pod: pod(), scope: exists(corev1.ResourceQuotaScopeTerminating)},
		"one that asks for nothing":         {pod: pod(), scope: exists(corev1.ResourceQuotaScopeBestEffort), want: true},
		"one that asks":                     {pod: pod(asking(resources("cpu", "1"), nil)), scope: exists(corev1.ResourceQuotaScopeNotBestEffort), want: true},
		"one that asks for a device only":   {pod: pod(asking(resources("example.com/gpu", "1"), nil)), scope: exists(corev1.ResourceQuotaScopeBestEffort), want: true},
		"a class among those":               {pod: pod(urgent), scope: priority(corev1.ScopeSelectorOpIn, "urgent", "high"), want: true},
		"a class not among those":           {pod: pod(urgent), scope: priority(corev1.ScopeSelectorOpIn, "high")},
		"another class":                     {pod: pod(urgent), scope: priority(corev1.ScopeSelectorOpNotIn, "high"), want: true},
		"any class":                         {pod: pod(urgent), scope: priority(corev1.ScopeSelectorOpExists), want: true},
		"no class":                          {pod: pod(), scope: priority(corev1.ScopeSelectorOpDoesNotExist), want: true},
		"placed by pods elsewhere":          {pod: pod(elsewhere), scope: exists(corev1.ResourceQuotaScopeCrossNamespacePodAffinity), want: true},
		"placed by nobody":                  {pod: pod(), scope: exists(corev1.ResourceQuotaScopeCrossNamespacePodAffinity)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			q := &corev1.ResourceQuota{
				Spec:   corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{tc.scope}}},
				Status: corev1.ResourceQuotaStatus{Hard: resources("pods", "1")},
			}
			if got, err := Pods(time.Now, nil).Matches(q, tc.pod); err != nil || got != tc.want {
				t.Errorf("Matches() = %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

func TestAClaimIsOfEveryAttributesClassItMeets(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{
		Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("gold")},
		Status: corev1.PersistentVolumeClaimStatus{
			CurrentVolumeAttributesClassName: ptr.To("silver"),
			ModifyVolumeStatus:               &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "platinum"},
		},
	}
	tests := map[string]struct {
		claim    *corev1.PersistentVolumeClaim
		operator corev1.ScopeSelectorOperator
		values   []string
		want     bool
	}{
		"the one it asks for":            {claim, corev1.ScopeSelectorOpIn, []string{"gold"}, true},
		"the one it has":                 {claim, corev1.ScopeSelectorOpIn, []string{"silver"}, true},
		"the one it is being changed to": {claim, corev1.ScopeSelectorOpIn, []string{"platinum"}, true},
		"none of these":                  {claim, corev1.ScopeSelectorOpIn, []string{"iron"}, false},
		"any":                            {claim, corev1.ScopeSelectorOpExists, nil, true},
		"it has some":                    {claim, corev1.ScopeSelectorOpDoesNotExist, nil, false},
		"it has none":                    {&corev1.PersistentVolumeClaim{}, corev1.ScopeSelectorOpDoesNotExist, nil, true},
		"none is not any":                {&corev1.PersistentVolumeClaim{}, corev1.ScopeSelectorOpExists, nil, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			q := &corev1.ResourceQuota{
				Spec: corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
					{ScopeName: corev1.ResourceQuotaScopeVolumeAttributesClass, Operator: tc.operator, Values: tc.values},
				}}},
				Status: corev1.ResourceQuotaStatus{Hard: corev1.ResourceList{corev1.ResourcePersistentVolumeClaims: resource.MustParse("1")}},
			}
			if got, err := Claims(nil).Matches(q, tc.claim); err != nil || got != tc.want {
				t.Errorf("Matches() = %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

func TestConstraints(t *testing.T) {
	twice := func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"}) }
	forAll := func(p *corev1.Pod) {
		p.Spec.Resources = &corev1.ResourceRequirements{Limits: resources("memory", "1Gi")}
	}
	tests := map[string]struct {
		pod      *corev1.Pod
		required []corev1.ResourceName
		want     string
	}{
		"nothing is required":            {pod: pod()},
		"a number of pods needs no word": {pod: pod(), required: []corev1.ResourceName{"pods"}},
		"what is bounded must be said":   {pod: pod(twice, asking(resources("cpu", "1"), nil)), required: []corev1.ResourceName{"requests.cpu", "limits.memory"}, want: "must specify limits.memory for: a,b; requests.cpu for: b"},
		"cpu is short for requests.cpu":  {pod: pod(), required: []corev1.ResourceName{"cpu"}, want: "must specify cpu for: a"},
		"all is said":                    {pod: pod(asking(resources("cpu", "1"), resources("memory", "1Gi"))), required: []corev1.ResourceName{"requests.cpu", "limits.memory"}},
		"said for the whole pod":         {pod: pod(twice, forAll), required: []corev1.ResourceName{"limits.memory"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := Pods(time.Now, nil).Constraints(tc.required, tc.pod); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("Constraints() = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestCounted(t *testing.T) {
	tests := map[corev1.ResourceName]schema.GroupResource{
		"configmaps": {Resource: "configmaps"}, "count/secrets": {Resource: "secrets"},
		"count/deployments.apps": {Group: "apps", Resource: "deployments"}, "count/widgets.example.com": {Group: "example.com", Resource: "widgets"},
		"requests.cpu": {}, "pods": {},
	}
	for name, want := range tests {
		if got, is := Counted(name); got != want && is || is != (want != schema.GroupResource{}) {
			t.Errorf("Counted(%s) = %v, %v; want %v", name, got, is, want)
		}
	}
}

package admission

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"

	apiresource "knarr.dev/knarr/appliance/apiserver/resource"
)

func TestMountToken(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "first"}},
		Containers:     []corev1.Container{{Name: "main"}, {Name: "own", VolumeMounts: []corev1.VolumeMount{{Name: "mine", MountPath: tokenMount}}}},
	}}
	mountToken(pod, "kube-api-access-x")
	if len(pod.Spec.Volumes) != 1 || len(pod.Spec.Volumes[0].Projected.Sources) != 3 {
		t.Fatalf("volumes = %+v", pod.Spec.Volumes)
	}
	mounts := map[string]string{}
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		mounts[c.Name] = c.VolumeMounts[0].Name
	}
	if diff := cmp.Diff(map[string]string{"first": "kube-api-access-x", "main": "kube-api-access-x", "own": "mine"}, mounts); diff != "" {
		t.Errorf("mounts (-want +got):\n%s", diff)
	}
	before := pod.DeepCopy()
	mountToken(pod, "kube-api-access-x")
	if diff := cmp.Diff(before, pod); diff != "" {
		t.Errorf("mounting it again changed the pod (-before +after):\n%s", diff)
	}
}

func TestWantsToken(t *testing.T) {
	tests := map[string]struct {
		pod, account *bool
		want         bool
	}{
		"who says nothing gets one":     {want: true},
		"the account may refuse":        {account: ptr.To(false), want: false},
		"the pod has the last word":     {pod: ptr.To(true), account: ptr.To(false), want: true},
		"the pod may refuse for itself": {pod: ptr.To(false), account: ptr.To(true), want: false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := wantsToken(&corev1.Pod{Spec: corev1.PodSpec{AutomountServiceAccountToken: tc.pod}}, &corev1.ServiceAccount{AutomountServiceAccountToken: tc.account})
			if got != tc.want {
				t.Errorf("wantsToken() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestMirrorAsks(t *testing.T) {
	volume := func(source corev1.VolumeSource) corev1.PodSpec {
		return corev1.PodSpec{Volumes: []corev1.Volume{{Name: "a", VolumeSource: source}}}
	}
	projected := func(p corev1.VolumeProjection) corev1.PodSpec {
		return volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{p}}})
	}
	env := corev1.Container{Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{}}}}}
	const secrets = "reference secrets"
	tests := map[string]struct {
		spec corev1.PodSpec
		want string
	}{
		"a folder of the node is fine":           {spec: volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc"}})},
		"an account is not":                      {spec: corev1.PodSpec{ServiceAccountName: "default"}, want: "reference service accounts"},
		"nor are secrets for its images":         {spec: corev1.PodSpec{ImagePullSecrets: []corev1.LocalObjectReference{{Name: "a"}}}, want: secrets},
		"nor secrets as files":                   {spec: volume(corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{}}), want: secrets},
		"nor those a driver is shown":            {spec: volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{}}}), want: secrets},
		"nor secrets among other files":          {spec: projected(corev1.VolumeProjection{Secret: &corev1.SecretProjection{}}), want: secrets},
		"nor secrets as variables":               {spec: corev1.PodSpec{InitContainers: []corev1.Container{env}}, want: secrets},
		"nor all variables of a secret":          {spec: corev1.PodSpec{Containers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{}}}}}}, want: secrets},
		"nor a token":                            {spec: projected(corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}), want: "use ServiceAccountToken volume projections"},
		"what it says about itself is its own":   {spec: projected(corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{}})},
		"a driver that needs no secret is fine":  {spec: volume(corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}})},
		"variables that are no secrets are fine": {spec: corev1.PodSpec{Containers: []corev1.Container{{Env: []corev1.EnvVar{{Name: "a", Value: "b"}}}}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := mirrorAsks(&tc.spec); got != tc.want {
				t.Errorf("mirrorAsks() = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestConfigurationsOfPluginsThatAreRefused(t *testing.T) {
	const security = "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\n"
	tests := map[string]struct {
		plugin, config, want string
	}{
		"a level there is not":           {"PodSecurity", security + "defaults: {enforce: strict}\n", "enforce: must be one of privileged, baseline, restricted"},
		"a version there is not":         {"PodSecurity", security + "defaults: {enforce-version: yesterday}\n", "enforce-version: must be"},
		"another kind":                   {"PodSecurity", "apiVersion: v1\nkind: Pod\n", "no kind"},
		"a plugin with nothing to set":   {"LimitRanger", "a: b\n", "nothing to configure"},
		"an empty configuration is fine": {plugin: "PodSecurity"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, plugin := range Plugins(&apiresource.Env{}) {
				if plugin.Name != tc.plugin {
					continue
				}
				_, err := plugin.New(strings.NewReader(tc.config))
				if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
					t.Errorf("configure %s: %v, want %q", plugin.Name, err, tc.want)
				}
			}
		})
	}
}

func TestApplyClass(t *testing.T) {
	high := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "high"}, Value: 7, PreemptionPolicy: ptr.To(corev1.PreemptNever)}
	tests := map[string]struct {
		class   *schedulingv1.PriorityClass
		asked   *int32
		want    int32
		refused bool
	}{
		"no class is priority 0":              {want: 0},
		"a class gives its value":             {class: high, want: 7},
		"the same number may be said as well": {class: high, asked: ptr.To[int32](7), want: 7},
		"another number is refused":           {class: high, asked: ptr.To[int32](8), refused: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Priority: tc.asked}}
			err := applyClass(pod, tc.class)
			if (err != nil) != tc.refused {
				t.Fatalf("applyClass() = %v", err)
			}
			if err == nil && *pod.Spec.Priority != tc.want {
				t.Errorf("priority = %d, want %d", *pod.Spec.Priority, tc.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	list := func(amount string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(amount)}
	}
	item := corev1.LimitRangeItem{Type: corev1.LimitTypeContainer, Min: list("100m"), Max: list("2"), DefaultRequest: list("200m"), Default: list("1"), MaxLimitRequestRatio: list("5")}
	tests := map[string]struct {
		resources corev1.ResourceRequirements
		want      string // of the first problem; "": none
	}{
		"a container that says nothing gets the default": {},
		"a limit far above the request is refused":       {resources: corev1.ResourceRequirements{Requests: list("200m"), Limits: list("2")}, want: "cpu max limit to request ratio per Container is 5, but provided ratio is 10.000000"},
		"what fits, fits":       {resources: corev1.ResourceRequirements{Requests: list("1"), Limits: list("2")}},
		"too much is refused":   {resources: corev1.ResourceRequirements{Requests: list("1"), Limits: list("3")}, want: "maximum cpu usage per Container is 2, but limit is 3"},
		"too little is refused": {resources: corev1.ResourceRequirements{Requests: list("50m"), Limits: list("100m")}, want: "minimum cpu usage per Container is 100m, but request is 50m"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Resources: tc.resources}}}}
			defaultLimits(pod, &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}})
			problems := podWithin(&item, pod)
			switch {
			case tc.want == "" && len(problems) > 0:
				t.Errorf("problems = %v, want none", problems)
			case tc.want != "" && (len(problems) == 0 || problems[0].Error() != tc.want):
				t.Errorf("problems = %v, want %q", problems, tc.want)
			}
		})
	}
}

func TestNewestDefault(t *testing.T) {
	class := func(name, marked string, second int64) storagev1.StorageClass {
		return storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(second, 0), Annotations: map[string]string{defaultStorageAnnotation: marked}}}
	}
	meta := func(c *storagev1.StorageClass) metav1.ObjectMeta { return c.ObjectMeta }
	tests := map[string]struct {
		classes []storagev1.StorageClass
		want    string
	}{
		"no class is the default":         {classes: []storagev1.StorageClass{class("a", "false", 1)}},
		"of several the youngest is":      {classes: []storagev1.StorageClass{class("a", "true", 1), class("b", "true", 2), class("c", "false", 3)}, want: "b"},
		"of the equally old the first is": {classes: []storagev1.StorageClass{class("b", "true", 1), class("a", "true", 1)}, want: "a"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := newestDefault(tc.classes, meta, defaultStorageAnnotation); got != tc.want {
				t.Errorf("newestDefault() = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPullPolicies(t *testing.T) {
	containers := []corev1.Container{{ImagePullPolicy: corev1.PullNever}, {ImagePullPolicy: corev1.PullIfNotPresent}}
	spec := corev1.PodSpec{Containers: containers, InitContainers: containers[:1], Volumes: []corev1.Volume{{}, {VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}}}}
	var got []string
	for _, p := range pullPolicies(&spec) {
		got = append(got, p.path)
	}
	want := []string{"spec.initContainers[0].imagePullPolicy", "spec.containers[0].imagePullPolicy", "spec.containers[1].imagePullPolicy", "spec.volumes[1].image.pullPolicy"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pullPolicies() (-want +got):\n%s", diff)
	}
}

func TestExternalIPs(t *testing.T) {
	with := func(ips ...string) *corev1.Service {
		return &corev1.Service{Spec: corev1.ServiceSpec{ExternalIPs: ips}}
	}
	tests := map[string]struct {
		old, new *corev1.Service
		refused  bool
	}{
		"a service without is fine":    {new: with()},
		"a new one may have none":      {new: with("192.0.2.1"), refused: true},
		"those it has may stay and go": {old: with("192.0.2.1", "192.0.2.2"), new: with("192.0.2.2")},
		"none may come":                {old: with("192.0.2.1"), new: with("192.0.2.1", "192.0.2.2"), refused: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var old runtime.Object
			if tc.old != nil {
				old = tc.old
			}
			a := admission.NewAttributesRecord(tc.new, old, corev1.SchemeGroupVersion.WithKind("Service"), "default", "web", corev1.SchemeGroupVersion.WithResource("services"), "", admission.Update, nil, false, nil)
			if err := denyExternalIPs().Validate(t.Context(), a, nil); apierrors.IsForbidden(err) != tc.refused {
				t.Errorf("Validate() = %v, refused %v", err, tc.refused)
			}
		})
	}
}

package kinds

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// defaults is a scheme with nothing but defaults.
var defaults = func() *runtime.Scheme {
	s := runtime.NewScheme()
	if err := RegisterDefaults(s); err != nil {
		panic(err)
	}
	return s
}()

// change is an update that must be refused with a message, or allowed.
type change[T any] struct {
	to   func(T)
	want string // a part of one message; "": allowed
}

func expect(t *testing.T, errs field.ErrorList, want string) {
	t.Helper()
	if want == "" {
		if len(errs) > 0 {
			t.Errorf("errors = %v, want none", errs)
		}
		return
	}
	for _, err := range errs {
		if strings.Contains(err.Error(), want) {
			return
		}
	}
	t.Errorf("errors = %v, want %q", errs, want)
}

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "web:1"}}},
	}
}

func deployment() *appsv1.Deployment {
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: template()}}
	defaults.Default(d)
	return d
}

func TestDeployment(t *testing.T) {
	d := deployment()
	want := appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
		MaxUnavailable: ptr.To(intstr.FromString("25%")), MaxSurge: ptr.To(intstr.FromString("25%")),
	}}
	if diff := cmp.Diff(want, d.Spec.Strategy); diff != "" || *d.Spec.Replicas != 1 || *d.Spec.RevisionHistoryLimit != 10 || *d.Spec.ProgressDeadlineSeconds != 600 {
		t.Errorf("defaults: replicas %d, history %d, deadline %d; strategy (-want +got):\n%s", *d.Spec.Replicas, *d.Spec.RevisionHistoryLimit, *d.Spec.ProgressDeadlineSeconds, diff)
	}
	tests := map[string]change[*appsv1.Deployment]{
		"replicas may change":       {to: func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](3) }},
		"the template may change":   {to: func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "web:2" }},
		"replicas are not negative": {to: func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](-1) }, want: "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
		"the selector stays": {to: func(d *appsv1.Deployment) {
			d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}}
		}, want: "spec.selector: Invalid value"},
		"the template keeps the selector's labels": {to: func(d *appsv1.Deployment) { d.Spec.Template.Labels = nil }, want: "`selector` does not match template `labels`"},
		"pods that end are not for deployments":    {to: func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever }, want: `spec.template.spec.restartPolicy: Unsupported value: "Never"`},
		"an update may not stand still": {to: func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: ptr.To(intstr.FromInt32(0)), MaxSurge: ptr.To(intstr.FromString("0%"))}
		}, want: "may not be 0 when `maxSurge` is 0"},
		"recreating has nothing to roll":     {to: func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }, want: "may not be specified when strategy `type` is 'Recreate'"},
		"a deadline leaves time to be ready": {to: func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 600 }, want: "must be greater than minReadySeconds"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := d.DeepCopy()
			tc.to(next)
			expect(t, Deployment.ValidateUpdate(context.Background(), next, d), tc.want)
		})
	}
}

func service(change func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if change != nil {
		change(svc)
	}
	defaults.Default(svc)
	return svc
}

func TestService(t *testing.T) {
	svc := service(nil)
	if p := svc.Spec.Ports[0]; p.Protocol != corev1.ProtocolTCP || p.TargetPort != intstr.FromInt32(80) || svc.Spec.SessionAffinity != corev1.ServiceAffinityNone || *svc.Spec.InternalTrafficPolicy != "Cluster" {
		t.Errorf("defaults: %+v", svc.Spec)
	}
	tests := map[string]change[*corev1.Service]{
		"one port is enough":       {to: func(*corev1.Service) {}},
		"several ports need names": {to: func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 81}) }, want: "spec.ports[0].name: Required value"},
		"ports are needed":         {to: func(s *corev1.Service) { s.Spec.Ports = nil }, want: "spec.ports: Required value"},
		"a headless service needs none": {to: func(s *corev1.Service) {
			s.Spec.Ports, s.Spec.ClusterIP, s.Spec.ClusterIPs = nil, "None", []string{"None"}
		}},
		"node ports are for other types": {to: func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 }, want: "may not be used when `type` is 'ClusterIP'"},
		"an external name is needed":     {to: func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }, want: "spec.externalName: Required value"},
		"the agent's port stays inside":  {to: func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].Port = corev1.ServiceTypeLoadBalancer, 10250 }, want: "may not expose port 10250 externally"},
		"affinity lasts a day at most": {to: func(s *corev1.Service) {
			s.Spec.SessionAffinity, s.Spec.SessionAffinityConfig = corev1.ServiceAffinityClientIP, &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](86401)}}
		}, want: "must be greater than 0 and less than 86400"},
		"an external address leaves its host": {to: func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"127.0.0.1"} }, want: "may not be in the loopback range"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) { expect(t, Service.Validate(context.Background(), service(tc.to)), tc.want) })
	}
}

func TestKeepAllocated(t *testing.T) {
	old := service(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeNodePort, "10.0.0.7", []string{"10.0.0.7"}
		s.Spec.Ports[0].NodePort = 30007
	})
	next := service(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	KeepAllocated(next, old)
	if next.Spec.ClusterIP != "10.0.0.7" || len(next.Spec.ClusterIPs) != 1 || next.Spec.Ports[0].NodePort != 30007 {
		t.Errorf("what was allocated is lost: %+v", next.Spec)
	}
	away := service(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.ClusterIP, s.Spec.ClusterIPs = corev1.ServiceTypeExternalName, "x.example", "10.0.0.7", []string{"10.0.0.7"}
	})
	dropOutgrown(away, old)
	if away.Spec.ClusterIP != "" || away.Spec.ClusterIPs != nil {
		t.Errorf("an ExternalName service keeps addresses: %+v", away.Spec)
	}
}

func TestSecret(t *testing.T) {
	secret := &corev1.Secret{StringData: map[string]string{"a": "b"}}
	defaults.Default(secret)
	if secret.Type != corev1.SecretTypeOpaque || string(secret.Data["a"]) != "b" || secret.StringData != nil {
		t.Errorf("defaults: %+v", secret)
	}
	tests := map[string]change[*corev1.Secret]{
		"data may change":        {to: func(s *corev1.Secret) { s.Data["a"] = []byte("c") }},
		"the type stays":         {to: func(s *corev1.Secret) { s.Type = corev1.SecretTypeBasicAuth }, want: "type: Invalid value"},
		"keys are file names":    {to: func(s *corev1.Secret) { s.Data["a/b"] = nil }, want: "data[a/b]: Invalid value"},
		"it fits into a request": {to: func(s *corev1.Secret) { s.Data["big"] = make([]byte, maxDataBytes) }, want: "data: Too long"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := secret.DeepCopy()
			tc.to(next)
			expect(t, Secret.ValidateUpdate(context.Background(), next, secret), tc.want)
		})
	}
	t.Run("a sealed secret stays", func(t *testing.T) {
		old := secret.DeepCopy()
		old.Immutable = ptr.To(true)
		next := old.DeepCopy()
		next.Data["a"] = []byte("c")
		expect(t, Secret.ValidateUpdate(context.Background(), next, old), "data: Forbidden: field is immutable when `immutable` is set")
	})
	t.Run("a key pair has both", func(t *testing.T) {
		tls := &corev1.Secret{Type: corev1.SecretTypeTLS, Data: map[string][]byte{"tls.crt": nil}}
		expect(t, Secret.Validate(context.Background(), tls), "data[tls.key]: Required value")
	})
}

func TestJobSelectsItsOwnPods(t *testing.T) {
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once", UID: "u-1"}, Spec: batchv1.JobSpec{Template: template()}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	defaults.Default(job)
	Job.PrepareCreate(context.Background(), job)
	want := map[string]string{"app": "web", "job-name": "once", "controller-uid": "u-1", "batch.kubernetes.io/job-name": "once", "batch.kubernetes.io/controller-uid": "u-1"}
	if diff := cmp.Diff(want, job.Spec.Template.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"batch.kubernetes.io/controller-uid": "u-1"}, job.Spec.Selector.MatchLabels); diff != "" {
		t.Errorf("selector (-want +got):\n%s", diff)
	}
	expect(t, Job.Validate(context.Background(), job), "")
	next := job.DeepCopy()
	next.Spec.Template.Spec.Containers[0].Image = "other"
	expect(t, Job.ValidateUpdate(context.Background(), next, job), "spec.template: Invalid value")
	next = job.DeepCopy()
	next.Spec.Suspend = ptr.To(true)
	expect(t, Job.ValidateUpdate(context.Background(), next, job), "")
}

func TestSchedules(t *testing.T) {
	for schedule, right := range map[string]bool{
		"*/5 * * * *": true, "0 22 * * 1-5": true, "@hourly": true, "@every 1h30m": true, "0 0 1 jan,jul mon": true,
		"": false, "* * * *": false, "60 * * * *": false, "5-1 * * * *": false, "*/0 * * * *": false, "@often": false, "a * * * *": false,
	} {
		if problem := scheduleProblem(schedule); (problem == "") != right {
			t.Errorf("scheduleProblem(%q) = %q", schedule, problem)
		}
	}
}

func TestGracefulPod(t *testing.T) {
	running := corev1.Pod{Spec: corev1.PodSpec{NodeName: "one", TerminationGracePeriodSeconds: ptr.To[int64](30)}}
	tests := map[string]struct {
		change func(*corev1.Pod)
		asked  *int64
		want   int64
	}{
		"a running pod gets its time":             {want: 30},
		"who deletes it may give it less":         {asked: ptr.To[int64](5), want: 5},
		"a pod without a node has nothing to end": {change: func(p *corev1.Pod) { p.Spec.NodeName = "" }, asked: ptr.To[int64](5), want: 0},
		"a pod that is done has nothing to end":   {change: func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, want: 0},
		"less than nothing is a second":           {asked: ptr.To[int64](-3), want: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pod := running.DeepCopy()
			if tc.change != nil {
				tc.change(pod)
			}
			options := &metav1.DeleteOptions{GracePeriodSeconds: tc.asked}
			if !Pod.GracefulDelete(context.Background(), pod, options) || *options.GracePeriodSeconds != tc.want {
				t.Errorf("grace period = %d, want %d", *options.GracePeriodSeconds, tc.want)
			}
		})
	}
}

func TestRoleBindingKeepsItsRole(t *testing.T) {
	b := &rbacv1.RoleBinding{RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "read"}, Subjects: []rbacv1.Subject{{Kind: "User", Name: "ada"}}}
	defaults.Default(b)
	if b.RoleRef.APIGroup != rbacv1.GroupName || b.Subjects[0].APIGroup != rbacv1.GroupName {
		t.Errorf("defaults: %+v", b)
	}
	next := b.DeepCopy()
	next.RoleRef.Name = "write"
	expect(t, RoleBinding.ValidateUpdate(context.Background(), next, b), "cannot change roleRef")
	next = b.DeepCopy()
	next.Subjects[0].Kind = "Robot"
	expect(t, RoleBinding.ValidateUpdate(context.Background(), next, b), `subjects[0].kind: Unsupported value: "Robot"`)
}

func TestNamespaceCarriesItsName(t *testing.T) {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", Labels: map[string]string{"kubernetes.io/metadata.name": "other"}}}
	Namespace.PrepareCreate(context.Background(), ns)
	if ns.Labels["kubernetes.io/metadata.name"] != "shop" || ns.Status.Phase != corev1.NamespaceActive || len(ns.Spec.Finalizers) != 1 {
		t.Errorf("created namespace: %+v", ns)
	}
}

func TestListsGetTheDefaultsOfTheirItems(t *testing.T) {
	list := &corev1.ServiceList{Items: []corev1.Service{{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}}}
	defaults.Default(list)
	if list.Items[0].Spec.Type != corev1.ServiceTypeClusterIP {
		t.Errorf("type = %q", list.Items[0].Spec.Type)
	}
}

func TestConditionsOfWebhooks(t *testing.T) {
	tests := map[string]struct {
		conditions []admissionregistrationv1.MatchCondition
		want       string
	}{
		"an expression about the object":      {conditions: []admissionregistrationv1.MatchCondition{{Name: "staging", Expression: "object.metadata.namespace == 'staging'"}}},
		"an expression about who may what":    {conditions: []admissionregistrationv1.MatchCondition{{Name: "admin", Expression: "!authorizer.group('').resource('pods').check('delete').allowed()"}}},
		"what is no expression is refused":    {conditions: []admissionregistrationv1.MatchCondition{{Name: "bad", Expression: "... [] bad"}}, want: "[0].expression: Invalid value: \"... [] bad\": compilation failed"},
		"an expression has to be true or not": {conditions: []admissionregistrationv1.MatchCondition{{Name: "text", Expression: "'text'"}}, want: "must evaluate to bool"},
		"webhooks have no parameters":         {conditions: []admissionregistrationv1.MatchCondition{{Name: "params", Expression: "params.limit > 1"}}, want: "undeclared reference to 'params'"},
		"an empty one is missing":             {conditions: []admissionregistrationv1.MatchCondition{{Name: "empty"}}, want: "[0].expression: Required value"},
		"names tell them apart":               {conditions: []admissionregistrationv1.MatchCondition{{Name: "same", Expression: "true"}, {Name: "same", Expression: "false"}}, want: "[1].name: Duplicate value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			expect(t, expressions{}.conditions(tc.conditions, false, field.NewPath("matchConditions")), tc.want)
		})
	}
}

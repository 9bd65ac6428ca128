package workloads_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func TestAQuotaIsKeptAndGivenBack(t *testing.T) {
	addNode(t, "bounded")
	ns := newNamespace(t, "bounded")
	hard := corev1.ResourceList{}
	for name, bound := range map[corev1.ResourceName]string{
		"pods": "1", "requests.cpu": "500m", "configmaps": "3", "count/secrets": "1", "services.nodeports": "1", "requests.storage": "1Gi", "count/cronjobs.batch": "0",
	} {
		hard[name] = resource.MustParse(bound)
	}
	create(t, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "books"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}})
	used := func(name corev1.ResourceName, want string) {
		t.Helper()
		eventually(t, &corev1.ResourceQuota{}, ns, "books", string(name)+" "+want, func(q *corev1.ResourceQuota) bool {
			value, there := q.Status.Used[name]
			return there && value.Cmp(resource.MustParse(want)) == 0 && len(q.Status.Hard) == len(hard)
		})
	}
	used("pods", "0")
	used("configmaps", "1") // the cluster's CA
	used("count/cronjobs.batch", "0")

	pod := func(name, cpu string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "runs"}}}}
		if cpu != "" {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		}
		return p
	}
	refused := func(o client.Object, why string) {
		t.Helper()
		if err := api.Create(t.Context(), o); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), why) {
			t.Errorf("create %s: %v, want a refusal for %q", o.GetName(), err, why)
		}
	}
	eventuallyRefused(t, pod("silent", ""), true)
	refused(pod("silent", ""), "must specify requests.cpu for: c")
	refused(pod("greedy", "1"), "exceeded quota: books, requested: requests.cpu=1, used: requests.cpu=0, limited: requests.cpu=500m")
	create(t, pod("one", "300m"))
	used("requests.cpu", "300m")
	refused(pod("two", "100m"), "exceeded quota: books, requested: pods=1, used: pods=1, limited: pods=1")

	create(t, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "one"}})
	used("count/secrets", "1")
	refused(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "two"}}, "count/secrets=1")
	service := newService(ns, "web")
	service.Spec.Type = corev1.ServiceTypeNodePort
	create(t, service)
	used("services.nodeports", "1")

	for _, o := range []client.Object{pod("one", ""), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "one"}}, service} {
		if err := api.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	used("pods", "0")
	used("requests.cpu", "0")
	used("count/secrets", "0")
	used("services.nodeports", "0")
	eventuallyRefused(t, pod("two", "500m"), false)
	create(t, pod("two", "500m"))
	used("requests.cpu", "500m")
}

// eventuallyRefused waits until admission, which has a view of its own, has heard of what makes it refuse o, or take it.
func eventuallyRefused(t *testing.T, o client.Object, refused bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := api.Create(t.Context(), o.DeepCopyObject().(client.Object), client.DryRunAll)
		if err != nil && !apierrors.IsForbidden(err) {
			t.Fatal(err)
		}
		if apierrors.IsForbidden(err) == refused {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("admission has not heard of the quota in time: refused should be %t, and it says %v", refused, err)
		case <-tick.C:
		}
	}
}

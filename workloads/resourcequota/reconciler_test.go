package resourcequota

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/kubernetes/scheme"
	metadatafake "k8s.io/client-go/metadata/fake"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/resourcequota/usage"
)

func bounds(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func books(hard corev1.ResourceList) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "books"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}
}

type groups []string

func (g groups) ServerGroups() (*metav1.APIGroupList, error) {
	list := &metav1.APIGroupList{}
	for _, name := range g {
		list.Groups = append(list.Groups, metav1.APIGroup{Name: name, PreferredVersion: metav1.GroupVersionForDiscovery{Version: "v1"}})
	}
	return list, nil
}

func TestMeasure(t *testing.T) {
	inShop := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	partial := func(apiVersion, kind, namespace, name string) *metav1.PartialObjectMetadata {
		return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	metadataScheme := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(metadataScheme); err != nil {
		t.Fatal(err)
	}
	cached := fake.NewClientBuilder().WithObjects(
		&corev1.Pod{ObjectMeta: inShop("runs")}, &corev1.Pod{ObjectMeta: inShop("ended"), Status: corev1.PodStatus{Phase: corev1.PodFailed}},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "runs"}},
		&corev1.Service{ObjectMeta: inShop("web")},
		&corev1.PersistentVolumeClaim{ObjectMeta: inShop("data"), Spec: corev1.PersistentVolumeClaimSpec{Resources: corev1.VolumeResourceRequirements{Requests: bounds("storage", "3Gi")}}},
	).Build()
	mapper := meta.NewDefaultRESTMapper(nil)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("ConfigMap"), meta.RESTScopeNamespace)
	m := &meter{clock: clock.RealClock{}, cache: cached, live: cached, mapper: mapper, groups: groups{"example.com"}, objects: metadatafake.NewSimpleMetadataClient(metadataScheme,
		partial("v1", "ConfigMap", "shop", "a"), partial("v1", "ConfigMap", "shop", "b"), partial("v1", "ConfigMap", "other", "a"), partial("example.com/v1", "Widget", "shop", "w"),
	)}
	tests := map[string]struct {
		hard   corev1.ResourceList
		scopes []corev1.ResourceQuotaScope
		want   corev1.ResourceList
	}{
		"pods that run, and all there are": {hard: bounds("pods", "9", "count/pods", "9"), want: bounds("pods", "1", "count/pods", "2")},
		"services and claims":              {hard: bounds("services", "9", "services.nodeports", "9", "requests.storage", "9Gi"), want: bounds("services", "1", "services.nodeports", "0", "requests.storage", "3Gi")},
		"objects by their old name":        {hard: bounds("configmaps", "9"), want: bounds("configmaps", "2")},
		"objects by their new name":        {hard: bounds("count/configmaps", "9", "count/widgets.example.com", "9"), want: bounds("count/configmaps", "2", "count/widgets.example.com", "1")},
		"a kind that nobody serves":        {hard: bounds("pods", "9", "count/ghosts.example.org", "9"), want: bounds("pods", "1")},
		"a name that nobody knows":         {hard: bounds("pods", "9", "joy", "9"), want: bounds("pods", "1")},
		"pods of a scope":                  {hard: bounds("pods", "9"), scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating}, want: bounds("pods", "0")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			q := books(tc.hard)
			q.Spec.Scopes = tc.scopes
			got, err := m.measure(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if !quota.Equals(got, tc.want) {
				t.Errorf("used (-want +got):\n%s", cmp.Diff(tc.want, got))
			}
		})
	}
}

type measured corev1.ResourceList

func (m measured) measure(context.Context, *corev1.ResourceQuota) (corev1.ResourceList, error) {
	return corev1.ResourceList(m), nil
}

func TestReconcile(t *testing.T) {
	settled := books(bounds("pods", "5"))
	settled.Status = corev1.ResourceQuotaStatus{Hard: bounds("pods", "5"), Used: bounds("pods", "2")}
	raised := settled.DeepCopy()
	raised.Spec.Hard = bounds("pods", "7")
	tests := map[string]struct {
		quota *corev1.ResourceQuota
		busy  bool
		again time.Duration
	}{
		"a new one is filled in and looked at again": {quota: books(bounds("pods", "5")), again: recheck},
		"a raised one takes effect":                  {quota: raised, again: recheck},
		"a right one is left alone":                  {quota: settled, again: resync},
		"admission wrote first":                      {quota: books(bounds("pods", "5")), busy: true, again: conflict},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(tc.quota).WithStatusSubresource(tc.quota).WithInterceptorFuncs(interceptor.Funcs{
				SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, o client.Object, options ...client.SubResourceUpdateOption) error {
					if tc.busy {
						return apierrors.NewConflict(corev1.Resource("resourcequotas"), "books", errors.New("changed"))
					}
					return c.SubResource(sub).Update(ctx, o, options...)
				},
			}).Build()
			r := &Reconciler{client: c, meter: measured(bounds("pods", "2"))}
			result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(tc.quota)})
			if err != nil || result.RequeueAfter != tc.again {
				t.Fatalf("Reconcile() = %v, %v; want %v", result.RequeueAfter, err, tc.again)
			}
			var got corev1.ResourceQuota
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(tc.quota), &got); err != nil {
				t.Fatal(err)
			}
			if !tc.busy && (!quota.Equals(got.Status.Hard, tc.quota.Spec.Hard) || !quota.Equals(got.Status.Used, bounds("pods", "2"))) {
				t.Errorf("status %v", got.Status)
			}
		})
	}
}

func TestGoneQueuesTheQuotasThatCount(t *testing.T) {
	tests := map[string]struct {
		hard corev1.ResourceList
		kind schema.GroupResource
		in   string
		want int
	}{
		"one that counts the kind":           {hard: bounds("count/deployments.apps", "1"), kind: schema.GroupResource{Group: "apps", Resource: "deployments"}, in: "shop", want: 1},
		"one that counts it by its old name": {hard: bounds("secrets", "1"), kind: corev1.Resource("secrets"), in: "shop", want: 1},
		"one that bounds claims":             {hard: bounds("requests.storage", "1"), kind: corev1.Resource("persistentvolumeclaims"), in: "shop", want: 1},
		"one that counts another kind":       {hard: bounds("configmaps", "1"), kind: corev1.Resource("secrets"), in: "shop"},
		"one of another namespace":           {hard: bounds("secrets", "1"), kind: corev1.Resource("secrets"), in: "other"},
		"an object that is in no namespace":  {hard: bounds("secrets", "1"), kind: corev1.Resource("nodes")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			defer queue.ShutDown()
			c := &Controller{reader: fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(books(tc.hard)).Build()}
			c.Gone(tc.kind, tc.in) // before the controller runs: nobody to tell
			c.queue.Store(&queue)
			c.Gone(tc.kind, tc.in)
			if queue.Len() != tc.want {
				t.Errorf("%d queued, want %d", queue.Len(), tc.want)
			}
		})
	}
}

func TestFreesPassesWhatUsesLess(t *testing.T) {
	p := frees(usage.Pods(time.Now, nil))
	running, ended := &corev1.Pod{}, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	bounded := &corev1.Pod{Spec: corev1.PodSpec{ActiveDeadlineSeconds: ptr.To[int64](5)}}
	tests := map[string]struct{ got, want bool }{
		"a new pod was counted by admission": {got: p.Create(event.CreateEvent{Object: running})},
		"a pod that has ended":               {got: p.Update(event.UpdateEvent{ObjectOld: running, ObjectNew: ended}), want: true},
		"a pod that gets a deadline":         {got: p.Update(event.UpdateEvent{ObjectOld: running, ObjectNew: bounded}), want: true},
		"a pod that goes on":                 {got: p.Update(event.UpdateEvent{ObjectOld: running, ObjectNew: running})},
		"a pod that is gone":                 {got: p.Delete(event.DeleteEvent{Object: running}), want: true},
	}
	for name, tc := range tests {
		if tc.got != tc.want {
			t.Errorf("%s: passed %v, want %v", name, tc.got, tc.want)
		}
	}
}

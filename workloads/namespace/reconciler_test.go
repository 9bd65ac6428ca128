package namespace

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	metadatafake "k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

type found struct {
	lists []*metav1.APIResourceList
	err   error
}

func (f found) ServerPreferredResources() ([]*metav1.APIResourceList, error) { return f.lists, f.err }

var all = []string{"list", "delete", "deletecollection"}

var everything = []*metav1.APIResourceList{
	{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: all},
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: all},
		{Name: "pods/status", Kind: "Pod", Namespaced: true, Verbs: all},
		{Name: "nodes", Kind: "Node", Verbs: all},
		{Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: []string{"create"}},
	}},
	{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{{Name: "deployments", Kind: "Deployment", Namespaced: true, Verbs: []string{"list", "delete"}}}},
}

func item(version, kind, name string, finalizers ...string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: version, Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Finalizers: finalizers, DeletionGracePeriodSeconds: ptr.To[int64](30)},
	}
}

func reconciler(t *testing.T, kinds kinds, objects ...runtime.Object) (*Reconciler, *metadatafake.FakeMetadataClient) {
	scheme := runtime.NewScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	contents := metadatafake.NewSimpleMetadataClient(scheme, objects...)
	return &Reconciler{contents: contents, kinds: kinds}, contents
}

func TestEmptyLeavesEverythingUntilPodsAreGone(t *testing.T) {
	r, contents := reconciler(t, found{lists: everything}, item("v1", "Pod", "web"), item("v1", "ConfigMap", "settings"))
	contents.PrependReactor("delete-collection", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil }) // they take their time
	left := r.empty(t.Context(), "shop")
	if diff := cmp.Diff(map[schema.GroupVersionResource]int{{Version: "v1", Resource: "pods"}: 1}, left.remaining); diff != "" {
		t.Errorf("remaining (-want +got):\n%s", diff)
	}
	if left.again() != 15*time.Second {
		t.Errorf("looks again in %v, want half the grace", left.again())
	}
	for _, action := range contents.Actions() {
		if action.GetResource().Resource != "pods" {
			t.Errorf("touched %s while a pod was left", action.GetResource().Resource)
		}
	}
}

func TestEmptyDeletesOneByOneWhatCannotGoTogether(t *testing.T) {
	r, contents := reconciler(t, found{lists: everything}, item("apps/v1", "Deployment", "a"), item("apps/v1", "Deployment", "b"))
	if left := r.empty(t.Context(), "shop"); !left.nothing() {
		t.Errorf("left %+v, want nothing", left)
	}
	deleted := slices.Collect(func(yield func(string) bool) {
		for _, action := range contents.Actions() {
			if d, ok := action.(clienttesting.DeleteAction); ok && !yield(d.GetName()) {
				return
			}
		}
	})
	if diff := cmp.Diff([]string{"a", "b"}, deleted); diff != "" {
		t.Errorf("deleted (-want +got):\n%s", diff)
	}
}

func TestEmptyIsNotSureWhileAKindIsUnknown(t *testing.T) {
	r, _ := reconciler(t, found{lists: everything, err: errors.New("metrics.example is down")})
	if left := r.empty(t.Context(), "shop"); left.nothing() {
		t.Error("nothing left, though one group did not answer")
	}
}

func TestJudgeStatusWordsWhatIsLeft(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	left := &leftovers{remaining: map[schema.GroupVersionResource]int{}, finalizers: map[string]int{}, undeleted: []error{errors.New("delete pods: refused")},
		unknown: &discovery.ErrGroupDiscoveryFailed{Groups: map[schema.GroupVersion]error{{Group: "metrics.example", Version: "v1"}: errors.New("it is down")}}}
	left.count(schema.GroupVersionResource{Version: "v1", Resource: "pods"}, []metav1.PartialObjectMetadata{*item("v1", "Pod", "a", "example.com/hold"), *item("v1", "Pod", "b")})
	namespace := &corev1.Namespace{}
	namespace.Status = judgeStatus(namespace, left, now)
	got := map[corev1.NamespaceConditionType]string{}
	for _, c := range namespace.Status.Conditions {
		got[c.Type] = string(c.Status) + " " + c.Reason + ": " + c.Message
	}
	want := map[corev1.NamespaceConditionType]string{
		"NamespaceDeletionDiscoveryFailure":           "True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: metrics.example/v1: it is down",
		"NamespaceDeletionGroupVersionParsingFailure": "False ParsedGroupVersions: All legacy kube types successfully parsed",
		"NamespaceDeletionContentFailure":             "True ContentDeletionFailed: Failed to delete all resource types, 1 remaining: delete pods: refused",
		"NamespaceContentRemaining":                   "True SomeResourcesRemain: Some resources are remaining: pods. has 2 resource instances",
		"NamespaceFinalizersRemaining":                "True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
	}
	if diff := cmp.Diff(want, got); diff != "" || namespace.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("phase %s, conditions (-want +got):\n%s", namespace.Status.Phase, diff)
	}
	if diff := cmp.Diff(namespace.Status, judgeStatus(namespace, left, now.Add(time.Hour))); diff != "" {
		t.Errorf("the same leftovers change the status:\n%s", diff)
	}
}

package controllerrevision

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

var selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "log"}}

func daemon() *appsv1.DaemonSet {
	return &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: "log", UID: "ds", Annotations: map[string]string{"kubernetes.io/change-cause": "because", corev1.LastAppliedConfigAnnotation: "{}"},
	}}
}

func template(image string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "log"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "log", Image: image}}},
	}
}

func history(objects ...client.Object) *History {
	c := fake.NewClientBuilder().WithObjects(append(objects, daemon())...).Build()
	return &History{Client: c, Live: c, Kind: appsv1.SchemeGroupVersion.WithKind("DaemonSet"), HashLabel: "hash"}
}

// note does a pass: it lists, and makes the template the newest.
func note(t *testing.T, h *History, image string, collisions *int32) *appsv1.ControllerRevision {
	t.Helper()
	revisions, err := h.Of(t.Context(), daemon(), selector)
	if err != nil {
		t.Fatal(err)
	}
	newest, err := h.Newest(t.Context(), daemon(), template(image), revisions, collisions)
	if err != nil {
		t.Fatal(err)
	}
	return newest
}

func TestNewestNumbersEveryTurn(t *testing.T) {
	h, collisions := history(), int32(0)
	v1, v2 := note(t, h, "v1", &collisions), note(t, h, "v2", &collisions)
	same, back := note(t, h, "v2", &collisions), note(t, h, "v1", &collisions)
	if v1.Revision != 1 || v2.Revision != 2 || same.Name != v2.Name || same.Revision != 2 {
		t.Errorf("revisions %d, %d, then %d; want 1, 2, 2", v1.Revision, v2.Revision, same.Revision)
	}
	if back.Name != v1.Name || back.Revision != 3 {
		t.Errorf("going back makes %s %d, want %s 3", back.Name, back.Revision, v1.Name)
	}
	if v1.Labels["app"] != "log" || v1.Name != "log-"+v1.Labels["hash"] || !metav1.IsControlledBy(v1, daemon()) {
		t.Errorf("revision %+v", v1.ObjectMeta)
	}
	if diff := cmp.Diff(map[string]string{"kubernetes.io/change-cause": "because"}, v1.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	kept, err := Template(v1)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(template("v1"), kept); diff != "" {
		t.Errorf("kept template (-want +got):\n%s", diff)
	}
}

func TestNewestFindsWhatTheCacheDoesNotShowYet(t *testing.T) {
	h, collisions := history(), int32(0)
	v1 := note(t, h, "v1", &collisions)
	again, err := h.Newest(t.Context(), daemon(), template("v1"), nil, &collisions)
	if err != nil || again.Name != v1.Name || collisions != 0 {
		t.Errorf("Newest() = %v, %v with %d collisions; want the revision that is there", again, err, collisions)
	}
}

func TestNewestAvoidsATakenName(t *testing.T) {
	h, collisions := history(), int32(0)
	data, err := Data(template("v1"))
	if err != nil {
		t.Fatal(err)
	}
	taken := h.revision(daemon(), template("v1"), data, 1, 0)
	taken.OwnerReferences, taken.Labels, taken.Data = nil, nil, runtime.RawExtension{Raw: []byte(`{}`)}
	h = history(taken)
	if got := note(t, h, "v1", &collisions); got.Name == taken.Name || collisions != 1 {
		t.Errorf("revision %s with %d collisions; want another name and 1", got.Name, collisions)
	}
}

func TestNewestWaitsForTheRevisionsOfANamesake(t *testing.T) {
	h, collisions := history(), int32(0)
	data, err := Data(template("v1"))
	if err != nil {
		t.Fatal(err)
	}
	before := h.revision(daemon(), template("v1"), data, 1, 0)
	before.OwnerReferences[0].UID = "ds-before"
	h = history(before)
	if _, err := h.Newest(t.Context(), daemon(), template("v1"), nil, &collisions); err == nil || collisions != 0 {
		t.Errorf("Newest() = %v with %d collisions; want to come back when it is gone", err, collisions)
	}
}

func TestSurplus(t *testing.T) {
	var all []*appsv1.ControllerRevision
	for _, name := range []string{"a", "b", "c", "d"} {
		all = append(all, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	tests := map[string]struct {
		limit int32
		used  string
		want  string
	}{
		"room for all":                              {limit: 4},
		"the oldest go":                             {limit: 2, want: "ab"},
		"what is in use stays and takes no room":    {limit: 2, used: "ad"},
		"a limit of none keeps what is in use only": {limit: 0, used: "d", want: "abc"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got string
			for _, r := range Surplus(all, tc.limit, func(r *appsv1.ControllerRevision) bool { return strings.Contains(tc.used, r.Name) }) {
				got += r.Name
			}
			if got != tc.want {
				t.Errorf("Surplus() = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestDataIsWhatKubectlCompares(t *testing.T) {
	got, err := Data(template("v1"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"app":"log"}},"spec":{"containers":[{"image":"v1","name":"log","resources":{}}]}}}}`
	if !bytes.Equal(got, []byte(want)) {
		t.Errorf("Data() = %s\nwant %s", got, want)
	}
}

func TestNamesFitALabel(t *testing.T) {
	owner := daemon()
	owner.Name = strings.Repeat("a", 51) + "-and-more-than-fits"
	got := history().revision(owner, template("v1"), []byte("x"), 1, 0)
	if len(got.Name) > 63 || strings.Contains(got.Name, "--") {
		t.Errorf("name %q", got.Name)
	}
}

package answers

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/appliance/apiserver/scheme"
)

func jsonOf(t *testing.T, from runtime.NegotiatedSerializer) runtime.Serializer {
	t.Helper()
	info, ok := runtime.SerializerInfoForMediaType(from.SupportedMediaTypes(), runtime.ContentTypeJSON)
	if !ok {
		t.Fatal("there is no JSON")
	}
	return info.Serializer
}

func encoded(t *testing.T, by runtime.Encoder, obj runtime.Object) string {
	t.Helper()
	var out bytes.Buffer
	if err := by.Encode(obj, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestEveryListIsTheLibrarys compares what is written of lists of every kind, the first time and from what was kept.
func TestEveryListIsTheLibrarys(t *testing.T) {
	library, ours := jsonOf(t, scheme.Codecs), jsonOf(t, NewSerializer(scheme.Codecs))
	lists := 0
	for gvk := range scheme.Scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || !strings.HasSuffix(gvk.Kind, "List") {
			continue
		}
		list, err := scheme.Scheme.New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		items := itemsOf(list)
		if !items.IsValid() {
			continue
		}
		lists++
		t.Run(gvk.String(), func(t *testing.T) {
			list.GetObjectKind().SetGroupVersionKind(gvk)
			for _, length := range []int{0, 1, together, together + 1} {
				items.Set(reflect.MakeSlice(items.Type(), length, length))
				for i := range length {
					item := items.Index(i).Addr().Interface().(metav1.Object)
					item.SetName(fmt.Sprintf("<%d>", i))
					item.SetUID(types.UID(fmt.Sprint(gvk, i)))
					item.SetResourceVersion(fmt.Sprint(i))
				}
				want := encoded(t, library, list)
				for _, when := range []string{"at first", "from what was kept"} {
					if diff := cmp.Diff(want, encoded(t, ours, list)); diff != "" {
						t.Errorf("%d items, %s (-library +ours):\n%s", length, when, diff)
					}
				}
			}
		})
	}
	if lists < 50 {
		t.Errorf("%d lists were compared; there are more kinds", lists)
	}
}

func TestWhatIsKept(t *testing.T) {
	stored := func(name, uid, version string) corev1.ConfigMap {
		return corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(uid), ResourceVersion: version}}
	}
	named := stored("a", "1", "1")
	named.Kind, named.APIVersion = "ConfigMap", "v1"
	tests := map[string]struct {
		first, then runtime.Object
		kept        bool // the second list shows what the first one's object was
	}{
		"an object of the same version is the same":              {first: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("a", "1", "1")}}, then: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("b", "1", "1")}}, kept: true},
		"another version is another":                             {first: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("a", "1", "1")}}, then: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("b", "1", "2")}}},
		"an object that was made again is another":               {first: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("a", "1", "1")}}, then: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("b", "2", "1")}}},
		"what has no version is not kept":                        {first: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("a", "1", "")}}, then: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("b", "1", "")}}},
		"what was never stored is not kept":                      {first: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("a", "", "1")}}, then: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("b", "", "1")}}},
		"what names its kind was made for one answer":            {first: &corev1.ConfigMapList{Items: []corev1.ConfigMap{named}}, then: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("b", "1", "1")}}},
		"the same object as something else is not the same text": {first: &corev1.ConfigMapList{Items: []corev1.ConfigMap{stored("a", "1", "1")}}, then: &corev1.SecretList{Items: []corev1.Secret{{ObjectMeta: stored("b", "1", "1").ObjectMeta}}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ours := jsonOf(t, NewSerializer(scheme.Codecs))
			encoded(t, ours, tc.first)
			want := `"name":"b"`
			if tc.kept {
				want = `"name":"a"`
			}
			if got := encoded(t, ours, tc.then); !strings.Contains(got, want) {
				t.Errorf("the second list is %s, want %s in it", got, want)
			}
		})
	}
}

func TestWhatIsKeptIsBoundedAndForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pieces{}
		size := func() (sum int) {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, g := range []map[key][]byte{p.young, p.old} {
				for _, text := range g {
					sum += len(text)
				}
			}
			return sum
		}
		found := func(uid types.UID) bool {
			texts := make([][]byte, 1)
			p.find([]key{{uid: uid}}, texts)
			return texts[0] != nil
		}
		text := make([]byte, generation/100)
		for i := range 1000 {
			p.keep(map[key][]byte{{uid: types.UID(fmt.Sprint(i))}: text})
			if !found("0") && i < 150 {
				t.Fatalf("what is used is forgotten after %d others", i)
			}
		}
		if got := size(); got > 2*generation {
			t.Errorf("%d bytes are kept, more than two generations", got)
		}
		if !found("999") {
			t.Error("the last one is not kept")
		}
		time.Sleep(lifetime + lifetime/2)
		if !found("999") {
			t.Error("it is forgotten before its time")
		}
		time.Sleep(lifetime)
		if !found("999") {
			t.Error("what was used meanwhile is forgotten")
		}
		time.Sleep(3 * lifetime)
		if got := size(); got != 0 || p.aging {
			t.Errorf("%d bytes are kept that nobody uses", got)
		}
		p.keep(map[key][]byte{{uid: "late"}: text})
		time.Sleep(3 * lifetime)
		if got := size(); got != 0 {
			t.Errorf("%d bytes are kept of what came later", got)
		}
	})
}

// TestALongListIsNotKeptWhole: it would push out everything else, and its own beginning.
func TestALongListIsNotKeptWhole(t *testing.T) {
	list := &corev1.ConfigMapList{Items: make([]corev1.ConfigMap, 40)}
	for i := range list.Items {
		list.Items[i] = corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(i)), ResourceVersion: "1"}, Data: map[string]string{"a": strings.Repeat("x", 1<<20)}}
	}
	ours := jsonOf(t, NewSerializer(scheme.Codecs)).(*lists)
	for range 2 {
		encoded(t, ours, list)
		if n := len(ours.kept.young) + len(ours.kept.old); n == 0 || n > generation>>20 {
			t.Errorf("%d of its objects are kept", n)
		}
	}
}

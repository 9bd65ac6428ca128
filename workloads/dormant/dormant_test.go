package dormant

import (
	"log/slog"
	"testing"
	"testing/synctest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestSleepersWakeOnce(t *testing.T) {
	secrets, claims := schema.GroupResource{Resource: "secrets"}, schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}
	templates := schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaimtemplates"}
	type seen struct {
		resource schema.GroupResource
		name     string
	}
	tests := map[string]struct {
		seen []seen
		want map[string]int
	}{
		"nothing wakes nobody":                   {},
		"an object of another kind wakes nobody": {seen: []seen{{schema.GroupResource{Resource: "pods"}, "a"}}},
		"one that does not concern it neither":   {seen: []seen{{secrets, "other"}}},
		"one that does, does":                    {seen: []seen{{secrets, "other"}, {secrets, "mine"}}, want: map[string]int{"tokens": 1}},
		"and once only":                          {seen: []seen{{secrets, "mine"}, {secrets, "mine"}}, want: map[string]int{"tokens": 1}},
		"either of two kinds is enough":          {seen: []seen{{templates, "x"}, {claims, "y"}, {templates, "z"}}, want: map[string]int{"claims": 1}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				started := make(chan string, 10)
				start := func(name string) func() error {
					return func() error { started <- name; return nil }
				}
				w := New(slog.New(slog.DiscardHandler))
				w.Add(&Sleeper{Name: "tokens", Resources: []schema.GroupResource{secrets}, Start: start("tokens"), Concerns: func(o metav1.Object) bool { return o.GetName() == "mine" }})
				w.Add(&Sleeper{Name: "claims", Resources: []schema.GroupResource{claims, templates}, Start: start("claims")})
				for _, s := range tc.seen {
					w.Seen(s.resource, &metav1.ObjectMeta{Name: s.name})
				}
				synctest.Wait()
				close(started)
				got := map[string]int{}
				for name := range started {
					got[name]++
				}
				for _, name := range []string{"tokens", "claims"} {
					if got[name] != tc.want[name] {
						t.Errorf("%s started %d times, want %d", name, got[name], tc.want[name])
					}
				}
			})
		})
	}
}

package expectations

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestWrittenBehind(t *testing.T) {
	at := func(version string) metav1.Object { return &metav1.ObjectMeta{UID: "d", ResourceVersion: version} }
	tests := map[string]struct {
		act    func(*Written)
		shown  string
		behind bool
	}{
		"what nobody wrote is never behind":       {act: func(*Written) {}, shown: "1"},
		"an older version than written is behind": {act: func(w *Written) { w.Note(at("10")) }, shown: "9", behind: true},
		"the written version is not":              {act: func(w *Written) { w.Note(at("10")) }, shown: "10"},
		"nor is a newer one":                      {act: func(w *Written) { w.Note(at("10")) }, shown: "11"},
		"the last write counts":                   {act: func(w *Written) { w.Note(at("10")); w.Note(at("12")) }, shown: "11", behind: true},
		"a forgotten object starts anew":          {act: func(w *Written) { w.Note(at("10")); w.Forget("d") }, shown: "9"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var w Written
			tc.act(&w)
			if behind := w.Behind(at(tc.shown)); behind != tc.behind {
				t.Errorf("Behind() = %v, want %v", behind, tc.behind)
			}
			if !tc.behind && len(w.versions) != 0 {
				t.Errorf("%v is remembered of an object the cache shows as written", w.versions)
			}
		})
	}
}

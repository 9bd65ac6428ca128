package expectations

import (
	"slices"
	"testing"
)

func TestBehind(t *testing.T) {
	tests := map[string]struct {
		act    func(*Versions)
		shown  map[string]string
		behind bool
		ask    []string
	}{
		"what nobody wrote is never behind":       {act: func(*Versions) {}, shown: map[string]string{"a": "1"}},
		"an older version than written is behind": {act: func(v *Versions) { v.Wrote("d", "a", "10") }, shown: map[string]string{"a": "9"}, behind: true},
		"the written version is not":              {act: func(v *Versions) { v.Wrote("d", "a", "10") }, shown: map[string]string{"a": "10"}},
		"nor is a newer one":                      {act: func(v *Versions) { v.Wrote("d", "a", "10") }, shown: map[string]string{"a": "11"}},
		"one that is not shown wants a question":  {act: func(v *Versions) { v.Wrote("d", "a", "10") }, ask: []string{"a"}},
		"and so does a write without an answer":   {act: func(v *Versions) { v.Doubt("d", "a") }, shown: map[string]string{"a": "9"}, ask: []string{"a"}},
		"a dropped one does not matter":           {act: func(v *Versions) { v.Wrote("d", "a", "10"); v.Dropped("d", "a") }},
		"nor do those of another owner":           {act: func(v *Versions) { v.Wrote("e", "a", "10") }, shown: map[string]string{"a": "9"}},
		"a forgotten owner starts anew":           {act: func(v *Versions) { v.Wrote("d", "a", "10"); v.Forget("d") }, shown: map[string]string{"a": "9"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var v Versions
			tc.act(&v)
			if behind, ask := v.Behind("d", tc.shown); behind != tc.behind || !slices.Equal(ask, tc.ask) {
				t.Errorf("Behind() = %v, %v; want %v, %v", behind, ask, tc.behind, tc.ask)
			}
		})
	}
}

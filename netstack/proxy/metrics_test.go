package proxy

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestCauses(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	slice := func(text string) *discoveryv1.EndpointSlice {
		s := sliceOf()
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: text}
		return s
	}
	const earlier, later, latest = "2026-01-02T03:04:04Z", "2026-01-02T03:04:06.5Z", "2026-01-02T03:04:07Z"
	at := func(text string) time.Time {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	key := types.NamespacedName{Name: "web"}
	for name, c := range map[string]struct {
		before time.Time // of the plan there was
		slices []*discoveryv1.EndpointSlice
		want   []time.Time
	}{
		"the latest change of all slices":           {slices: []*discoveryv1.EndpointSlice{slice(later), slice(latest), slice(later)}, want: []time.Time{at(latest)}},
		"one that was counted":                      {before: at(latest), slices: []*discoveryv1.EndpointSlice{slice(latest)}},
		"one from before this process":              {slices: []*discoveryv1.EndpointSlice{slice(earlier)}},
		"slices that nobody noted anything on":      {slices: []*discoveryv1.EndpointSlice{sliceOf()}},
		"slices that somebody wrote something else": {slices: []*discoveryv1.EndpointSlice{slice("yesterday")}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &Proxy{began: began, wanted: newTable()}
			p.wanted.plans[key] = Plan{Caused: c.before}
			if got := p.causes(map[types.NamespacedName]Plan{key: {Caused: caused(c.slices)}}); !slices.EqualFunc(got, c.want, time.Time.Equal) {
				t.Errorf("causes() = %v; want %v", got, c.want)
			}
		})
	}
}

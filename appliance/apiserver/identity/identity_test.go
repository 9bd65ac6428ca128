package identity

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func lease(name, version string, seconds int32, renewed time.Time) coordinationv1.Lease {
	return coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, ResourceVersion: version, Labels: map[string]string{label: kind}},
		Spec:       coordinationv1.LeaseSpec{LeaseDurationSeconds: &seconds, RenewTime: ptr.To(metav1.NewMicroTime(renewed))},
	}
}

func TestGone(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	year := 365 * 24 * time.Hour
	tests := map[string]struct {
		lease coordinationv1.Lease
		seen  map[string]sighting
		want  []string
	}{
		"one that stood still for its duration is gone":  {lease("b", "7", 3600, now), map[string]sighting{"b": {"7", now.Add(-time.Hour)}}, []string{"b"}},
		"one that stood still for less stays":            {lease("b", "7", 3600, now), map[string]sighting{"b": {"7", now.Add(-time.Minute)}}, nil},
		"one that was renewed stays":                     {lease("b", "8", 3600, now), map[string]sighting{"b": {"7", now.Add(-time.Hour)}}, nil},
		"one never seen before stays, whatever its time": {lease("b", "7", 3600, now.Add(-year)), map[string]sighting{}, nil},
		"one from the future is gone all the same":       {lease("b", "7", 3600, now.Add(year)), map[string]sighting{"b": {"7", now.Add(-time.Hour)}}, []string{"b"}},
		"our own is ours":                                {lease("a", "7", 3600, now), map[string]sighting{"a": {"7", now.Add(-time.Hour)}}, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, l := range gone([]coordinationv1.Lease{tc.lease}, tc.seen, "a", now) {
				got = append(got, l.Name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("gone() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKeeperShowsItsServerAndTidiesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dead := lease("apiserver-dead", "1", 3600, time.Now())
		other := lease("someone", "1", 3600, time.Now())
		other.Labels = nil
		client := fake.NewClientset(&dead, &other)
		go func() { _ = New(client.CoordinationV1(), "apiserver-me").Run(t.Context()) }()
		names := func() []string {
			synctest.Wait()
			all, err := client.CoordinationV1().Leases("kube-system").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var out []string
			for _, l := range all.Items {
				out = append(out, l.Name)
			}
			return out
		}
		time.Sleep(first)
		if diff := cmp.Diff([]string{"apiserver-dead", "apiserver-me", "someone"}, names()); diff != "" {
			t.Errorf("leases at first (-want +got):\n%s", diff)
		}
		time.Sleep(lasts + every)
		if diff := cmp.Diff([]string{"apiserver-me", "someone"}, names()); diff != "" {
			t.Errorf("leases after an hour (-want +got):\n%s", diff)
		}
		mine, err := client.CoordinationV1().Leases("kube-system").Get(t.Context(), "apiserver-me", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if age := time.Since(mine.Spec.RenewTime.Time); age > every {
			t.Errorf("our lease was renewed %s ago", age)
		}
	})
}

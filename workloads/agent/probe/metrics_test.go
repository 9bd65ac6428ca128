package probe

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// counts are the samples there are, as "name labels value"; of a histogram, how many it has.
func (s *scene) counts(t *testing.T) []string {
	t.Helper()
	families, err := s.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(labels)
			value := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			out = append(out, fmt.Sprintf("%s %s %v", family.GetName(), strings.Join(labels, " "), value))
		}
	}
	return out
}

// Time is synctest's in these tests: a sleep is how long something lasts in the story, and no wait of the test.
func TestAttemptsAreCountedUntilTheirPodEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.answer["ready"] = failsUntil(5 * time.Second)
		s.answer["live"] = func(at time.Duration) answer { return answer{outcome: unknown} }
		pod := podOf(corev1.Container{ReadinessProbe: runs("ready", 10), LivenessProbe: runs("live", 30)})
		pod.Namespace, pod.Name = "shop", "web"
		s.Start(pod, "c", "id1", "10.0.0.1")
		time.Sleep(25 * time.Second)
		synctest.Wait()
		want := []string{
			"prober_probe_duration_seconds container=c namespace=shop pod=web probe_type=Liveness 1",
			"prober_probe_duration_seconds container=c namespace=shop pod=web probe_type=Readiness 3", // one of them out of turn
			"prober_probe_total container=c namespace=shop pod=web pod_uid=u probe_type=Liveness result=unknown 1",
			"prober_probe_total container=c namespace=shop pod=web pod_uid=u probe_type=Readiness result=failed 1", // those out of turn do not count
			"prober_probe_total container=c namespace=shop pod=web pod_uid=u probe_type=Readiness result=successful 3",
		}
		if diff := cmp.Diff(want, s.counts(t)); diff != "" {
			t.Errorf("counts (-want +got):\n%s", diff)
		}
		s.Stop("u", "c") // its container is restarted: the pod's counts go on
		s.Start(pod, "c", "id2", "10.0.0.1")
		time.Sleep(time.Second)
		synctest.Wait()
		want[1], want[4] = strings.Replace(want[1], " 3", " 4", 1), strings.Replace(want[4], " 3", " 4", 1)
		want[0], want[2] = strings.Replace(want[0], " 1", " 2", 1), strings.Replace(want[2], "unknown 1", "unknown 2", 1)
		if diff := cmp.Diff(want, s.counts(t)); diff != "" {
			t.Errorf("counts after a restart (-want +got):\n%s", diff)
		}
		s.Stop("u", "")
		if left := s.counts(t); len(left) > 0 {
			t.Errorf("counts of a pod that ended: %q", left)
		}
	})
}

func TestAnAttemptThatOutlivesItsPodLeavesNoCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.answer["live"] = func(time.Duration) answer {
			time.Sleep(time.Second)
			return answer{outcome: success}
		}
		s.ask = func(_ context.Context, t target) answer { return s.answer[t.exec[0]](0) }
		s.Start(podOf(corev1.Container{LivenessProbe: runs("live", 10)}), "c", "id1", "10.0.0.1")
		synctest.Wait()
		s.Stop("u", "")
		time.Sleep(time.Minute)
		synctest.Wait()
		if left := s.counts(t); len(left) > 0 {
			t.Errorf("counts of a pod that ended: %q", left)
		}
	})
}

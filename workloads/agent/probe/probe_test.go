package probe

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/health"
)

// scene is a prober whose containers answer from a script, on a clock of its own.
type scene struct {
	*Prober
	began  time.Time
	mu     sync.Mutex                               // probes ask side by side
	answer map[string]func(at time.Duration) answer // by what the probe executes
	asked  map[string][]time.Duration
	events []string
}

func newScene() *scene {
	s := &scene{began: time.Now(), answer: map[string]func(time.Duration) answer{}, asked: map[string][]time.Duration{}}
	s.Prober = New(Config{Events: s})
	s.Prober.ask = func(_ context.Context, t target) answer {
		at := time.Since(s.began)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked[t.exec[0]] = append(s.asked[t.exec[0]], at)
		return s.answer[t.exec[0]](at)
	}
	return s
}

func (s *scene) Event(about runtime.Object, _, reason, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, reason+" "+about.(*corev1.ObjectReference).FieldPath+": "+message)
}

func (s *scene) heard() []string {
	var out []string
	for {
		select {
		case r := <-s.Results():
			out = append(out, fmt.Sprintf("%s %s %v", r.Container, r.Probe, r.Healthy))
		default:
			return out
		}
	}
}

func failsUntil(from time.Duration) func(time.Duration) answer {
	return func(at time.Duration) answer {
		if at < from {
			return answer{outcome: failure, message: "not yet"}
		}
		return answer{outcome: success}
	}
}

func failsFrom(from time.Duration) func(time.Duration) answer {
	return func(at time.Duration) answer {
		if at >= from {
			return answer{outcome: failure, message: "broken"}
		}
		return answer{outcome: success}
	}
}

func runs(name string, period int32) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{name}}}, PeriodSeconds: period, FailureThreshold: 3}
}

func podOf(container corev1.Container) *corev1.Pod {
	container.Name = "c"
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{container}}}
}

func TestReadinessFollowsTheContainerByMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.answer["ready"] = failsUntil(450 * time.Millisecond)
		s.Start(podOf(corev1.Container{ReadinessProbe: runs("ready", 10)}), "c", "id1", "10.0.0.1")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"c readiness true"}, s.heard()); diff != "" {
			t.Errorf("results:\n%s", diff)
		}
		if diff := cmp.Diff([]string{"Unhealthy spec.containers{c}: Readiness probe failed: not yet"}, s.events); diff != "" {
			t.Errorf("events; only attempts in their turn count:\n%s", diff)
		}
		time.Sleep(29 * time.Second)
		synctest.Wait()
		want := []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond, 10 * time.Second, 20 * time.Second, 30 * time.Second}
		if diff := cmp.Diff(want, s.asked["ready"]); diff != "" {
			t.Errorf("asked at:\n%s", diff)
		}
		s.Stop("u", "")
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(s.asked["ready"]) != len(want) {
			t.Errorf("asked after Stop: %v", s.asked["ready"])
		}
	})
}

func TestStartupComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.answer["up"] = failsUntil(15 * time.Second)
		s.answer["live"], s.answer["ready"] = failsFrom(50*time.Second), failsFrom(time.Hour)
		startup := runs("up", 10)
		startup.InitialDelaySeconds = 2
		s.Start(podOf(corev1.Container{StartupProbe: startup, LivenessProbe: runs("live", 10), ReadinessProbe: runs("ready", 10)}), "c", "id1", "")
		time.Sleep(21 * time.Second)
		synctest.Wait()
		if len(s.asked["live"]) != 0 || len(s.asked["ready"]) != 0 || len(s.heard()) != 0 {
			t.Errorf("something happened before the container started: %v", s.asked)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"c startup true", "c readiness true"}, s.heard()); diff != "" {
			t.Errorf("results:\n%s", diff)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"c liveness false"}, s.heard()); diff != "" {
			t.Errorf("results:\n%s", diff)
		}
		want := []time.Duration{22 * time.Second, 32 * time.Second, 42 * time.Second, 52 * time.Second, 62 * time.Second, 72 * time.Second}
		if diff := cmp.Diff(want, s.asked["live"]); diff != "" {
			t.Errorf("liveness was asked at (its verdict ends it):\n%s", diff)
		}
		s.Stop("u", "c")
	})
}

func TestAStartupThatNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.answer["up"] = failsFrom(0)
		s.Start(podOf(corev1.Container{StartupProbe: runs("up", 1)}), "c", "id1", "")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"c startup false"}, s.heard()); diff != "" {
			t.Errorf("results:\n%s", diff)
		}
		s.answer["up"] = failsUntil(0)
		s.Start(podOf(corev1.Container{StartupProbe: runs("up", 1)}), "c", "id2", "") // restarted
		synctest.Wait()
		if diff := cmp.Diff([]string{"c startup true"}, s.heard()); diff != "" {
			t.Errorf("results after the restart:\n%s", diff)
		}
		s.Stop("u", "c")
	})
}

func TestOurOwnRestartTakesNothingOutOfService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.answer["up"], s.answer["ready"] = failsUntil(0), failsFrom(0)
		pod := podOf(corev1.Container{StartupProbe: runs("up", 10), ReadinessProbe: runs("ready", 10)})
		yes := true
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "containerd://id1", Ready: true, Started: &yes}}
		s.Start(pod, "c", "id1", "")
		s.Start(pod, "c", "id1", "") // the same run: nothing begins twice
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]string{"c startup true", "c readiness true", "c readiness false"}, s.heard()); diff != "" {
			t.Errorf("results:\n%s", diff)
		}
		if diff := cmp.Diff([]time.Duration{0, 10 * time.Second, 20 * time.Second}, s.asked["ready"]); diff != "" || s.asked["up"] != nil {
			t.Errorf("asked %v, startup %v", s.asked["ready"], s.asked["up"])
		}
		s.Stop("u", "")
	})
}

func TestManyVerdictsWaitForASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScene()
		s.answer["ready"] = failsUntil(0)
		const pods = 100 // more than the channel holds
		for i := range pods {
			pod := podOf(corev1.Container{ReadinessProbe: runs("ready", 10)})
			pod.UID = uid(i)
			s.Start(pod, "c", "id", "")
		}
		seen := map[string]bool{}
		for range pods {
			r := <-s.Results()
			seen[string(r.PodUID)] = r.Healthy && r.Probe == health.Readiness
		}
		if len(seen) != pods {
			t.Errorf("heard of %d pods, want %d", len(seen), pods)
		}
		for i := range pods {
			s.Stop(uid(i), "")
		}
	})
}

func uid(i int) types.UID { return types.UID(fmt.Sprintf("u%d", i)) }

package settings

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/shutdown"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func TestParse(t *testing.T) {
	with := func(change func(*Settings)) Settings {
		s := usual()
		change(&s)
		return s
	}
	tests := map[string]struct {
		text string
		want Settings
		err  string // part of it
	}{
		"a file that says nothing changes nothing": {text: head, want: with(func(s *Settings) { s.Reserved = corev1.ResourceList{} })},
		"both reservations add up": {
			text: head + "kubeReserved: {cpu: 100m, memory: 256Mi}\nsystemReserved: {cpu: 400m, pid: '1000'}\nmaxPods: 250\n",
			want: with(func(s *Settings) {
				s.MaxPods = 250
				s.Reserved = corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("256Mi"), "pid": resource.MustParse("1000")}
			}),
		},
		"evictionHard stands for itself": {
			text: head + "evictionHard: {memory.available: 1Gi}\nstaticPodPath: /etc/knarr/pods\nallowedUnsafeSysctls: ['net.core.*']\n",
			want: with(func(s *Settings) {
				s.Reserved = corev1.ResourceList{}
				s.Eviction = pressure.Thresholds{pressure.MemoryAvailable: {Bytes: 1 << 30}}
				s.StaticPods, s.UnsafeSysctls = "/etc/knarr/pods", []string{"net.core.*"}
			}),
		},
		"critical pods get the end of the time there is": {
			text: head + "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n",
			want: with(func(s *Settings) {
				s.Reserved = corev1.ResourceList{}
				s.Shutdown = []shutdown.Step{{Priority: 0, Grace: 20 * time.Second}, {Priority: 2000000000, Grace: 10 * time.Second}}
			}),
		},
		"each priority has its own": {
			text: head + "shutdownGracePeriodByPodPriority: [{priority: 100, shutdownGracePeriodSeconds: 5}]\n",
			want: with(func(s *Settings) {
				s.Reserved, s.Shutdown = corev1.ResourceList{}, []shutdown.Step{{Priority: 100, Grace: 5 * time.Second}}
			}),
		},
		"more for critical pods than for all": {text: head + "shutdownGracePeriod: 5s\nshutdownGracePeriodCriticalPods: 10s\n", err: "critical ones cannot have 10s"},
		"two ways to say it":                  {text: head + "shutdownGracePeriod: 5s\nshutdownGracePeriodByPodPriority: [{priority: 1, shutdownGracePeriodSeconds: 5}]\n", err: "remove these two"},
		"swap by request": {
			text: head + "memorySwap: {swapBehavior: LimitedSwap}\n",
			want: with(func(s *Settings) { s.Reserved, s.LimitedSwap = corev1.ResourceList{}, true }),
		},
		"swap without bounds": {text: head + "memorySwap: {swapBehavior: UnlimitedSwap}\n", err: `"UnlimitedSwap" is not known`},
		"a priority twice":    {text: head + "shutdownGracePeriodByPodPriority: [{priority: 1}, {priority: 1}]\n", err: "priority 1 twice"},
		"a pod's processes are bounded": {
			text: head + "podPidsLimit: 4096\n",
			want: with(func(s *Settings) { s.Reserved, s.PodPids = corev1.ResourceList{}, 4096 }),
		},
		"none is no bound, which is not what a file without a word means": {
			text: head + "podPidsLimit: 0\n",
			want: with(func(s *Settings) { s.Reserved, s.PodPids = corev1.ResourceList{}, -1 }),
		},
		"less than none":               {text: head + "podPidsLimit: -2\n", err: "podPidsLimit: -2 is less than -1"},
		"another kind":                 {text: "apiVersion: v1\nkind: Pod\n", err: "it is v1 Pod: begin it with apiVersion: kubelet.config.k8s.io/v1beta1"},
		"a field that does not exist":  {text: head + "maxPod: 3\n", err: `unknown field "maxPod"`},
		"a field nobody here heeds":    {text: head + "hairpinMode: none\n", err: "hairpinMode is not heeded here: remove it"},
		"a folder relative to what":    {text: head + "staticPodPath: pods\n", err: `staticPodPath: "pods" is not absolute`},
		"a reservation of what is not": {text: head + "kubeReserved: {gpu: '1'}\n", err: `"gpu" cannot be reserved`},
		"a reservation below nothing":  {text: head + "kubeReserved: {cpu: '-1'}\n", err: `cpu: "-1" is not an amount`},
		"a bad threshold":              {text: head + "evictionHard: {memory.available: x}\n", err: "evictionHard: memory.available"},
		"every mistake is reported":    {text: head + "maxPods: -1\nhairpinMode: none\n", err: "maxPods: -1 is less than 0"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("Parse() = %v, want an error with %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("Parse() = %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestAllocatable(t *testing.T) {
	s := usual()
	s.Reserved = corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("1Gi"), "ephemeral-storage": resource.MustParse("1Ti")}
	got := s.Allocatable(corev1.ResourceList{
		"cpu": resource.MustParse("2"), "memory": resource.MustParse("4Gi"), "ephemeral-storage": resource.MustParse("100Gi"), "pods": resource.MustParse("110"),
	})
	want := map[corev1.ResourceName]int64{"cpu": 1500, "memory": (4<<30 - 1<<30 - 100<<20) * 1000, "ephemeral-storage": 0, "pods": 110000}
	for name, milli := range want {
		if q := got[name]; q.MilliValue() != milli {
			t.Errorf("Allocatable()[%s] = %s, want %d thousandths", name, q.String(), milli)
		}
	}
}

package pressure

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestShort(t *testing.T) {
	plenty := func() Reading {
		disk := Disk{Bytes: Room{1000, 500}, Inodes: Room{1000, 500}}
		return Reading{Memory: Room{4 << 30, 1 << 30}, Node: disk, Images: disk, Shared: true, Processes: Room{1000, 500}}
	}
	tests := map[string]struct {
		change func(*Reading)
		want   []Signal
	}{
		"plenty of everything":                  {change: func(*Reading) {}},
		"little memory":                         {change: func(r *Reading) { r.Memory.Available = 99 << 20 }, want: []Signal{MemoryAvailable}},
		"a disk with room for pods, not images": {change: func(r *Reading) { r.Node.Bytes.Available, r.Images.Bytes.Available = 140, 140 }, want: []Signal{ImagesAvailable}},
		"a full disk":                           {change: func(r *Reading) { r.Node.Bytes.Available = 99 }, want: []Signal{NodeAvailable}},
		"a disk out of inodes":                  {change: func(r *Reading) { r.Node.Inodes.Available = 49 }, want: []Signal{NodeInodesFree}},
		"a disk without inodes (btrfs)":         {change: func(r *Reading) { r.Node.Inodes = Room{} }},
		"nearly out of process ids":             {change: func(r *Reading) { r.Processes.Available = 9 }, want: []Signal{ProcessesAvailable}},
		"memory comes before disks":             {change: func(r *Reading) { r.Node.Bytes.Available, r.Memory.Available = 1, 1 }, want: []Signal{MemoryAvailable, NodeAvailable}},
		"a machine that tells nothing":          {change: func(r *Reading) { *r = Reading{} }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := plenty()
			tc.change(&r)
			var got []Signal
			for _, s := range Usual().Short(r) {
				got = append(got, s.Signal)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("Short() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseThresholds(t *testing.T) {
	tests := map[string]struct {
		text  map[string]string
		merge bool
		want  Thresholds
		err   string
	}{
		"what is named alone has a threshold": {text: map[string]string{"memory.available": "200Mi", "nodefs.available": "7.5%"}, want: Thresholds{
			MemoryAvailable: {Bytes: 200 << 20}, NodeAvailable: {Percent: 7.5},
		}},
		"merged, the others have their usual ones": {text: map[string]string{"pid.available": "1000", "imagefs.available": "0%"}, merge: true, want: Thresholds{
			MemoryAvailable: {Bytes: 100 << 20}, NodeAvailable: {Percent: 10}, NodeInodesFree: {Percent: 5},
			ImagesAvailable: {}, ImagesInodesFree: {Percent: 5}, ProcessesAvailable: {Bytes: 1000},
		}},
		"a signal nobody watches":      {text: map[string]string{"containerfs.available": "1%"}, err: `"containerfs.available" is not a signal`},
		"more than all":                {text: map[string]string{"memory.available": "100%"}, err: `"100%" is not a share`},
		"neither amount nor share":     {text: map[string]string{"memory.available": "much"}, err: "neither an amount"},
		"less than nothing":            {text: map[string]string{"memory.available": "-1"}, err: "neither an amount"},
		"every mistake is reported":    {text: map[string]string{"memory.available": "x", "nodefs.available": "y"}, err: "nodefs.available"},
		"a share that is not a number": {text: map[string]string{"memory.available": "NaN%"}, err: "is not a share"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseThresholds(tc.text, tc.merge)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("ParseThresholds() = %v, want an error with %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("ParseThresholds() = %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestConditionsHoldForAWhile(t *testing.T) {
	gauge := NewGauge("/", in("/"), Usual())
	full := []Shortage{{Signal: NodeAvailable}}
	for _, step := range []struct {
		after   time.Duration
		short   []Shortage
		disk    bool
		changed bool
	}{
		{0, nil, false, false}, {time.Minute, full, true, true}, {2 * time.Minute, nil, true, false},
		{5 * time.Minute, nil, true, false}, {7 * time.Minute, nil, false, true},
	} {
		changed := gauge.note(now.Add(step.after), step.short)
		if got := gauge.Conditions(); got.Disk != step.disk || got.Memory || changed != step.changed {
			t.Errorf("after %s: %+v, changed %v; want disk %v, changed %v", step.after, got, changed, step.disk, step.changed)
		}
	}
}

func TestThisMachineIsRead(t *testing.T) {
	dir := t.TempDir()
	r := NewGauge(dir, in(dir), Usual()).Read()
	if r.Memory.Total == 0 || r.Memory.Available == 0 || r.Node.Bytes.Total == 0 || r.Processes.Total == 0 || !r.Shared {
		t.Errorf("Read() = %+v", r)
	}
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func asks(name corev1.ResourceName, amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{name: resource.MustParse(amount)}
	}
}

func limits(amount string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(amount)}
	}
}

func scratch(limit string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		v := &corev1.EmptyDirVolumeSource{}
		if limit != "" {
			q := resource.MustParse(limit)
			v.SizeLimit = &q
		}
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: v}})
	}
}

func important(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = &n }
}

func TestRank(t *testing.T) {
	uses := func(mib uint64, p *corev1.Pod) Measured {
		return Measured{Pod: Pod{Pod: p}, Known: true, Use: Use{
			Memory: mib << 20, Processes: mib, Containers: map[string]ContainerUse{"app": {Layer: Amount{Bytes: mib << 20}}},
		}}
	}
	pods := []Measured{
		uses(500, pod("within its request", asks(corev1.ResourceMemory, "1Gi"))),
		uses(50, pod("a little above nothing")),
		uses(300, pod("above its request", asks(corev1.ResourceMemory, "100Mi"))),
		uses(900, pod("important", important(1000))),
		uses(2000, pod("critical", important(systemCritical))),
		{Pod: Pod{Pod: pod("unknown")}},
		{Pod: Pod{Pod: pod("ending"), Ending: true}, Known: true},
	}
	tests := map[string]struct {
		signal Signal
		want   []string
	}{
		"memory: above the request first, then priority, then by how much": {MemoryAvailable, []string{"unknown", "above its request", "a little above nothing", "important", "within its request"}},
		"disk":                                 {NodeAvailable, []string{"unknown", "within its request", "above its request", "a little above nothing", "important"}},
		"process ids: priority, then how many": {ProcessesAvailable, []string{"unknown", "within its request", "above its request", "a little above nothing", "important"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, p := range rank(Shortage{Signal: tc.signal}, true, pods) {
				got = append(got, p.Name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("rank() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExplain(t *testing.T) {
	p := Measured{Pod: Pod{Pod: pod("p", asks(corev1.ResourceMemory, "10Mi"))}, Use: Use{Containers: map[string]ContainerUse{"app": {Memory: 60 << 20}}}}
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container app was using 60Mi, request is 10Mi, has larger consumption of memory. "
	if got := explain(Shortage{MemoryAvailable, 100 << 20, 50 << 20}, p); got != want {
		t.Errorf("explain() = %q, want %q", got, want)
	}
	want = "The node was low on resource: inodes. Threshold quantity: 50, available: 4. "
	if got := explain(Shortage{NodeInodesFree, 50, 4}, p); got != want {
		t.Errorf("explain() = %q, want %q", got, want)
	}
}

func TestRefuse(t *testing.T) {
	tolerant := func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists}}
	}
	tests := map[string]struct {
		now  Conditions
		pod  *corev1.Pod
		want string
	}{
		"nothing is short":                       {pod: pod("p")},
		"best effort under pressure of memory":   {now: Conditions{Memory: true}, pod: pod("p"), want: "[MemoryPressure]"},
		"a request under pressure of memory":     {now: Conditions{Memory: true}, pod: pod("p", asks(corev1.ResourceMemory, "1Mi"))},
		"best effort that tolerates it":          {now: Conditions{Memory: true}, pod: pod("p", tolerant)},
		"a full disk lets nobody in":             {now: Conditions{Disk: true}, pod: pod("p", asks(corev1.ResourceMemory, "1Mi")), want: "[DiskPressure]"},
		"but what the cluster cannot do without": {now: Conditions{Memory: true, Disk: true}, pod: pod("p", important(systemCritical))},
		"all that is short is named":             {now: Conditions{Memory: true, Processes: true}, pod: pod("p", tolerant), want: "[MemoryPressure PIDPressure]"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := Refuse(tc.now, tc.pod)
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("Refuse() = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestExceeded(t *testing.T) {
	use := Use{
		Volumes:    map[string]Amount{"scratch": {Bytes: 30 << 20}},
		Containers: map[string]ContainerUse{"app": {Layer: Amount{Bytes: 10 << 20}, Logs: Amount{Bytes: 10 << 20}}},
	}
	tests := map[string]struct {
		pod     *corev1.Pod
		want    string
		limited bool
	}{
		"no limits": {pod: pod("p", scratch(""))},
		"a volume above its limit": {pod: pod("p", scratch("20Mi")), limited: true,
			want: `Usage of EmptyDir volume "scratch" exceeds the limit "20Mi". `},
		"a volume within its limit": {pod: pod("p", scratch("30Mi")), limited: true},
		"the pod above its containers' limits": {pod: pod("p", scratch(""), limits("40Mi")), limited: true,
			want: "Pod ephemeral local storage usage exceeds the total limit of containers 40Mi. "},
		"a container above its own limit": {limited: true,
			pod: pod("p", limits("15Mi"), func(p *corev1.Pod) {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b", Resources: corev1.ResourceRequirements{
					Limits: corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1Gi")}}})
			}),
			want: `Container app exceeded its local ephemeral storage limit "15Mi". `},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := exceeded(tc.pod, use); got != tc.want || limited(tc.pod) != tc.limited {
				t.Errorf("exceeded() = %q, limited() = %v; want %q, %v", got, limited(tc.pod), tc.want, tc.limited)
			}
		})
	}
}

func TestCountSeesFilesWithSeveralNamesOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if got := count(t.Context(), dir); got.Bytes < 1<<20 || got.Bytes >= 2<<20 || got.Inodes != 2 {
		t.Errorf("count() = %+v, want one file of 1 MiB and its folder", got)
	}
}

func in(dir string) func() string { return func() string { return dir } }

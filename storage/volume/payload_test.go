package volume

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func to[T any](v T) *T { return &v }

func text(s string, mode uint32) file { return file{data: []byte(s), mode: mode, uid: -1, gid: -1} }

var compareFiles = cmp.AllowUnexported(file{})

func TestKeyed(t *testing.T) {
	data := map[string][]byte{"a": []byte("1"), "b": []byte("2")}
	tests := map[string]struct {
		items    []corev1.KeyToPath
		mode     *int32
		optional bool
		want     files
		err      string
	}{
		"without items every key is a file": {want: files{"a": text("1", 0o644), "b": text("2", 0o644)}},
		"the default mode can be changed":   {mode: to[int32](0o400), want: files{"a": text("1", 0o400), "b": text("2", 0o400)}},
		"items choose keys, paths and modes": {
			items: []corev1.KeyToPath{{Key: "b", Path: "dir/./file", Mode: to[int32](0o600)}},
			want:  files{"dir/file": text("2", 0o600)},
		},
		"a missing key is an error": {
			items: []corev1.KeyToPath{{Key: "x", Path: "x"}}, err: "configmap references non-existent config key: x",
		},
		"a missing key of an optional reference is left out": {
			items: []corev1.KeyToPath{{Key: "x", Path: "x"}, {Key: "a", Path: "a"}}, optional: true, want: files{"a": text("1", 0o644)},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := keyed("configmap", data, tc.items, tc.mode, tc.optional)
			if message(err) != tc.err {
				t.Fatalf("keyed() error = %q, want %q", message(err), tc.err)
			}
			if diff := cmp.Diff(tc.want, got, compareFiles); diff != "" {
				t.Errorf("keyed() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestCheckRefusesPathsOutsideTheVolume(t *testing.T) {
	tests := map[string]bool{
		"key": true, "dir/key": true, "a..b": true, "dir/..key": true,
		"": false, "/etc/passwd": false, "../key": false, "..key": false, "dir/../../key": false,
	}
	for path, fine := range tests {
		if err := (files{path: {}}).check(); (err == nil) != fine {
			t.Errorf("check(%q) = %v, want fine: %v", path, err, fine)
		}
	}
}

func TestDownward(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web", Namespace: "shop", UID: "u1",
			Labels:      map[string]string{"b": "2", "a": `say "hi"`},
			Annotations: map[string]string{"example.com/x": "y\nz"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("65M")},
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1250m")},
		}}}},
	}
	allocatable := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
	field := func(path string) corev1.DownwardAPIVolumeFile {
		return corev1.DownwardAPIVolumeFile{Path: "f", FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	ofContainer := func(container, name, divisor string) corev1.DownwardAPIVolumeFile {
		ref := &corev1.ResourceFieldSelector{ContainerName: container, Resource: name}
		if divisor != "" {
			ref.Divisor = resource.MustParse(divisor)
		}
		return corev1.DownwardAPIVolumeFile{Path: "f", ResourceFieldRef: ref}
	}
	tests := map[string]struct {
		item corev1.DownwardAPIVolumeFile
		want string
		err  string
	}{
		"the name":                                   {item: field("metadata.name"), want: "web"},
		"the namespace":                              {item: field("metadata.namespace"), want: "shop"},
		"the uid":                                    {item: field("metadata.uid"), want: "u1"},
		"all labels, sorted and quoted":              {item: field("metadata.labels"), want: "a=\"say \\\"hi\\\"\"\nb=\"2\""},
		"one label":                                  {item: field("metadata.labels['b']"), want: "2"},
		"one annotation, as it is":                   {item: field("metadata.annotations['example.com/x']"), want: "y\nz"},
		"a label that is not there is empty":         {item: field("metadata.labels['none']"), want: ""},
		"a field volumes cannot show":                {item: field("status.podIP"), err: "unsupported fieldPath: status.podIP"},
		"a memory limit in mebibytes is rounded up":  {item: ofContainer("c", "limits.memory", "1Mi"), want: "62"},
		"a cpu request in whole cores is rounded up": {item: ofContainer("c", "requests.cpu", ""), want: "2"},
		"a cpu request in millicores":                {item: ofContainer("c", "requests.cpu", "1m"), want: "1250"},
		"an unset limit is the whole node":           {item: ofContainer("c", "limits.cpu", "1m"), want: "2000"},
		"an unset request is zero":                   {item: ofContainer("c", "requests.memory", ""), want: "0"},
		"a container that is not there": {
			item: ofContainer("x", "limits.cpu", ""),
			err:  `container "x" not found in pod: name one of its containers in resourceFieldRef.containerName`,
		},
		"a resource that is not shown": {item: ofContainer("c", "limits.gpu", ""), err: "unsupported container resource: limits.gpu"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := downward(pod, []corev1.DownwardAPIVolumeFile{tc.item}, nil, allocatable)
			if message(err) != tc.err {
				t.Fatalf("downward() error = %q, want %q", message(err), tc.err)
			}
			if err == nil && string(got["f"].data) != tc.want {
				t.Errorf("downward() = %q, want %q", got["f"].data, tc.want)
			}
		})
	}
}

func TestDue(t *testing.T) {
	issued := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		life, after time.Duration
		want        bool
	}{
		"a fresh token stays":                          {life: time.Hour, after: time.Minute},
		"a token stays until 80 % of its life":         {life: time.Hour, after: 48 * time.Minute},
		"a token past 80 % of its life is replaced":    {life: time.Hour, after: 49 * time.Minute, want: true},
		"a token that lives a year is replaced daily":  {life: 365 * 24 * time.Hour, after: 25 * time.Hour, want: true},
		"a token that has ended is replaced of course": {life: time.Hour, after: 2 * time.Hour, want: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := due(issued, issued.Add(tc.life), issued.Add(tc.after)); got != tc.want {
				t.Errorf("due() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestTokenFile(t *testing.T) {
	runs := func(users ...*int64) *corev1.Pod {
		pod := &corev1.Pod{}
		for _, user := range users {
			pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{SecurityContext: &corev1.SecurityContext{RunAsUser: user}})
		}
		return pod
	}
	grouped := runs(nil)
	grouped.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: to[int64](7)}
	tests := map[string]struct {
		pod  *corev1.Pod
		want file
	}{
		"no user known: everybody may read":        {pod: runs(nil), want: text("t", 0o644)},
		"all containers run as one user: only it":  {pod: runs(to[int64](5), to[int64](5)), want: file{data: []byte("t"), mode: 0o600, uid: 5, gid: -1}},
		"containers run as different users":        {pod: runs(to[int64](5), to[int64](6)), want: text("t", 0o644)},
		"an fsGroup: the group may read, not more": {pod: grouped, want: file{data: []byte("t"), mode: 0o640, uid: -1, gid: 7}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := files{"token": tokenFile("t", tc.pod, nil)}.owned(fsGroup(tc.pod))
			if diff := cmp.Diff(files{"token": tc.want}, got, compareFiles); diff != "" {
				t.Errorf("tokenFile() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMemorySize(t *testing.T) {
	limited := func(limits ...string) *corev1.Pod {
		pod := &corev1.Pod{}
		for _, limit := range limits {
			container := corev1.Container{}
			if limit != "" {
				container.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(limit)}
			}
			pod.Spec.Containers = append(pod.Spec.Containers, container)
		}
		return pod
	}
	allocatable := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1000")}
	tests := map[string]struct {
		pod   *corev1.Pod
		limit *resource.Quantity
		want  int64
	}{
		"nothing is limited: the node is the limit":         {pod: limited(""), want: 1000},
		"the volume's own limit":                            {pod: limited(""), limit: to(resource.MustParse("10")), want: 10},
		"the pod's containers together":                     {pod: limited("200", "300"), want: 500},
		"one container without a limit leaves the pod open": {pod: limited("200", ""), want: 1000},
		"a limit above the pod's does not raise it":         {pod: limited("200"), limit: to(resource.MustParse("300")), want: 200},
		"containers that may use more than the node has":    {pod: limited("2000"), want: 1000},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := memorySize(tc.pod, tc.limit, allocatable); got != tc.want {
				t.Errorf("memorySize() = %d, want %d", got, tc.want)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

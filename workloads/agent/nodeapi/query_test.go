package nodeapi

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/nodeapi/logfile"
)

func TestParseLogQuery(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tests := map[string]struct {
		query string
		want  logQuery
		err   string
	}{
		"nothing asked: everything": {want: logQuery{options: logfile.Whole()}},
		"everything asked": {
			query: "follow=true&previous=true&timestamps=true&tailLines=10&limitBytes=100&sinceSeconds=5",
			want: logQuery{previous: true, options: logfile.Options{
				Follow: true, Timestamps: true, Tail: 10, Limit: 100, Since: now.Add(-5 * time.Second)}},
		},
		"a moment":                   {query: "sinceTime=2026-01-02T03:00:00Z", want: logQuery{options: logfile.Options{Tail: -1, Limit: -1, Since: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)}}},
		"one stream":                 {query: "stream=Stderr", want: logQuery{options: logfile.Options{Tail: -1, Limit: -1, Stream: logfile.Stderr}}},
		"a tail of nothing":          {query: "tailLines=0", want: logQuery{options: logfile.Options{Tail: 0, Limit: -1}}},
		"a negative tail":            {query: "tailLines=-1", err: `tailLines="-1": use a number of at least 0`},
		"no number":                  {query: "limitBytes=x", err: `limitBytes="x": use a number of at least 1`},
		"a moment and seconds":       {query: "sinceTime=2026-01-02T03:00:00Z&sinceSeconds=1", err: "sinceTime and sinceSeconds: use one of them"},
		"a stream that is not there": {query: "stream=Out", err: `stream="Out": use All, Stdout or Stderr`},
		"a tail of one stream":       {query: "stream=Stdout&tailLines=1", err: "tailLines and stream: a tail is counted over both streams; use one of them"},
		"a flag that is none":        {query: "follow=maybe", err: `follow="maybe": use true or false`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			query, err := url.ParseQuery(tc.query)
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseLogQuery(query, now)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("parseLogQuery() = %v, want %s", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(logQuery{})); err != nil || diff != "" {
				t.Errorf("parseLogQuery() = %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestParseStreams(t *testing.T) {
	tests := map[string]struct {
		query string
		want  streams
		fails bool
	}{
		"as the API server asks":               {query: "input=1&output=1&error=1", want: streams{stdin: true, stdout: true, stderr: true}},
		"as the pod's API has it":              {query: "stdin=true&stdout=true", want: streams{stdin: true, stdout: true}},
		"a terminal has one output":            {query: "input=1&output=1&error=1&tty=1", want: streams{stdin: true, stdout: true, tty: true}},
		"nothing at all":                       {query: "tty=1", fails: true},
		"a terminal's errors only are nothing": {query: "error=1&tty=1", fails: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			query, _ := url.ParseQuery(tc.query)
			got, err := parseStreams(query)
			if (err != nil) != tc.fails || !tc.fails && got != tc.want {
				t.Errorf("parseStreams() = %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}

func TestQuestion(t *testing.T) {
	tests := map[string]struct {
		method, path, verb string
		parts              []string
	}{
		"logs of a pod are its proxy's":         {http.MethodGet, "/containerLogs/ns/pod/c", "get", []string{"proxy"}},
		"exec":                                  {http.MethodPost, "/exec/ns/pod/c", "create", []string{"proxy"}},
		"statistics":                            {http.MethodGet, "/stats/summary", "get", []string{"stats"}},
		"metrics":                               {http.MethodGet, "/metrics/resource", "get", []string{"metrics"}},
		"logs of the node":                      {http.MethodGet, "/logs/", "get", []string{"log"}},
		"pods, by the narrow or the wide right": {http.MethodGet, "/pods", "get", []string{"pods", "proxy"}},
		"settings":                              {http.MethodGet, "/configz", "get", []string{"configz", "proxy"}},
		"a path that only looks alike":          {http.MethodGet, "/metricsx", "get", []string{"proxy"}},
		"containers in detail":                  {http.MethodGet, "/metrics/cadvisor", "get", []string{"metrics"}},
		"a checkpoint has a right of its own":   {http.MethodPost, "/checkpoint/ns/pod/c", "create", []string{"checkpoint"}},
		"parts of health":                       {http.MethodGet, "/healthz/ping", "get", []string{"healthz", "proxy"}},
		"anything else":                         {http.MethodDelete, "/", "delete", []string{"proxy"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			verb, parts := question(tc.method, tc.path)
			if diff := cmp.Diff(tc.parts, parts); verb != tc.verb || diff != "" {
				t.Errorf("question() = %s %v, want %s %v", verb, parts, tc.verb, tc.parts)
			}
		})
	}
}

func TestWhyNoContainer(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}, {Name: "new"}}}}
	pod.Name = "web"
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}
	tests := map[string]struct {
		container string
		previous  bool
		want      string
	}{
		"it waits for something": {container: "app", want: `container "app" in pod "web" is waiting to start: ImagePullBackOff`},
		"nobody said why yet":    {container: "new", want: `container "new" in pod "web" is waiting to start: ContainerCreating`},
		"it ran only once":       {container: "app", previous: true, want: `previous terminated container "app" in pod "web" not found`},
		"the pod has none such":  {container: "other", want: "container other is not valid for pod web"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := whyNoContainer(pod, tc.container, tc.previous); got != tc.want {
				t.Errorf("whyNoContainer() = %q, want %q", got, tc.want)
			}
		})
	}
}

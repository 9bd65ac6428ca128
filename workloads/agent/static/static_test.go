package static

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

const web = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: app, image: web:1}]}\n"

func newSource(t *testing.T) (*Source, *record.FakeRecorder) {
	t.Helper()
	events := record.NewFakeRecorder(100)
	return New(Config{
		Dir: filepath.Join(t.TempDir(), "pods"), NodeName: "n1", Events: events, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Complete: func(pod *corev1.Pod) error {
			if len(pod.Spec.Containers) == 0 {
				return errors.New("spec.containers: Required value")
			}
			return nil
		},
	}), events
}

func (s *Source) put(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(s.conf.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.conf.Dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func names(pods []*corev1.Pod) []string {
	var out []string
	for _, pod := range pods {
		out = append(out, pod.Namespace+"/"+pod.Name)
	}
	return out
}

func TestRead(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		want  []string
		wrong string // part of the event
	}{
		"a folder that is not there has no pods": {},
		"each file is a pod of this node": {
			files: map[string]string{"a.yaml": web, "b.json": `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"db","namespace":"data"},"spec":{"containers":[{"name":"db","image":"db"}]}}`},
			want:  []string{"default/web-n1", "data/db-n1"},
		},
		"an editor's own files are none":           {files: map[string]string{"a.yaml": web, ".a.yaml.swp": "\x00"}, want: []string{"default/web-n1"}},
		"a document that begins with dashes":       {files: map[string]string{"a.yaml": "---\n" + web}, want: []string{"default/web-n1"}},
		"a mistake harms no other file":            {files: map[string]string{"a.yaml": "{", "b.yaml": web}, want: []string{"default/web-n1"}, wrong: "a.yaml"},
		"a misspelled field is a mistake":          {files: map[string]string{"a.yaml": strings.Replace(web, "image", "imag", 1)}, wrong: `unknown field "imag"`},
		"something else than a pod":                {files: map[string]string{"a.yaml": "apiVersion: apps/v1\nkind: Deployment\n"}, wrong: "it holds apps/v1 Deployment"},
		"two pods in a file":                       {files: map[string]string{"a.yaml": web + "---\n" + web}, wrong: "it holds 2 objects"},
		"an empty file":                            {files: map[string]string{"a.yaml": ""}, wrong: "it holds 0 objects"},
		"what the API's rules refuse":              {files: map[string]string{"a.yaml": "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n"}, wrong: "spec.containers: Required value"},
		"a name that is none":                      {files: map[string]string{"a.yaml": strings.Replace(web, "web", "Web_", 1)}, wrong: `would be "Web_-n1"`},
		"of two pods of a name the first file has": {files: map[string]string{"a.yaml": web, "b.yaml": web}, want: []string{"default/web-n1"}, wrong: "a.yaml has a pod default/web already"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			s, events := newSource(t)
			for file, text := range tc.files {
				s.put(t, file, text)
			}
			if diff := cmp.Diff(tc.want, names(s.Read())); diff != "" {
				t.Errorf("Read() (-want +got):\n%s", diff)
			}
			s.Read() // a second look tells nothing twice
			close(events.Events)
			var told []string
			for event := range events.Events {
				told = append(told, event)
			}
			switch {
			case tc.wrong == "" && len(told) > 0, tc.wrong != "" && len(told) != 1:
				t.Errorf("events %q, want one with %q", told, tc.wrong)
			case tc.wrong != "" && !strings.Contains(told[0], tc.wrong):
				t.Errorf("event %q, want one with %q", told[0], tc.wrong)
			}
		})
	}
}

func TestAFileWithAMistakeKeepsItsLastGoodPod(t *testing.T) {
	s, _ := newSource(t)
	s.put(t, "a.yaml", web)
	before := s.Read()
	s.put(t, "a.yaml", "{")
	if diff := cmp.Diff(before, s.Read()); diff != "" {
		t.Errorf("Read() of a wrong file (-before +after):\n%s", diff)
	}
	s.put(t, "a.yaml", web+"# more\n")
	if after := s.Read(); len(after) != 1 || after[0].UID == before[0].UID {
		t.Errorf("Read() of a changed file = %v, want another pod than %v", after, before)
	}
	if err := os.Remove(filepath.Join(s.conf.Dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if left := s.Read(); len(left) != 0 {
		t.Errorf("Read() without the file = %v, want nothing", left)
	}
}

func TestAPodIsTheSameAfterARestart(t *testing.T) {
	first, _ := newSource(t)
	first.put(t, "a.yaml", web)
	second := New(first.conf)
	if diff := cmp.Diff(first.Read(), second.Read()); diff != "" {
		t.Errorf("read twice (-first +second):\n%s", diff)
	}
}

func TestRunHearsOfEveryChange(t *testing.T) {
	s, _ := newSource(t)
	s.put(t, "a.yaml", web)
	s.Read()
	ctx, stop := context.WithCancel(t.Context())
	changes, done := make(chan []string), make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx, func(pods []*corev1.Pod) { changes <- names(pods) })
	}()
	becomes := func(want ...string) {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			select {
			case got := <-changes: // a file may be seen between its making and its writing
				if cmp.Equal(want, got) {
					return
				}
			case <-deadline:
				t.Fatalf("the pods did not become %v", want)
			}
		}
	}
	s.put(t, "b.yaml", strings.Replace(web, "web", "db", 1))
	becomes("default/web-n1", "default/db-n1")
	if err := os.Rename(filepath.Join(s.conf.Dir, "a.yaml"), filepath.Join(s.conf.Dir, ".hidden")); err != nil {
		t.Fatal(err)
	}
	becomes("default/db-n1")
	stop()
	<-done
}

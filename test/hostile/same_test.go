package hostile_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// TestSameAnswers sends the same mutated objects to the server and to another one, such as upstream's, and shows where one
// takes what the other refuses, where they complain of different fields, and where what they would store differs. Writes
// are dry: all that the other server keeps until the end is one valid object of each kind.
func TestSameAnswers(t *testing.T) {
	file := os.Getenv("KNARR_HOSTILE_OTHER")
	if file == "" {
		t.Skip("KNARR_HOSTILE_OTHER names no kubeconfig of another API server")
	}
	other, err := otherServer(file)
	if err != nil {
		t.Fatal(err)
	}
	count, seed := number(t, "KNARR_HOSTILE", modest), number(t, "KNARR_HOSTILE_SEED", 1)
	define(t, server)
	define(t, other)
	t.Cleanup(func() {
		definition := "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/hostiles." + customGroup
		if a, err := other.ask(http.MethodDelete, definition, nil, body{}); err != nil || a.status >= 300 {
			t.Errorf("delete what was defined: %d %s, %v", a.status, a.message, err)
		}
	})
	namespace := fmt.Sprintf("same-%d", time.Now().Unix())
	for _, c := range []*child{server, other} {
		room(t, c, namespace)
		t.Cleanup(func() {
			err := c.clientset(t).CoreV1().Namespaces().Delete(context.Background(), "hostile-"+namespace, metav1.DeleteOptions{})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all := &differences{found: map[string]*difference{}, alike: map[string]int{}}
	t.Cleanup(func() { t.Log(all) })
	eachKind(t, func(t *testing.T, k kind, d *document) {
		(&comparison{attack: aim(t, k, d, "hostile-"+namespace, uint64(seed)), other: other, found: all}).run(count)
	})
}

// otherServer is one that was started elsewhere.
func otherServer(kubeconfig string) (*child, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kubeconfig, err)
	}
	config.QPS = -1
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kubeconfig, err)
	}
	return &child{introduction: introduction{URL: strings.TrimSuffix(config.Host, "/")}, config: config, http: client}, nil
}

// comparison is one kind's mutations, each sent to both.
type comparison struct {
	*attack // makes them
	other   *child
	found   *differences
}

func (c *comparison) run(count int) {
	path := c.kind.path(c.namespace)
	if !c.kind.stored() {
		for range count {
			c.compare(http.MethodPost, path, nil, c.encode(c.mutate(c.valid)))
		}
		return
	}
	c.compare(http.MethodPost, path, nil, body{"application/json", encodeJSON(c.valid)})
	defer c.compare(http.MethodDelete, c.object(), nil, body{"application/json", []byte(`{"gracePeriodSeconds":0}`)})
	for range count {
		q := c.query(true)
		switch n := c.IntN(100); {
		case n < 55:
			c.compare(http.MethodPost, path, q, c.encode(c.another()))
		case n < 75:
			c.compare(http.MethodPut, c.object(), q, c.encode(c.mutate(c.valid)))
		case n < 80:
			c.compare(http.MethodPatch, c.object(), q, body{"application/json-patch+json", c.jsonPatch()})
		case n < 85:
			c.compare(http.MethodPatch, c.object(), q, body{"application/merge-patch+json", encodeJSON(c.part(c.mutate(c.valid)))})
		case n < 90:
			c.compare(http.MethodPatch, c.object(), q, body{"application/strategic-merge-patch+json", encodeJSON(c.directives(c.part(c.mutate(c.valid))))})
		default:
			q.Set("fieldManager", "hostile")
			q.Set("force", "true")
			c.compare(http.MethodPatch, c.object(), q, body{"application/apply-patch+yaml", encodeJSON(c.mutate(c.valid))})
		}
	}
}

// another object than the one that is stored.
func (c *comparison) another() map[string]any {
	object := c.mutate(c.valid)
	if metadata, ok := object["metadata"].(map[string]any); ok && metadata["name"] == c.name && c.kind.resource != "ipaddresses" {
		metadata["name"] = c.name + "-2"
	}
	return object
}

// answer is what matters of one.
type answer struct {
	status  int
	message string
	causes  []string // reason and field of each
	object  map[string]any
}

// ask sends one request.
func (c *child) ask(method, path string, q url.Values, content body) (answer, error) {
	status, text, err := c.exchange(method, c.at(path, q), content, "application/json")
	if err != nil {
		return answer{}, err
	}
	a := answer{status: status, object: map[string]any{}}
	if a.status < 300 {
		return a, json.Unmarshal(text, &a.object)
	}
	var refusal metav1.Status
	if err := json.Unmarshal(text, &refusal); err != nil {
		a.message = string(text)
		return a, nil // a refusal in plain words
	}
	a.message = refusal.Message
	if refusal.Details != nil {
		for _, cause := range refusal.Details.Causes {
			a.causes = append(a.causes, string(cause.Type)+" "+cause.Field)
		}
	}
	slices.Sort(a.causes)
	a.causes = slices.Compact(a.causes)
	return a, nil
}

// compare sends a request to both and notes how their answers differ.
func (c *comparison) compare(method, path string, q url.Values, content body) {
	ours, err := server.ask(method, path, q, content)
	if err != nil {
		c.t.Errorf("no answer of ours to %s %s: %v", method, path, err)
		return
	}
	theirs, err := c.other.ask(method, path, q, content)
	if err != nil {
		c.t.Errorf("no answer of the other to %s %s: %v", method, path, err)
		return
	}
	what, detail := compareAnswers(ours, theirs)
	request := fmt.Sprintf("%s %s?%s %s %s", method, path, q.Encode(), content.media, shortened(content.content))
	c.found.add(c.kind.String(), what, detail, fmt.Sprintf("%s\n     ours   %d %s\n     theirs %d %s", tail(request, 1200), ours.status, tail(ours.message, 600), theirs.status, tail(theirs.message, 600)))
}

// Ways in which answers differ, the worst first.
const (
	same = iota
	theyRefuse
	weRefuse
	otherStatus
	otherCauses
	otherObject
)

var differs = []string{same: "same", theyRefuse: "taken, they refuse", weRefuse: "refused, they take", otherStatus: "another status", otherCauses: "other causes", otherObject: "another object"}

// compareAnswers says how two answers differ, and in what: for answers of the same kind the detail is the same.
func compareAnswers(ours, theirs answer) (what int, detail string) {
	refused := func(a answer) string { return fmt.Sprintf("%d %s", a.status, strings.Join(a.causes, ", ")) }
	switch {
	case ours.status < 300 && theirs.status >= 300:
		return theyRefuse, refused(theirs)
	case ours.status >= 300 && theirs.status < 300:
		return weRefuse, refused(ours)
	case ours.status != theirs.status:
		return otherStatus, fmt.Sprintf("ours %d, theirs %d", ours.status, theirs.status)
	case ours.status < 300:
		if paths := differing(settled(ours.object), settled(theirs.object), ""); len(paths) > 0 {
			return otherObject, strings.Join(paths, ", ")
		}
		return same, fmt.Sprint(ours.status)
	}
	only := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(cause string) bool { return slices.Contains(b, cause) })
	}
	if a, b := only(ours.causes, theirs.causes), only(theirs.causes, ours.causes); len(a)+len(b) > 0 {
		return otherCauses, fmt.Sprintf("only ours %v, only theirs %v", a, b)
	}
	return same, fmt.Sprint(ours.status)
}

// settled is an object without what a server decides for itself, each time anew.
func settled(object map[string]any) map[string]any {
	object = deepCopy(object).(map[string]any)
	if metadata, ok := object["metadata"].(map[string]any); ok {
		for _, own := range []string{"uid", "resourceVersion", "creationTimestamp", "managedFields"} {
			delete(metadata, own)
		}
		if metadata["generateName"] != nil {
			delete(metadata, "name")
		}
	}
	if spec, ok := object["spec"].(map[string]any); ok && object["kind"] == "Service" {
		for _, allocated := range []string{"clusterIP", "clusterIPs", "healthCheckNodePort"} {
			delete(spec, allocated)
		}
		ports, _ := spec["ports"].([]any)
		for _, port := range ports {
			if port, ok := port.(map[string]any); ok {
				delete(port, "nodePort")
			}
		}
	}
	return object
}

// differing lists the fields in which two values differ; elements of lists are not told apart.
func differing(a, b any, path string) []string {
	var paths []string
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			return []string{path}
		}
		keys := maps.Clone(a)
		maps.Copy(keys, b)
		for _, key := range sortedKeys(keys) {
			paths = append(paths, differing(a[key], b[key], path+"."+key)...)
		}
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return []string{path}
		}
		for i := range a {
			paths = append(paths, differing(a[i], b[i], path+"[]")...)
		}
	default:
		if !cmp.Equal(a, b) {
			return []string{path}
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// differences are all that was found, those of the same kind together.
type differences struct {
	mu    sync.Mutex
	found map[string]*difference
	count [otherObject + 1]int // by what they are
	alike map[string]int       // statuses of answers that are the same, by kinds for those that are failures
}

type difference struct {
	what    int
	key     string
	count   int
	example string
}

func (d *differences) add(kind string, what int, detail, example string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count[what]++
	if what == same {
		if detail >= "500" {
			detail += " of " + kind
		}
		d.alike[detail]++
		return
	}
	key := fmt.Sprintf("%s: %s: %s", differs[what], kind, tail(detail, 300))
	if d.found[key] == nil {
		d.found[key] = &difference{what: what, key: key, example: example}
	}
	d.found[key].count++
}

func (d *differences) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var s strings.Builder
	for what, name := range differs {
		fmt.Fprintf(&s, "%s: %d\n", name, d.count[what])
	}
	fmt.Fprintf(&s, "the same were, by status: %v\n", d.alike)
	list := slices.SortedFunc(maps.Values(d.found), func(a, b *difference) int {
		if a.what != b.what {
			return a.what - b.what
		}
		return strings.Compare(a.key, b.key)
	})
	for _, one := range list {
		fmt.Fprintf(&s, "%4d x %s\n     %s\n", one.count, one.key, one.example)
	}
	return s.String()
}

func TestCompareAnswers(t *testing.T) {
	object := func(spec map[string]any) map[string]any {
		return map[string]any{"kind": "Thing", "metadata": map[string]any{"name": "a", "uid": fmt.Sprint(rand.Uint64())}, "spec": spec}
	}
	created := func(spec map[string]any) answer { return answer{status: 201, object: object(spec)} }
	refused := func(causes ...string) answer { return answer{status: 422, causes: causes} }
	tests := map[string]struct {
		ours, theirs answer
		what         int
		detail       string
	}{
		"both take it":                       {created(nil), created(nil), same, "201"},
		"both refuse it for the same reason": {refused("Required a"), refused("Required a"), same, "422"},
		"they refuse what we take":           {created(nil), refused("Required a", "Invalid b"), theyRefuse, "422 Required a, Invalid b"},
		"we refuse what they take":           {answer{status: 400}, created(nil), weRefuse, "400 "},
		"both refuse it in different ways":   {answer{status: 500}, answer{status: 400}, otherStatus, "ours 500, theirs 400"},
		"they complain of something else":    {refused("Required a", "Invalid b"), refused("Invalid b", "Invalid c"), otherCauses, "only ours [Required a], only theirs [Invalid c]"},
		"another default": {created(map[string]any{"a": "b", "list": []any{map[string]any{"c": 1.0}, map[string]any{"c": 1.0}}}),
			created(map[string]any{"list": []any{map[string]any{"c": 2.0}, map[string]any{"c": 2.0}}}), otherObject, ".spec.a, .spec.list[].c"},
		"a list of another length": {created(map[string]any{"list": []any{}}), created(map[string]any{"list": []any{"a"}}), otherObject, ".spec.list"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			what, detail := compareAnswers(tc.ours, tc.theirs)
			if what != tc.what || detail != tc.detail {
				t.Errorf("got %q, %q; want %q, %q", differs[what], detail, differs[tc.what], tc.detail)
			}
		})
	}
}

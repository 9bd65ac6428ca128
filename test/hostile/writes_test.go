package hostile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// modest is how many mutations of a kind are enough for every day.
const modest = 60

// atOnce is how many kinds are tried side by side: the datastore syncs their writes together.
const atOnce = 8

// TestHostileObjects sends mutations of a valid object of every kind as every write there is. No answer may be a
// failure of the server, and what is refused may not change what is stored.
func TestHostileObjects(t *testing.T) {
	define(t, server)
	count, seed := number(t, "KNARR_HOSTILE", modest), number(t, "KNARR_HOSTILE_SEED", 1)
	lines := &summary{began: time.Now()}
	t.Cleanup(func() { t.Log(lines) })
	eachKind(t, func(t *testing.T, k kind, d *document) {
		a := newAttack(t, k, d, uint64(seed))
		began := time.Now()
		a.run(count)
		lines.add(a, count, time.Since(began))
	})
}

// eachKind runs a test of every kind that is asked for, with the description of its group and version.
func eachKind(t *testing.T, run func(t *testing.T, k kind, d *document)) {
	t.Helper()
	documents := map[schema.GroupVersion]*document{}
	slots := make(chan struct{}, atOnce)
	for _, k := range served(t) {
		if only := os.Getenv("KNARR_HOSTILE_ONLY"); only != "" && !slices.Contains(strings.Split(only, ","), k.resource) {
			continue
		}
		if documents[k.GroupVersion()] == nil {
			documents[k.GroupVersion()] = description(t, k.GroupVersion())
		}
		t.Run(k.String(), func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			run(t, k, documents[k.GroupVersion()])
		})
	}
}

// summary is what all attacks together come to, a line a kind.
type summary struct {
	began time.Time

	mu                       sync.Mutex
	lines                    []string
	kinds, objects, requests int
}

func (s *summary) add(a *attack, objects int, took time.Duration) {
	requests := 0
	for _, n := range a.answers {
		requests += n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kinds, s.objects, s.requests = s.kinds+1, s.objects+objects, s.requests+requests
	s.lines = append(s.lines, fmt.Sprintf("%-75s %6d objects, %6d requests in %7s, slowest %6s, failures %d: %v",
		a.kind, objects, requests, took.Round(100*time.Millisecond), a.slowest.Round(time.Millisecond), len(a.failures), a.answers))
}

func (s *summary) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.lines)
	return fmt.Sprintf("%d kinds, %d mutated objects, %d requests in %s\n%s",
		s.kinds, s.objects, s.requests, time.Since(s.began).Round(time.Second), strings.Join(s.lines, "\n"))
}

// attack is one kind's mutations, one after another.
type attack struct {
	*mutator
	t         *testing.T
	kind      kind
	namespace string
	valid     map[string]any // what mutations are made of
	name      string         // of the object that is updated and patched

	stored   map[string]any    // that object, as it was last answered
	since    []string          // requests since stored was seen to be true
	refused  map[string]string // names that nothing may be stored under, and the requests
	accepted map[string]bool
	failures map[string]string // of the server: kinds of them, with a request each
	answers  map[int]int       // counts of statuses
	slowest  time.Duration
}

// newAttack is an attack in a namespace of its own.
func newAttack(t *testing.T, k kind, d *document, seed uint64) *attack {
	namespace := "default"
	if k.namespaced {
		namespace = room(t, server, k.resource+"-"+k.Version+"-"+k.Group)
	}
	return aim(t, k, d, namespace, seed)
}

// aim is an attack that has sent nothing yet.
func aim(t *testing.T, k kind, d *document, namespace string, seed uint64) *attack {
	root, err := d.of(k.Group, k.Version, k.Kind)
	if err != nil {
		t.Fatal(err)
	}
	a := &attack{
		t: t, kind: k, valid: base(t, k.GroupVersionKind), namespace: namespace,
		mutator: &mutator{Rand: rand.New(rand.NewPCG(seed, uint64(len(k.String())))), document: d, root: root},
		refused: map[string]string{}, accepted: map[string]bool{}, failures: map[string]string{}, answers: map[int]int{},
	}
	if k.namespaced {
		moveTo(a.valid, namespace)
	}
	a.name = nameOf(a.valid)
	return a
}

// moveTo puts what an object speaks of into its namespace.
func moveTo(object map[string]any, namespace string) {
	for key, value := range object {
		if below, ok := value.(map[string]any); ok {
			moveTo(below, namespace)
		} else if key == "namespace" {
			object[key] = namespace
		}
	}
}

func (a *attack) run(count int) {
	if !a.kind.stored() {
		for range count {
			a.send(http.MethodPost, a.kind.path(a.namespace), a.query(false), a.encode(a.mutate(a.valid)))
		}
		a.report()
		return
	}
	a.reset()
	for _, name := range a.listed() {
		a.accepted[name] = true // before the attack
	}
	for i := range count {
		switch {
		case i%50 == 49:
			a.check()
			a.reset()
		case i%10 == 9:
			a.check()
		}
		switch n := a.IntN(100); {
		case n < 30:
			a.create(i)
		case n < 55:
			a.update("")
		case n < 80:
			a.patch("")
		case n < 95:
			a.below()
		default:
			a.read()
		}
	}
	a.check()
	a.nothingRefusedIsStored()
	a.report()
}

// query are options that the server should take, and now and then some it should not.
func (a *attack) query(dry bool) url.Values {
	q := url.Values{}
	if dry {
		q.Set("dryRun", "All")
	}
	if a.chance(30) {
		q.Set("fieldValidation", pick(a.mutator, []string{"Ignore", "Warn", "Strict", "Strict", a.text()}))
	}
	if a.chance(10) {
		q.Set("fieldManager", a.text())
	}
	if a.chance(3) {
		q.Set("pretty", a.text())
	}
	return q
}

func (a *attack) object() string { return a.kind.path(a.namespace) + "/" + url.PathEscape(a.name) }

func (a *attack) create(i int) {
	object := a.mutate(a.valid)
	metadata, ok := object["metadata"].(map[string]any)
	if ok && metadata["name"] == a.name && a.kind.resource != "ipaddresses" {
		metadata["name"] = fmt.Sprintf("%s-%d", a.name, i)
	}
	dry := a.kind.dry() || a.chance(60)
	status, answer, request := a.send(http.MethodPost, a.kind.path(a.namespace), a.query(dry), a.encode(object))
	switch name := nameOf(answer); {
	case status < 300 && name != "" && name != a.name && !dry:
		a.accepted[name] = true
		a.remove(name)
	case status >= 400 && ok:
		if wanted, _ := metadata["name"].(string); wanted != "" && wanted != a.name {
			a.refused[wanted] = request
		}
	}
}

// update replaces the object, or what is below it.
func (a *attack) update(below string) {
	object := a.mutate(a.current())
	if metadata, ok := object["metadata"].(map[string]any); ok && a.chance(70) {
		delete(metadata, "resourceVersion")
	}
	a.write(http.MethodPut, below, a.encode(object))
}

// current is what a client that plays by the rules would start from.
func (a *attack) current() map[string]any {
	if a.stored == nil || a.chance(30) {
		return a.valid
	}
	return a.stored
}

func (a *attack) patch(below string) {
	switch a.IntN(5) {
	case 0:
		a.write(http.MethodPatch, below, body{"application/json-patch+json", a.jsonPatch()})
	case 1:
		a.write(http.MethodPatch, below, body{"application/merge-patch+json", encodeJSON(a.part(a.mutate(a.current())))})
	case 2:
		a.write(http.MethodPatch, below, body{"application/strategic-merge-patch+json", encodeJSON(a.directives(a.part(a.mutate(a.current()))))})
	default:
		object := a.mutate(a.valid)
		if metadata, ok := object["metadata"].(map[string]any); ok && a.chance(90) {
			delete(metadata, "managedFields")
		}
		content, err := yaml.Marshal(object)
		if err != nil {
			return // YAML has no word for it
		}
		if a.chance(50) {
			content = encodeJSON(object)
		}
		a.write(http.MethodPatch, below, body{"application/apply-patch+yaml", content})
	}
}

// part keeps some fields of an object, as a patch does.
func (a *attack) part(object map[string]any) map[string]any {
	for _, key := range sortedKeys(object) {
		if a.chance(40) {
			delete(object, key)
		}
	}
	return object
}

// directives puts instructions of strategic merging into a patch.
func (a *attack) directives(object map[string]any) map[string]any {
	for _, p := range append(a.places(object), place{value: object}) {
		fields, ok := p.value.(map[string]any)
		if !ok || !a.chance(30) {
			continue
		}
		names := append(sortedKeys(fields), a.text())
		switch a.IntN(5) {
		case 0:
			fields["$patch"] = pick(a.mutator, []any{"replace", "delete", "merge", "nothing", int64(1)})
		case 1:
			fields["$retainKeys"] = pick(a.mutator, []any{[]any{pick(a.mutator, names)}, a.junk()})
		case 2:
			fields["$setElementOrder/"+pick(a.mutator, names)] = pick(a.mutator, []any{[]any{map[string]any{"name": "a"}}, []any{"a", int64(1)}, a.junk()})
		case 3:
			fields["$deleteFromPrimitiveList/"+pick(a.mutator, names)] = pick(a.mutator, []any{[]any{"a"}, a.junk()})
		default:
			fields["$"+a.text()] = a.junk()
		}
	}
	return object
}

func (a *attack) jsonPatch() []byte {
	var operations []any
	pointer := func() string {
		switch a.IntN(6) {
		case 0:
			return a.text()
		case 1:
			return "/metadata/" + pick(a.mutator, []string{"labels", "annotations", "name", "finalizers/-", "ownerReferences/0", "managedFields/0/fieldsV1", "resourceVersion", "uid"})
		default:
			path, value := "", any(a.current())
			for depth := 0; depth < 8; depth++ {
				switch below := value.(type) {
				case map[string]any:
					if len(below) == 0 || a.chance(15) {
						return path + "/" + a.text()
					}
					key := pick(a.mutator, sortedKeys(below))
					path, value = path+"/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(key), below[key]
				case []any:
					if len(below) == 0 || a.chance(30) {
						return path + "/" + pick(a.mutator, []string{"-", "0", "-1", "99999999999", "1e3", ""})
					}
					path, value = path+"/0", below[0]
				default:
					return path
				}
			}
			return path
		}
	}
	count := 1 + a.IntN(4)
	if a.chance(1) {
		count = 10_001
	}
	for range count {
		operation := map[string]any{"op": pick(a.mutator, []any{"add", "replace", "remove", "move", "copy", "test", "nothing", nil}), "path": pointer()}
		if a.chance(80) {
			operation["value"] = pick(a.mutator, []any{a.junk(), a.grow(a.root, 2)})
		}
		if a.chance(30) {
			operation["from"] = pick(a.mutator, []string{"", pointer()})
		}
		operations = append(operations, operation)
	}
	if a.chance(3) { // each copies what the one before made twice as large
		operations = []any{map[string]any{"op": "add", "path": "/metadata/annotations", "value": map[string]any{"a": strings.Repeat("a", 1000)}}}
		for range 40 {
			operations = append(operations, map[string]any{"op": "copy", "from": "/metadata", "path": "/metadata/annotations/b"})
		}
	}
	if a.chance(3) {
		return encodeJSON(a.junk())
	}
	return encodeJSON(operations)
}

// below writes to a subresource.
func (a *attack) below() {
	subresources := slices.DeleteFunc(slices.Clone(a.kind.subresources), func(s apidiscoveryv2.APISubresourceDiscovery) bool { return slices.Contains(ofNode, s.Subresource) })
	if len(subresources) == 0 {
		a.update("")
		return
	}
	sub := pick(a.mutator, subresources)
	if sub.ResponseKind == nil || sub.ResponseKind.Kind == a.kind.Kind {
		if slices.Contains(sub.Verbs, "patch") && a.chance(50) {
			a.patch(sub.Subresource)
		} else {
			a.update(sub.Subresource)
		}
		return
	}
	// What is written is of another kind.
	group := sub.ResponseKind.Group
	if group == "" && sub.ResponseKind.Kind != "Binding" {
		group = a.kind.Group
	}
	version := sub.ResponseKind.Version
	if version == "" {
		version = a.kind.Version
	}
	valid := deepCopy(base(a.t, schema.GroupVersionKind{Group: group, Version: version, Kind: sub.ResponseKind.Kind})).(map[string]any)
	if metadata, ok := valid["metadata"].(map[string]any); ok {
		metadata["name"] = a.name
	}
	other := &mutator{Rand: a.Rand, document: a.document, root: &shape{}}
	if s, err := a.document.of(group, version, sub.ResponseKind.Kind); err == nil {
		other.root = s
	}
	method := http.MethodPost
	if !slices.Contains(sub.Verbs, "create") {
		method = http.MethodPut
	}
	object := other.mutate(valid)
	if method == http.MethodPut && a.chance(30) {
		a.write(http.MethodPatch, sub.Subresource, body{"application/merge-patch+json", encodeJSON(object)})
		return
	}
	a.write(method, sub.Subresource, a.encode(object))
	a.reload() // the answer is not the object
}

// write sends what changes the object, and notes what it should be from then on.
func (a *attack) write(method, below string, content body) {
	dry := a.kind.dry() || a.chance(20)
	q := a.query(dry)
	if content.media == "application/apply-patch+yaml" {
		q.Set("fieldManager", pick(a.mutator, []string{"hostile", "other", a.text()}))
		if a.chance(50) {
			q.Set("force", pick(a.mutator, []string{"true", a.text()}))
		}
	}
	path := a.object()
	if below != "" {
		path += "/" + below
	}
	status, answer, request := a.send(method, path, q, content)
	a.since = append(a.since, fmt.Sprintf("%d %s", status, request))
	if status >= 300 || dry {
		return
	}
	if answer["kind"] == a.kind.Kind && nameOf(answer) == a.name {
		a.stored, a.since = answer, nil
	} else {
		a.reload()
	}
}

// read asks for lists in odd ways.
func (a *attack) read() {
	q := url.Values{}
	for _, name := range []string{"labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "resourceVersionMatch", "timeoutSeconds"} {
		if a.chance(25) {
			q.Set(name, pick(a.mutator, []string{a.text(), "metadata.name=a", "metadata.name!=a,metadata.namespace=b", "status.phase=a", "spec.nodeName in (a)", "a in (b,c)", "a notin ()", "1", "0", "-1", "NotOlderThan", "Exact",
				"eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8ifQ"}))
		}
	}
	path := a.kind.path(a.namespace)
	if a.chance(30) {
		path += "/" + url.PathEscape(pick(a.mutator, []string{a.text(), a.name, a.name + "/" + a.text()}))
	}
	accept := pick(a.mutator, []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/cbor", a.text()})
	a.do(http.MethodGet, path, q, body{}, accept)
}

// reset makes the object anew.
func (a *attack) reset() {
	if a.kind.resource == "namespaces" && a.stored != nil {
		return // it would need a controller to end
	}
	a.remove(a.name)
	a.stored, a.since = nil, nil
	status, answer, request := a.do(http.MethodPost, a.kind.path(a.namespace), nil, body{"application/json", encodeJSON(a.valid)}, "application/json")
	if status >= 300 {
		a.t.Fatalf("the valid object is refused with %d: %v\n%s", status, answer["message"], request)
	}
	a.stored = answer
}

// remove deletes an object, whatever would hold it.
func (a *attack) remove(name string) {
	path := a.kind.path(a.namespace) + "/" + url.PathEscape(name)
	now := body{"application/json", []byte(`{"gracePeriodSeconds":0}`)}
	a.do(http.MethodDelete, path, nil, now, "application/json")
	for range 5 {
		status, _, _ := a.do(http.MethodGet, path, nil, body{}, "application/json")
		if status == http.StatusNotFound {
			return
		}
		a.do(http.MethodPatch, path, nil, body{"application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`)}, "application/json")
		a.do(http.MethodDelete, path, nil, now, "application/json")
	}
}

func (a *attack) reload() {
	status, answer, _ := a.do(http.MethodGet, a.object(), nil, body{}, "application/json")
	a.stored, a.since = nil, nil
	if status == http.StatusOK {
		a.stored = answer
	}
}

// check compares what is stored with what the last accepted request left there.
func (a *attack) check() {
	want := a.stored
	if want == nil {
		return
	}
	since := a.since
	a.reload()
	if a.kind.dry() { // their controllers write as well
		want, a.stored = withoutStatus(want), withoutStatus(a.stored)
	}
	if diff := cmp.Diff(want, a.stored); diff != "" {
		a.t.Errorf("a refused or dry request changed what is stored (-before +after):\n%s\nrequests since:\n%s", diff, strings.Join(since, "\n"))
	}
}

func withoutStatus(object map[string]any) map[string]any {
	object = maps.Clone(object)
	delete(object, "status")
	if metadata, ok := object["metadata"].(map[string]any); ok {
		metadata = maps.Clone(metadata)
		delete(metadata, "resourceVersion")
		delete(metadata, "managedFields")
		object["metadata"] = metadata
	}
	return object
}

// listed are the names of all objects where the attack is.
func (a *attack) listed() []string {
	_, answer, _ := a.do(http.MethodGet, a.kind.path(a.namespace), nil, body{}, "application/json")
	items, _ := answer["items"].([]any)
	var names []string
	for _, item := range items {
		object, _ := item.(map[string]any)
		names = append(names, nameOf(object))
	}
	return names
}

func (a *attack) nothingRefusedIsStored() {
	for _, name := range a.listed() {
		if a.refused[name] != "" && !a.accepted[name] {
			a.t.Errorf("%s was refused, and is stored: %s", name, a.refused[name])
		}
	}
}

func (a *attack) report() {
	for _, what := range sortedKeys(a.failures) {
		a.t.Errorf("the server failed: %s\n%s", what, a.failures[what])
	}
}

func nameOf(object map[string]any) string {
	metadata, _ := object["metadata"].(map[string]any)
	name, _ := metadata["name"].(string)
	return name
}

// body is what a request carries.
type body struct {
	media   string
	content []byte
}

// encode writes an object in one of the ways the server reads, now and then not quite.
func (a *attack) encode(object map[string]any) body {
	content := encodeJSON(object)
	switch n := a.IntN(100); {
	case n < 85:
	case n < 89:
		if text, err := yaml.Marshal(object); err == nil {
			return body{"application/yaml", text}
		}
	case n < 92: // a key comes twice
		if key := pick(a.mutator, append(sortedKeys(object), "spec")); len(content) > 2 {
			content = append([]byte("{"+string(encodeJSON(key))+":"+string(encodeJSON(a.junk()))+","), content[1:]...)
		}
	case n < 94:
		content = content[:a.IntN(len(content)+1)]
	case n < 96:
		content[a.IntN(len(content))] ^= byte(1 << a.IntN(8))
	default:
		return body{"application/vnd.kubernetes.protobuf", a.protobuf()}
	}
	return body{"application/json", content}
}

func encodeJSON(value any) []byte {
	content, err := json.Marshal(value)
	if err != nil {
		return []byte("null") // NaN and the like
	}
	return content
}

var protobufs = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// protobuf is the valid object with some bits flipped, bytes lost, or bytes of nothing.
func (a *attack) protobuf() []byte {
	content := append([]byte("k8s\x00"), []byte(a.text())...)
	if typed, _, err := scheme.Codecs.UniversalDeserializer().Decode(encodeJSON(a.valid), nil, nil); err == nil {
		var b bytes.Buffer
		if err := protobufs.Encode(typed, &b); err == nil {
			content = b.Bytes()
		}
	}
	for range a.IntN(4) {
		content[a.IntN(len(content))] ^= byte(1 << a.IntN(8))
	}
	if a.chance(20) {
		content = content[:a.IntN(len(content)+1)]
	}
	return content
}

func (a *attack) send(method, path string, q url.Values, content body) (int, map[string]any, string) {
	return a.do(method, path, q, content, "application/json")
}

// ofLibrary is true of the kinds that k8s.io/apiextensions-apiserver and k8s.io/kube-aggregator store, as elsewhere.
func (a *attack) ofLibrary() bool {
	return a.kind.Group == customGroup || a.kind.Group == "apiextensions.k8s.io" || a.kind.Group == "apiregistration.k8s.io"
}

// clientFault is how they say that a patch, a version or a form of answer makes no sense: as a failure of the server, with
// every Kubernetes. Ours are told that it is their fault (resource.Blame); into these nobody can reach.
var clientFault = regexp.MustCompile(`^(content is not a list|Internal error occurred: Object '(apiVersion|Kind)' is missing|failed to create typed (patch|live) object|failed to convert new object|strconv\.ParseUint|unknown patch type|expected a |unable to find api field|merging an object in json|resourceVersion: Invalid value)`)

// normal takes what differs from request to request out of a message.
var normal = regexp.MustCompile(`"[^"]*"|[0-9]+`)

func (a *attack) do(method, path string, q url.Values, content body, accept string) (int, map[string]any, string) {
	where := server.at(path, q)
	text := fmt.Sprintf("%s %s %s %s", method, tail(where, 1000), content.media, shortened(content.content))
	began := time.Now()
	status, answer, err := server.exchange(method, where, content, strings.Map(printable, accept))
	if err != nil {
		a.t.Errorf("no answer to %s: %v\n%s", text, err, tail(server.output.String(), 5_000))
		return http.StatusInternalServerError, map[string]any{}, text
	}
	a.slowest = max(a.slowest, time.Since(began))
	a.answers[status]++
	object := map[string]any{}
	_ = json.Unmarshal(answer, &object) // asked for as something else: nobody looks at it
	if status >= 500 && status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout {
		message, _ := object["message"].(string)
		if a.ofLibrary() && (clientFault.MatchString(message) || content.media == "application/strategic-merge-patch+json") {
			return status, object, text
		}
		key := fmt.Sprintf("%s %d %s", method, status, normal.ReplaceAllString(message, "_"))
		if len(key) > 120 {
			key = key[:120]
		}
		if a.failures[key] == "" {
			a.failures[key] = tail(message, 300) + "\n" + text
		}
	}
	return status, object, text
}

// at is the address of a request.
func (c *child) at(path string, q url.Values) string {
	if len(q) > 0 {
		path += "?" + q.Encode()
	}
	return c.URL + path
}

// exchange sends one request and reads the answer to its end.
func (c *child) exchange(method, where string, content body, accept string) (status int, text []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, where, bytes.NewReader(content.content))
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Accept", accept)
	if content.media != "" {
		request.Header.Set("Content-Type", content.media)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	text, err = io.ReadAll(response.Body)
	return response.StatusCode, text, err
}

func printable(r rune) rune {
	if r < ' ' || r > '~' {
		return -1
	}
	return r
}

func shortened(content []byte) string {
	if len(content) > 1500 {
		return fmt.Sprintf("%q... (%d bytes)", content[:1500], len(content))
	}
	return fmt.Sprintf("%q", content)
}

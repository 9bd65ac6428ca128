package hostile_test

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
)

// mutator makes hostile objects of a valid one. Two with the same seed make the same.
type mutator struct {
	*rand.Rand
	document *document
	root     *shape
}

// texts are strings that some rule stumbles over.
var texts = []string{
	"", " ", "a", "A B", "a.b", "-a", "a/b", "a/b/c", "../..", "/", "//", "/etc/passwd", ".", "..", "%", "%2f", "100%", "-1%", "101%", "9999999999999999999%",
	"0", "-0", "1", "-1", "007", "1.5", "1e3", "1e309", "1E-400", "9999999999999999999", "99999999999999999999999999999999999999", "0x10", "NaN", "Inf",
	"1Gi", "-1Gi", "100m", "1n", "0.0000000000001", "1e99999999", "9223372036854775807", "9223372036854775808", "1Ei", "8Ei", "99999Ei",
	"true", "True", "false", "null", "nil", "{}", "[]", "\"", "'", "\\", "\x00", "\n", "\t", "\u202e", "é", "日本", "\U0001f4a3", "\ufeff", "a\u0301",
	"10.0.0.1", "10.0.0.256", "010.0.0.1", "::1", "::ffff:10.0.0.1", "fe80::1%eth0", "10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/33", "::/0", "fd00::/129", "0.0.0.0", "255.255.255.255", "None",
	"2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z", "0000-00-00T00:00:00Z", "9999-12-31T23:59:59Z", "-1-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "1970-01-01", "1s", "-1s", "1h1h", "9999999h",
	"example.com", "example.com/a", "*.example.com", "*", "**", "http://a", "https://a:99999/%zz", "https://user:secret@a", "://", "unix:///a",
	"$(A)", "$$(A)", "${A}", "{{.}}", "a=b", "a in (b)", "!a", ",", "(", "[", "(a|b)*", "(?P<", "^$",
	"self.a > 1", "object.spec", "true == 1", "device.attributes[\"a\"].b", "request.user", "1/0", "has(", "size(object.metadata.name) > 0", "'a'.matches('(')", "[1].map(x, [1].map(y, x))",
	"* * * * *", "*/0 * * * *", "60 * * * *", "@every 1s", "TZ=UTC * * * * *", "0 0 31 2 *",
	"kubernetes.io/a", "k8s.io/", "system:masters", "system:node:a", "system:serviceaccount:a:b", "cpu", "memory", "hugepages-2Mi", "hugepages-0", "hugepages-a", "requests.storage", "count/pods", "pods", "limits.example.com/a",
	"YQ==", "YQ", "====", "-----BEGIN CERTIFICATE-----", "kubernetes.io/tls", "default", "smallest",
	"Always", "Never", "OnFailure", "TCP", "UDP", "SCTP", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "Exact", "Prefix", "In", "NotIn", "Exists", "DoesNotExist", "Gt", "Equal",
	"NoSchedule", "NoExecute", "Orphan", "foregroundDeletion", "orphan", "IPv4", "IPv6", "metadata.name", "metadata.labels['a']", "status.podIP", "limits.cpu", "spec.nodeName",
}

// integers are numbers that some rule stumbles over; JSON holds larger ones than any field.
var integers = []any{
	int64(0), int64(1), int64(-1), int64(2), int64(3), int64(10), int64(80), int64(100), int64(101), int64(443), int64(1000), int64(65535), int64(65536), int64(30000), int64(32767),
	int64(1<<31 - 1), int64(1 << 31), int64(-1 << 31), int64(-1<<31 - 1), int64(1 << 53), int64(1<<63 - 1), int64(-1 << 63), 1.5, 1e30, math.Copysign(0, -1),
}

func pick[T any](m *mutator, from []T) T { return from[m.IntN(len(from))] }

// chance is true so many times of a hundred.
func (m *mutator) chance(percent int) bool { return m.IntN(100) < percent }

// text is short and odd, or now and then huge.
func (m *mutator) text() string {
	switch n := m.IntN(200); {
	case n < 150:
		return pick(m, texts)
	case n < 170:
		return pick(m, texts) + pick(m, texts)
	case n < 190:
		return strings.Repeat("a", pick(m, []int{63, 64, 253, 254, 256, 257}))
	case n < 197:
		return strings.Repeat("a", 5000)
	case n < 199:
		return strings.Repeat("é/", 40_000)
	default:
		return strings.Repeat("x", 1<<18+1)
	}
}

// junk is a value of any type at all.
func (m *mutator) junk() any {
	switch m.IntN(9) {
	case 0:
		return nil
	case 1:
		return m.chance(50)
	case 2:
		return pick(m, integers)
	case 3:
		return []any{}
	case 4:
		return map[string]any{}
	case 5:
		return []any{m.text(), nil, map[string]any{}}
	case 6:
		return map[string]any{m.text(): m.text(), "": nil}
	case 7:
		return nested(m.IntN(60))
	default:
		return m.text()
	}
}

func nested(levels int) any {
	var value any = "deep"
	for i := range levels {
		if i%2 == 0 {
			value = map[string]any{"a": value}
		} else {
			value = []any{value}
		}
	}
	return value
}

// grow makes a value by its schema, of the right type but for a few, and mostly of what the descriptions speak of.
func (m *mutator) grow(s *shape, depth int) any {
	described := s.words
	s = m.document.resolve(s)
	if m.chance(3) {
		return m.junk()
	}
	switch {
	case s.IntOrString || len(s.OneOf) > 0 && s.Type == "" || s.Format == "int-or-string":
		if m.chance(50) {
			return pick(m, integers)
		}
		return m.text()
	case len(s.Properties) > 0:
		object := map[string]any{}
		for _, name := range s.names {
			share := 60 / (1 + len(s.names)/6)
			if slices.Contains(s.Required, name) {
				share = 90
			} else if depth > 6 {
				share = 0
			}
			if m.chance(share) {
				object[name] = m.grow(s.Properties[name], depth+1)
			}
		}
		return object
	case s.Type == "object":
		object := map[string]any{}
		for range m.IntN(3) {
			if s.Values.shape == nil || depth > 8 {
				object[m.text()] = m.junk()
			} else {
				object[m.text()] = m.grow(s.Values.shape, depth+1)
			}
		}
		return object
	case s.Type == "array":
		count := m.IntN(4)
		if m.chance(1) {
			count = 200
		}
		if depth > 8 {
			count = 0
		}
		list := []any{}
		for range count {
			list = append(list, m.grow(s.Items, depth+1))
		}
		if len(list) > 0 && m.chance(15) {
			list = append(list, deepCopy(list[0]))
		}
		return list
	case s.Type == "integer" || s.Type == "number":
		return pick(m, integers)
	case s.Type == "boolean":
		return m.chance(50)
	case s.Type == "string":
		words := append(slices.Clone(described), s.words...)
		if len(words) > 0 && m.chance(60) {
			return pick(m, words)
		}
		if s.Format == "date-time" && m.chance(80) {
			return "2026-01-01T00:00:00Z"
		}
		if s.Format == "byte" && m.chance(80) {
			return "YWJj"
		}
		return m.text()
	default:
		return m.junk()
	}
}

// place is one value of an object and how to replace it.
type place struct {
	schema *shape
	value  any
	set    func(any)
	remove func()
}

// places lists all values below the object, with what the schema knows of them.
func (m *mutator) places(object map[string]any) []place {
	var found []place
	var walk func(value any, s *shape)
	walk = func(value any, s *shape) {
		s = m.document.resolve(s)
		switch value := value.(type) {
		case map[string]any:
			for _, key := range sortedKeys(value) {
				below := s.Properties[key]
				if below == nil {
					below = s.Values.shape
				}
				if below == nil {
					below = &shape{}
				}
				found = append(found, place{below, value[key], func(v any) { value[key] = v }, func() { delete(value, key) }})
				walk(value[key], below)
			}
		case []any:
			for i := range value {
				below := s.Items
				if below == nil {
					below = &shape{}
				}
				found = append(found, place{below, value[i], func(v any) { value[i] = v }, func() { value[i] = nil }})
				walk(value[i], below)
			}
		}
	}
	walk(object, m.root)
	return found
}

// mutate changes some places of a copy.
func (m *mutator) mutate(object map[string]any) map[string]any {
	object = deepCopy(object).(map[string]any)
	for range 1 + m.IntN(4) {
		if m.chance(12) {
			m.breakMetadata(object)
			continue
		}
		// Where it is rarely right, nothing behind it is reached.
		all := slices.DeleteFunc(m.places(object), func(p place) bool { return p.schema == m.root.Properties["metadata"] })
		where := place{m.root, object, func(v any) {
			if fields, ok := v.(map[string]any); ok {
				for key, value := range fields {
					if key != "metadata" && key != "apiVersion" && key != "kind" || m.chance(3) {
						object[key] = value
					}
				}
			}
		}, func() {}}
		if len(all) > 0 && m.chance(75) {
			where = pick(m, all)
		}
		m.change(where)
	}
	return object
}

func (m *mutator) change(where place) {
	s := m.document.resolve(where.schema)
	fields, isObject := where.value.(map[string]any)
	list, isList := where.value.([]any)
	switch n := m.IntN(100); {
	case n < 45 && isObject && len(s.Properties) > 0:
		name := pick(m, s.names)
		if name != "metadata" && name != "kind" && name != "apiVersion" || m.chance(5) {
			fields[name] = m.grow(s.Properties[name], 0)
		}
	case n < 45 && isList && s.Items != nil:
		where.set(append(list, m.grow(s.Items, 0)))
	case n < 75:
		where.set(m.grow(where.schema, 0))
	case n < 85:
		where.set(m.junk())
	case n < 93:
		where.remove()
	case n < 96 && isList && len(list) > 0:
		where.set(append(list, deepCopy(pick(m, list))))
	case n < 97 && isList && len(list) > 0:
		for range 300 {
			list = append(list, deepCopy(list[0]))
		}
		where.set(list)
	case isObject:
		fields[m.text()] = m.junk()
	default:
		where.set(m.text())
	}
}

// breakMetadata does what only the server or nobody may do to metadata.
func (m *mutator) breakMetadata(object map[string]any) {
	metadata, ok := object["metadata"].(map[string]any)
	if !ok {
		metadata = map[string]any{}
		object["metadata"] = metadata
	}
	owner := map[string]any{"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1"}
	broken := map[string][]any{
		"name":                       {m.text(), nil, int64(1)},
		"generateName":               {m.text(), strings.Repeat("g", 300)},
		"namespace":                  {m.text(), "kube-system", nil},
		"uid":                        {m.text(), ""},
		"resourceVersion":            {m.text(), "0", "1", "-1", "18446744073709551616"},
		"generation":                 {int64(-1), int64(1<<63 - 1), "1"},
		"creationTimestamp":          {m.text(), nil, "2026-01-01T00:00:00Z"},
		"deletionTimestamp":          {m.text(), "2026-01-01T00:00:00Z"},
		"deletionGracePeriodSeconds": {int64(-1), int64(0), int64(1<<63 - 1)},
		"labels":                     {map[string]any{m.text(): m.text()}, map[string]any{"a": nil}, m.junk()},
		"annotations":                {map[string]any{m.text(): m.text()}, map[string]any{"a": strings.Repeat("a", 1<<18)}, m.junk()},
		"ownerReferences": {[]any{owner, owner}, []any{map[string]any{}}, []any{nil}, []any{map[string]any{"apiVersion": "a/b/c", "kind": "Event", "name": m.text(), "uid": m.text(), "controller": true}},
			[]any{map[string]any{"apiVersion": "v1", "kind": "Event", "name": "a", "uid": "1", "blockOwnerDeletion": true}}, m.junk()},
		"finalizers": {[]any{m.text()}, []any{"orphan", "foregroundDeletion"}, []any{"a.example.com/a", "a.example.com/a"}, m.junk()},
		"managedFields": {[]any{map[string]any{"manager": m.text(), "operation": pick(m, []any{"Apply", "Update", "Nothing"}), "apiVersion": m.text(), "fieldsType": "FieldsV1", "fieldsV1": m.junk()}},
			[]any{map[string]any{"manager": "a", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": map[string]any{"f:metadata": map[string]any{"k:{": m.junk(), "v:": nil, "i:-1": map[string]any{}}}}},
			[]any{}, []any{map[string]any{}}, m.junk()},
		"selfLink": {m.text()},
		m.text():   {m.junk()},
	}
	name := pick(m, slices.Sorted(maps.Keys(broken)))
	metadata[name] = pick(m, broken[name])
}

func deepCopy(value any) any {
	switch value := value.(type) {
	case map[string]any:
		copied := make(map[string]any, len(value))
		for key, below := range value {
			copied[key] = deepCopy(below)
		}
		return copied
	case []any:
		copied := make([]any, len(value))
		for i, below := range value {
			copied[i] = deepCopy(below)
		}
		return copied
	}
	return value
}

func sortedKeys[T any](from map[string]T) []string { return slices.Sorted(maps.Keys(from)) }

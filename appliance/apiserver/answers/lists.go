// Package answers writes long answers.
//
// In:       lists of objects on their way to a client; whether the client understands gzip.
// Out:      the bytes the library would write, for half the processor time.
// Promise:  what is kept of answers is bounded, and gone half a minute after the last list that used it.
// Not here: what is answered, and in which format (k8s.io/apiserver); streams, such as watches and logs.
package answers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Serializer is another one, whose lists in JSON are put together from what was encoded for earlier lists. Turning an
// object into JSON is most of what a list costs, and lists that are asked for again and again differ in few objects.
type Serializer struct {
	runtime.NegotiatedSerializer
	media []runtime.SerializerInfo
}

// NewSerializer wraps a serializer of objects that never change without their resourceVersion.
func NewSerializer(of runtime.NegotiatedSerializer) *Serializer {
	s, kept := &Serializer{NegotiatedSerializer: of}, &pieces{}
	for _, info := range of.SupportedMediaTypes() {
		if info.MediaType == runtime.ContentTypeJSON {
			info.Serializer = &lists{info.Serializer, kept}
		}
		s.media = append(s.media, info)
	}
	return s
}

// SupportedMediaTypes is where the library finds the encoder of an answer.
func (s *Serializer) SupportedMediaTypes() []runtime.SerializerInfo { return s.media }

// lists is the JSON serializer.
type lists struct {
	runtime.Serializer
	kept *pieces
}

// together is how many objects are written at once: enough to make a write worth it, few enough for a long list not to
// be in memory as a whole.
const together = 64

// Encode writes what the other serializer would.
func (l *lists) Encode(obj runtime.Object, w io.Writer) error {
	items := itemsOf(obj)
	if !items.IsValid() || items.Len() == 0 {
		return l.Serializer.Encode(obj, w)
	}
	var out bytes.Buffer
	if err := l.Serializer.Encode(without(obj), &out); err != nil {
		return err
	}
	const end = "]}\n"
	if !bytes.HasSuffix(out.Bytes(), []byte(`"items":[`+end)) {
		return l.Serializer.Encode(obj, w) // a list of another shape
	}
	out.Truncate(out.Len() - len(end))
	room := generation // a longer list would push out what it kept itself
	texts := make([][]byte, together)
	for first := 0; first < items.Len(); first += together {
		some := items.Slice(first, min(first+together, items.Len()))
		if err := l.encode(some, texts[:some.Len()], &room); err != nil {
			return err
		}
		for i, text := range texts[:some.Len()] {
			if first+i > 0 {
				out.WriteByte(',')
			}
			out.Write(text)
		}
		if first+together >= items.Len() {
			out.WriteString(end)
		}
		if _, err := w.Write(out.Bytes()); err != nil {
			return err
		}
		out.Reset()
	}
	return nil
}

// encode fills in the texts of some items, and keeps those that are new while there is room.
func (l *lists) encode(items reflect.Value, texts [][]byte, room *int) error {
	keys := make([]key, len(texts))
	for i := range keys {
		keys[i] = keyOf(items.Index(i))
	}
	l.kept.find(keys, texts)
	fresh := map[key][]byte{}
	for i := range texts {
		if texts[i] != nil {
			*room -= len(texts[i])
			continue
		}
		text, err := json.Marshal(items.Index(i).Addr().Interface())
		if err != nil {
			return fmt.Errorf("encode item of a list: %w", err)
		}
		if texts[i] = text; keys[i] != (key{}) && *room >= len(text) {
			fresh[keys[i]] = text
			*room -= len(text)
		}
	}
	if len(fresh) > 0 {
		l.kept.keep(fresh)
	}
	return nil
}

// key is a state of an object, in one version of its kind. None for what has no such state.
type key struct {
	kind    reflect.Type
	uid     types.UID
	version string
}

// keyOf finds none for objects that name their kind: they were made for this answer, as those of a metadata list are.
func keyOf(item reflect.Value) key {
	obj := item.Addr().Interface().(stored)
	if obj.GetUID() == "" || obj.GetResourceVersion() == "" || !obj.GetObjectKind().GroupVersionKind().Empty() {
		return key{}
	}
	return key{item.Type(), obj.GetUID(), obj.GetResourceVersion()}
}

// stored is what stores have.
type stored interface {
	runtime.Object
	metav1.Object
}

var storedType = reflect.TypeFor[stored]()

// itemsOf is the slice of a list of objects that may be stored; no value for anything else.
func itemsOf(obj runtime.Object) reflect.Value {
	if _, ok := obj.(metav1.ListMetaAccessor); !ok {
		return reflect.Value{}
	}
	if _, ok := obj.(json.Marshaler); ok {
		return reflect.Value{}
	}
	list := reflect.ValueOf(obj)
	if list.Kind() != reflect.Pointer || list.Elem().Kind() != reflect.Struct {
		return reflect.Value{}
	}
	items := list.Elem().FieldByName("Items")
	if !items.IsValid() || items.Kind() != reflect.Slice || items.Type().Elem().Kind() != reflect.Struct || !reflect.PointerTo(items.Type().Elem()).Implements(storedType) {
		return reflect.Value{}
	}
	return items
}

// without is the list with no items.
func without(list runtime.Object) runtime.Object {
	was := reflect.ValueOf(list).Elem()
	empty := reflect.New(was.Type())
	empty.Elem().Set(was)
	items := empty.Elem().FieldByName("Items")
	items.Set(reflect.MakeSlice(items.Type(), 0, 0))
	return empty.Interface().(runtime.Object)
}

package hostile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// writers change one object at the same time. Each write that is done refuses most of what the others have under way,
// so more of them only try more often.
const writers = 16

// mark is the key under which a write says which it is.
const mark = "mark"

// contested is the object all of them write, as one of them sees it.
type contested struct {
	corev1client.ConfigMapInterface
	writer int
	ctx    context.Context
}

// ways to count one more in the object, each in a key of its own, so that a write which undoes another's is seen.
var ways = []func(c contested, id string) error{
	func(c contested, id string) error { // read, replace
		have, err := c.Get(c.ctx, "counter", metav1.GetOptions{})
		if err != nil {
			return err
		}
		have.Data["replace"], have.Data[mark] = next(have.Data["replace"]), id
		_, err = c.Update(c.ctx, have, metav1.UpdateOptions{})
		return err
	},
	func(c contested, id string) error { // read, patch what has that version
		have, err := c.Get(c.ctx, "counter", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return c.patch(types.MergePatchType, map[string]any{
			"metadata": map[string]any{"resourceVersion": have.ResourceVersion},
			"data":     map[string]any{"merge": next(have.Data["merge"]), mark: id},
		})
	},
	func(c contested, id string) error { // read, patch what has that value
		have, err := c.Get(c.ctx, "counter", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return c.patch(types.JSONPatchType, []any{
			map[string]any{"op": "test", "path": "/data/json", "value": have.Data["json"]},
			map[string]any{"op": "replace", "path": "/data/json", "value": next(have.Data["json"])},
			map[string]any{"op": "replace", "path": "/data/" + mark, "value": id},
		})
	},
	func(c contested, id string) error { // patch a key that nobody else writes
		own := ownKey(c.writer)
		have, err := c.Get(c.ctx, "counter", metav1.GetOptions{})
		if err != nil {
			return err
		}
		return c.patch(types.StrategicMergePatchType, map[string]any{"data": map[string]any{own: next(have.Data[own]), mark: id}})
	},
}

func ownKey(writer int) string { return fmt.Sprintf("own-%d", writer) }

func (c contested) patch(kind types.PatchType, content any) error {
	encoded, err := json.Marshal(content)
	if err != nil {
		return err
	}
	_, err = c.Patch(c.ctx, "counter", kind, encoded, metav1.PatchOptions{})
	return err
}

// TestNoUpdateIsLost lets many writers count in one object, each in several ways to change it, and follows the object
// through all its versions. Every version has to be the one before it and one write more, and every write that was
// answered as done has to be one of them.
func TestNoUpdateIsLost(t *testing.T) {
	total := number(t, "KNARR_HOSTILE_WRITES", 160)
	began := time.Now()
	namespace := room(t, server, "lost")
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	objects := server.clientset(t).CoreV1().ConfigMaps(namespace)
	first := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"replace": "0", "merge": "0", "json": "0", mark: ""}}
	for writer := range writers {
		first.Data[ownKey(writer)] = "0"
	}
	first, err := objects.Create(ctx, first, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	versions := follow(ctx, t, objects, first.ResourceVersion, total)

	var group sync.WaitGroup
	var tries atomic.Int64
	for writer := range writers {
		client, err := kubernetes.NewForConfig(server.config)
		if err != nil {
			t.Fatal(err)
		}
		object := contested{client.CoreV1().ConfigMaps(namespace), writer, ctx}
		group.Go(func() {
			for i := writer; i < total; i += writers {
				for {
					tries.Add(1)
					err := ways[(i+i/writers)%len(ways)](object, strconv.Itoa(i))
					if err == nil {
						break
					}
					// A test that fails is how a JSON patch says conflict.
					if !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) {
						t.Errorf("write %d: %v", i, err)
						return
					}
				}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		return
	}
	last, err := objects.Get(ctx, "counter", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	record := newHistory(first.Data)
	for record.version != last.ResourceVersion {
		select {
		case version := <-versions:
			if err := record.append(version); err != nil {
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatalf("after %d of %d writes the watch shows nothing more", len(record.marks), total)
		}
	}
	for i := range total {
		if !record.marks[strconv.Itoa(i)] {
			t.Errorf("write %d was answered as done and never was", i)
		}
	}
	t.Logf("%d writes in %s, of %d that were tried", len(record.marks), time.Since(began).Round(time.Second), tries.Load())
}

// follow hands out all versions of the object from one on; up to so many wait to be looked at.
func follow(ctx context.Context, t *testing.T, objects corev1client.ConfigMapInterface, version string, most int) <-chan *corev1.ConfigMap {
	t.Helper()
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, "counter").String()
			return objects.Watch(ctx, options)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	versions := make(chan *corev1.ConfigMap, most)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range watcher.ResultChan() {
			object, ok := event.Object.(*corev1.ConfigMap)
			if !ok {
				t.Errorf("the watch shows %s: %v", event.Type, event.Object)
				return
			}
			select {
			case versions <- object:
			case <-ctx.Done():
				return
			}
		}
	}()
	t.Cleanup(func() {
		watcher.Stop()
		<-ended
	})
	return versions
}

// history of an object in which writes count.
type history struct {
	data    map[string]string
	version string
	marks   map[string]bool // of all writes so far
}

func newHistory(data map[string]string) *history {
	return &history{data: data, marks: map[string]bool{}}
}

// append a version. It is an error if that is anything but one write more.
func (h *history) append(object *corev1.ConfigMap) error {
	id := object.Data[mark]
	var counted []string
	for _, key := range sortedKeys(object.Data) {
		if key != mark && object.Data[key] != h.data[key] {
			counted = append(counted, key)
		}
	}
	switch {
	case len(object.Data) != len(h.data):
		return fmt.Errorf("write %s: keys went from %v to %v", id, sortedKeys(h.data), sortedKeys(object.Data))
	case len(counted) != 1:
		return fmt.Errorf("write %s changed %v: from %v to %v", id, counted, h.data, object.Data)
	case object.Data[counted[0]] != next(h.data[counted[0]]):
		return fmt.Errorf("write %s changed %s from %s to %s", id, counted[0], h.data[counted[0]], object.Data[counted[0]])
	case h.marks[id]:
		return fmt.Errorf("write %s was done twice", id)
	}
	h.data, h.version = object.Data, object.ResourceVersion
	h.marks[id] = true
	return nil
}

func next(count string) string {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err.Error()
	}
	return strconv.Itoa(n + 1)
}

// TestHistory is what the test above would not overlook.
func TestHistory(t *testing.T) {
	tests := map[string]struct {
		data map[string]string
		want error
	}{
		"one write more": {data: map[string]string{"a": "8", "b": "3", mark: "2"}},
		"a write that undoes another": {data: map[string]string{"a": "6", "b": "4", mark: "2"},
			want: errors.New("write 2 changed [a b]: from map[a:7 b:3 mark:1] to map[a:6 b:4 mark:2]")},
		"one that undoes another's key": {data: map[string]string{"a": "8", mark: "2"}, want: errors.New("write 2: keys went from [a b mark] to [a mark]")},
		"two at once":                   {data: map[string]string{"a": "9", "b": "3", mark: "2"}, want: errors.New("write 2 changed a from 7 to 9")},
		"one that comes again":          {data: map[string]string{"a": "8", "b": "3", mark: "1"}, want: errors.New("write 1 was done twice")},
		"one that counts nothing":       {data: map[string]string{"a": "7", "b": "3", mark: "2"}, want: errors.New("write 2 changed []: from map[a:7 b:3 mark:1] to map[a:7 b:3 mark:2]")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHistory(map[string]string{"a": "7", "b": "3", mark: "1"})
			h.marks["1"] = true
			err := h.append(&corev1.ConfigMap{Data: tc.data})
			if fmt.Sprint(err) != fmt.Sprint(tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

package hostile_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	// customers write at the same time, each to objects of its own, so that a kill hits writes in every state.
	customers = 8
	// shelves is how many objects a customer has.
	shelves = 5
)

// absent is the content of an object that is not there.
const absent = ""

// entry is what a customer knows of one object.
type entry struct {
	sure  string // what the server last acknowledged
	maybe string // what was asked for without an answer; sure otherwise
}

// TestWhatWasAcknowledgedSurvivesAKill kills the server in the middle of writes, again and again. When it is back, every
// object must be as it was last acknowledged, or as the one request left it that got no answer.
func TestWhatWasAcknowledgedSurvivesAKill(t *testing.T) {
	kills, seed := number(t, "KNARR_HOSTILE_KILLS", 2), number(t, "KNARR_HOSTILE_SEED", 1)
	random := rand.New(rand.NewPCG(uint64(seed), 0))
	dir, err := os.MkdirTemp("", "knarr-killed-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	books := make([]map[string]entry, customers)
	for i := range books {
		books[i] = map[string]entry{}
	}
	var written, open int
	for range kills {
		victim, err := start(dir)
		if err != nil {
			t.Fatal(err)
		}
		open += compare(t, victim, books)
		written += writeUntilKilled(t, victim, books, 1+random.IntN(300))
	}
	survivor, err := start(dir)
	if err != nil {
		t.Fatal(err)
	}
	open += compare(t, survivor, books)
	if err := survivor.stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%d kills (seed %d): %d writes were acknowledged, %d were under way", kills, seed, written, open)
}

// compare looks for everything the books are sure of, and settles what they are not; it says how much that was.
func compare(t *testing.T, c *child, books []map[string]entry) (open int) {
	t.Helper()
	list, err := c.clientset(t).CoreV1().ConfigMaps(metav1.NamespaceDefault).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]string{}
	for _, object := range list.Items {
		stored[object.Name] = object.Data["content"]
	}
	for _, book := range books {
		for name, want := range book {
			got := stored[name]
			if got != want.sure && got != want.maybe {
				t.Errorf("%s: %q was acknowledged and %q under way; after the kill it is %q", name, want.sure, want.maybe, got)
			}
			if want.sure != want.maybe {
				open++
			}
			book[name] = entry{got, got}
		}
	}
	return open
}

// writeUntilKilled lets all customers write, kills the server after some acknowledged writes and says how many there were.
func writeUntilKilled(t *testing.T, c *child, books []map[string]entry, most int) int {
	t.Helper()
	var acknowledged atomic.Int64
	enough, once := make(chan struct{}), sync.Once{}
	var group sync.WaitGroup
	for i := range customers {
		client, err := kubernetes.NewForConfig(c.config)
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			objects := client.CoreV1().ConfigMaps(metav1.NamespaceDefault)
			for n := 0; ; n++ {
				name := fmt.Sprintf("customer-%d-%d", i, n%shelves)
				if err := writeOne(objects, books[i], name, n); err != nil {
					if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
						t.Errorf("write %s: %v", name, err) // an answer, and no good one
					}
					return
				}
				if acknowledged.Add(1) >= int64(most) {
					once.Do(func() { close(enough) })
				}
			}
		})
	}
	<-enough
	if err := c.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	group.Wait()
	if err := c.stop(); err == nil {
		t.Error(errors.New("the server was killed and ended well"))
	}
	return int(acknowledged.Load())
}

// writeOne makes, replaces, patches or deletes one object, and writes down what it knows before and after.
func writeOne(objects corev1client.ConfigMapInterface, book map[string]entry, name string, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	before := book[name]
	content := fmt.Sprintf("%d-%d", n, rand.Uint64()) // never the same twice
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"content": content}}
	var err error
	switch {
	case before.sure == absent:
		book[name] = entry{before.sure, content}
		_, err = objects.Create(ctx, object, metav1.CreateOptions{})
	case n/shelves%3 == 0:
		book[name] = entry{before.sure, content}
		_, err = objects.Update(ctx, object, metav1.UpdateOptions{})
	case n/shelves%3 == 1:
		book[name] = entry{before.sure, content}
		_, err = objects.Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"content":"`+content+`"}}`), metav1.PatchOptions{})
	default:
		content = absent
		book[name] = entry{before.sure, absent}
		err = objects.Delete(ctx, name, metav1.DeleteOptions{})
	}
	if err == nil {
		book[name] = entry{content, content}
	}
	return err
}

package hostile_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// writers change one object together.
const writers = 32

// TestNoUpdateIsLost lets many writers count in one object, each in a way of its own to change it. Every write that
// was answered as done must be in the sum.
func TestNoUpdateIsLost(t *testing.T) {
	total := number(t, "KNARR_HOSTILE_WRITES", 160)
	ctx, namespace := context.Background(), room(t, "lost")
	objects := server.clientset(t).CoreV1().ConfigMaps(namespace)
	ways := map[string]func(ctx context.Context, client corev1client.ConfigMapInterface, key string) error{
		"read, replace": func(ctx context.Context, client corev1client.ConfigMapInterface, _ string) error {
			have, err := client.Get(ctx, "counter", metav1.GetOptions{})
			if err != nil {
				return err
			}
			have.Data["replace"] = next(have.Data["replace"])
			_, err = client.Update(ctx, have, metav1.UpdateOptions{})
			return err
		},
		"read, patch by version": func(ctx context.Context, client corev1client.ConfigMapInterface, _ string) error {
			have, err := client.Get(ctx, "counter", metav1.GetOptions{})
			if err != nil {
				return err
			}
			return patch(ctx, client, types.MergePatchType, map[string]any{"metadata": map[string]any{"resourceVersion": have.ResourceVersion}, "data": map[string]any{"merge": next(have.Data["merge"])}})
		},
		"read, patch by test": func(ctx context.Context, client corev1client.ConfigMapInterface, _ string) error {
			have, err := client.Get(ctx, "counter", metav1.GetOptions{})
			if err != nil {
				return err
			}
			return patch(ctx, client, types.JSONPatchType, []any{
				map[string]any{"op": "test", "path": "/data/json", "value": have.Data["json"]},
				map[string]any{"op": "replace", "path": "/data/json", "value": next(have.Data["json"])},
			})
		},
		"a key of one's own": func(ctx context.Context, client corev1client.ConfigMapInterface, key string) error {
			return patch(ctx, client, types.StrategicMergePatchType, map[string]any{"data": map[string]any{key: "1"}})
		},
	}
	first := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "counter"}, Data: map[string]string{"replace": "0", "merge": "0", "json": "0"}}
	if _, err := objects.Create(ctx, first, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	names := sortedKeys(ways)
	var group sync.WaitGroup
	conflicts := make([]int, writers)
	for writer := range writers {
		group.Go(func() {
			client, err := kubernetes.NewForConfig(server.config)
			if err != nil {
				t.Error(err)
				return
			}
			mine := client.CoreV1().ConfigMaps(namespace)
			for i := range total / writers {
				way := ways[names[(writer+i)%len(names)]]
				for {
					err := way(ctx, mine, fmt.Sprintf("own-%d-%d", writer, i))
					if err == nil {
						break
					}
					// A test that fails is how a JSON patch says conflict.
					if !apierrors.IsConflict(err) && !apierrors.IsInvalid(err) {
						t.Errorf("write: %v", err)
						return
					}
					conflicts[writer]++
				}
			}
		})
	}
	group.Wait()
	got, err := objects.Get(ctx, "counter", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	done, refused := total/writers*writers, 0
	for _, n := range conflicts {
		refused += n
	}
	sum := len(got.Data) - len(first.Data)
	for name := range first.Data {
		n, err := strconv.Atoi(got.Data[name])
		if err != nil {
			t.Fatal(err)
		}
		sum += n
	}
	t.Logf("%d writes were done, %d refused as conflicts", done, refused)
	if sum != done {
		t.Errorf("%d writes were answered as done, %d are in the object", done, sum)
	}
}

func next(count string) string {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err.Error()
	}
	return strconv.Itoa(n + 1)
}

func patch(ctx context.Context, client corev1client.ConfigMapInterface, kind types.PatchType, content any) error {
	encoded, err := json.Marshal(content)
	if err != nil {
		return err
	}
	_, err = client.Patch(ctx, "counter", kind, encoded, metav1.PatchOptions{})
	return err
}

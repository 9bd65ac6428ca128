package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// operation is one request of a kind the API server is measured with; i is its number.
type operation struct {
	name  string
	share int // one in this many of the total
	do    func(ctx context.Context, c kubernetes.Interface, i int) error
}

// measureAPI loads ConfigMaps of 1 KiB with one client and with 32, each client on a connection of its own.
func measureAPI(ctx context.Context, t *table, n *namespace) error {
	for _, load := range []struct{ clients, total int }{{1, 500}, {32, 3200}} {
		clients, err := connections(ctx, n, load.clients)
		if err != nil {
			return err
		}
		for _, op := range operations(n.name, load.clients) {
			if err := measureOperation(ctx, t, clients, op, load.total/op.share); err != nil {
				return fmt.Errorf("%s with %d clients: %w", op.name, load.clients, err)
			}
		}
	}
	return nil
}

func operations(space string, clients int) []operation {
	payload := strings.Repeat("x", 1024)
	object := func(i int) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%d-%d", clients, i)}, Data: map[string]string{"payload": payload}}
	}
	return []operation{
		{"create", 1, func(ctx context.Context, c kubernetes.Interface, i int) error {
			_, err := c.CoreV1().ConfigMaps(space).Create(ctx, object(i), metav1.CreateOptions{})
			return err
		}},
		{"get", 1, func(ctx context.Context, c kubernetes.Interface, i int) error {
			_, err := c.CoreV1().ConfigMaps(space).Get(ctx, object(i).Name, metav1.GetOptions{})
			return err
		}},
		{"list, limit 50", 1, func(ctx context.Context, c kubernetes.Interface, i int) error {
			_, err := c.CoreV1().ConfigMaps(space).List(ctx, metav1.ListOptions{Limit: 50})
			return err
		}},
		{"list of all", 10, func(ctx context.Context, c kubernetes.Interface, i int) error {
			_, err := c.CoreV1().ConfigMaps(space).List(ctx, metav1.ListOptions{})
			return err
		}},
		{"delete", 1, func(ctx context.Context, c kubernetes.Interface, i int) error {
			return c.CoreV1().ConfigMaps(space).Delete(ctx, object(i).Name, metav1.DeleteOptions{})
		}},
	}
}

// connections are made before the clock starts.
func connections(ctx context.Context, n *namespace, count int) ([]kubernetes.Interface, error) {
	var list []kubernetes.Interface
	for range count {
		c, err := connect(n.kubeconfig)
		if err != nil {
			return nil, err
		}
		if _, err := c.CoreV1().Namespaces().Get(ctx, n.name, metav1.GetOptions{}); err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

func measureOperation(ctx context.Context, t *table, clients []kubernetes.Interface, op operation, total int) error {
	var mu sync.Mutex
	var took []time.Duration
	var errs []error
	var group sync.WaitGroup
	each := total / len(clients)
	begin := time.Now()
	for w, c := range clients {
		group.Go(func() {
			own := make([]time.Duration, 0, each)
			var failed error
			for i := range each {
				at := time.Now()
				if failed = op.do(ctx, c, w*each+i); failed != nil {
					break
				}
				own = append(own, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			if failed != nil {
				errs = append(errs, failed)
			}
		})
	}
	group.Wait()
	rate := float64(len(took)) / time.Since(begin).Seconds()
	t.add(fmt.Sprintf("ConfigMap %s, %d clients", op.name, len(clients)), fmt.Sprintf("%.0f/s  %s", rate, spread(took)))
	return errors.Join(errs...)
}

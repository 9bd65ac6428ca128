package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

const (
	benchLabel = "app=knarr-bench"
	podTimeout = 5 * time.Minute
)

// namespace is where the benchmark's objects live.
type namespace struct {
	kubeconfig string
	client     kubernetes.Interface
	name       string
}

func newNamespace(ctx context.Context, kubeconfig string) (*namespace, error) {
	client, err := connect(kubeconfig)
	if err != nil {
		return nil, err
	}
	n := &namespace{kubeconfig: kubeconfig, client: client, name: "knarr-bench"}
	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: n.name}}, metav1.CreateOptions{})
	if ignoreExists(err) != nil {
		return nil, err
	}
	return n, n.awaitAccount(ctx)
}

func (n *namespace) remove(ctx context.Context) error {
	return n.client.CoreV1().Namespaces().Delete(ctx, n.name, metav1.DeleteOptions{})
}

// awaitAccount waits for the service account pods of the namespace need.
func (n *namespace) awaitAccount(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		_, err := n.client.CoreV1().ServiceAccounts(n.name).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("service account of namespace %s: %w", n.name, err)
		}
	}
}

func pod(name, image string) *corev1.Pod {
	grace, no := int64(1), false
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "knarr-bench"}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace, AutomountServiceAccountToken: &no,
			Containers: []corev1.Container{{Name: "c", Image: image, ImagePullPolicy: corev1.PullIfNotPresent}},
		},
	}
}

// startPods creates pods as fast as one client can and waits until each is Running, as a watch sees it.
func (n *namespace) startPods(ctx context.Context, image string, names []string) ([]time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	changes, err := n.client.CoreV1().Pods(n.name).Watch(ctx, metav1.ListOptions{LabelSelector: benchLabel})
	if err != nil {
		return nil, err
	}
	defer changes.Stop()
	var mu sync.Mutex
	created := map[string]time.Time{}
	failed := make(chan error, 1)
	go func() {
		for _, name := range names {
			mu.Lock()
			created[name] = time.Now()
			mu.Unlock()
			if _, err := n.client.CoreV1().Pods(n.name).Create(ctx, pod(name, image), metav1.CreateOptions{}); err != nil {
				failed <- err
				return
			}
		}
	}()
	waiting := map[string]bool{}
	for _, name := range names {
		waiting[name] = true
	}
	var took []time.Duration
	for len(waiting) > 0 {
		select {
		case err := <-failed:
			return took, err
		case event, open := <-changes.ResultChan():
			if !open {
				return took, fmt.Errorf("%d of %d pods did not run within %s", len(waiting), len(names), podTimeout)
			}
			p, ok := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Deleted || !waiting[p.Name] || p.Status.Phase != corev1.PodRunning {
				continue
			}
			delete(waiting, p.Name)
			mu.Lock()
			took = append(took, time.Since(created[p.Name]))
			mu.Unlock()
		}
	}
	return took, nil
}

// deletePods with a grace of one second, not none: the node must confirm, so that no end runs into the next figure.
func (n *namespace) deletePods(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	begin := time.Now()
	pods := n.client.CoreV1().Pods(n.name)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: benchLabel})
	if err != nil {
		return 0, err
	}
	changes, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: benchLabel, ResourceVersion: list.ResourceVersion})
	if err != nil {
		return 0, err
	}
	defer changes.Stop()
	left := map[string]bool{}
	grace := int64(1)
	for _, p := range list.Items {
		left[p.Name] = true
		if err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil && !apierrors.IsNotFound(err) {
			return 0, err
		}
	}
	for len(left) > 0 {
		event, open := <-changes.ResultChan()
		if !open {
			return 0, fmt.Errorf("%d pods were not gone within %s", len(left), podTimeout)
		}
		if p, ok := event.Object.(*corev1.Pod); ok && event.Type == watch.Deleted {
			delete(left, p.Name)
		}
	}
	return time.Since(begin), nil
}

func measurePods(ctx context.Context, t *table, n *namespace, image string, single, burst int) error {
	var took []time.Duration
	for i := range single {
		d, err := n.startPods(ctx, image, []string{fmt.Sprintf("single-%d", i)})
		if err != nil {
			return err
		}
		took = append(took, d...)
		if _, err := n.deletePods(ctx); err != nil {
			return err
		}
	}
	t.add(fmt.Sprintf("pod create to Running, one at a time, %d", single), spread(took))

	names := make([]string, burst)
	for i := range names {
		names[i] = fmt.Sprintf("burst-%d", i)
	}
	begin := time.Now()
	took, err := n.startPods(ctx, image, names)
	if err != nil {
		return err
	}
	all := time.Since(begin)
	t.add(fmt.Sprintf("pod create to Running, burst of %d", burst), spread(took))
	gone, err := n.deletePods(ctx)
	if err != nil {
		return err
	}
	t.add(fmt.Sprintf("burst of %d all Running, all gone", burst), fmt.Sprintf("%.2f s, %.2f s", all.Seconds(), gone.Seconds()))
	return nil
}

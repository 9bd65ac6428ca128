// Package podcontrol is what every controller that owns pods does to them.
//
// In:       an owner, its pod template, its pods.
// Out:      pods created, deleted, adopted and released, each with the Event upstream writes.
// Promise:  every write is in the controller's expectations before it is sent, and leaves them if it fails. One that
// nobody answered stays until the server has been asked.
// Not here: how many pods there should be, and which.
package podcontrol

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/expectations"
)

const (
	nameLimit    = 63 // a pod's name is its hostname
	suffixLength = 5
)

// Control does to pods what the controller of a kind of owners does.
type Control[T client.Object] struct {
	Owners[T]
	Client   client.Client
	Live     client.Reader // past the cache
	Events   record.EventRecorder
	Expected *expectations.Expectations
}

// New is the control of a kind of owners of which nothing is expected yet.
func New[T client.Object](owners Owners[T], c client.Client, live client.Reader, events record.EventRecorder, clock clock.PassiveClock) *Control[T] {
	return &Control[T]{Owners: owners, Client: c, Live: live, Events: events, Expected: expectations.New(clock)}
}

// FromTemplate returns the pod a template describes, owned and named by owner.
func FromTemplate(owner client.Object, kind schema.GroupVersionKind, template *corev1.PodTemplateSpec) *corev1.Pod {
	template = template.DeepCopy()
	prefix := owner.GetName() + "-"
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       owner.GetNamespace(),
			Name:            NameFrom(prefix),
			GenerateName:    prefix,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: template.Spec,
	}
}

// NameFrom completes a prefix to a pod's name, shortening it if need be.
func NameFrom(prefix string) string {
	return prefix[:min(len(prefix), nameLimit-suffixLength)] + rand.String(suffixLength)
}

// Pointless says whether a creation failed because the namespace is going or gone: trying again, or telling
// anyone, is no use.
func Pointless(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err)
}

// Unanswered says whether a failed write may have been made all the same: the connection broke, or the server gave up
// waiting for its datastore.
func Unanswered(err error) bool {
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsInternalError(err)
}

// Current says whether the cache shows all that was written for owner; again is when to look once more if it does not.
// It is to be asked before the pods are listed: what the cache shows after this moment includes all we did before it.
func (c *Control[T]) Current(ctx context.Context, owner T) (current bool, again time.Duration, err error) {
	for _, name := range c.Expected.Doubted(owner.GetUID()) {
		made := &metav1.PartialObjectMetadata{}
		made.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
		err := c.Live.Get(ctx, client.ObjectKey{Namespace: owner.GetNamespace(), Name: name}, made)
		switch {
		case client.IgnoreNotFound(err) != nil:
			return false, 0, fmt.Errorf("look whether pod %s was created: %w", name, err)
		case err == nil && metav1.IsControlledBy(made, owner):
			c.Expected.Made(owner.GetUID(), name)
		default: // never made, gone again, or given up
			c.Expected.Created(owner.GetUID(), name)
		}
	}
	current, again = c.Expected.Met(owner.GetUID())
	return current, again, nil
}

// Create sends one pod.
func (c *Control[T]) Create(ctx context.Context, owner T, pod *corev1.Pod) error {
	c.Expected.Creating(owner.GetUID(), pod.Name)
	if err := c.Client.Create(ctx, pod); err != nil {
		if Unanswered(err) {
			c.Expected.Doubt(owner.GetUID(), pod.Name)
		} else {
			c.Expected.Created(owner.GetUID(), pod.Name)
		}
		if !Pointless(err) {
			c.Events.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return fmt.Errorf("create a pod for %s %s: %w", c.Kind.Kind, owner.GetName(), err)
	}
	c.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

// Delete deletes one pod; that it is gone already is no error.
func (c *Control[T]) Delete(ctx context.Context, owner T, pod *corev1.Pod) error {
	err := c.delete(ctx, owner, pod, client.Preconditions{UID: &pod.UID})
	if apierrors.IsConflict(err) { // another of its name
		return nil
	}
	return err
}

// DeleteUnchanged deletes one pod that is still of that version; of one that is not, the error says so.
func (c *Control[T]) DeleteUnchanged(ctx context.Context, owner T, pod *corev1.Pod, version string) error {
	return c.delete(ctx, owner, pod, client.Preconditions{UID: &pod.UID, ResourceVersion: &version})
}

func (c *Control[T]) delete(ctx context.Context, owner T, pod *corev1.Pod, only client.Preconditions) error {
	c.Expected.Deleting(owner.GetUID(), pod.Name)
	err := c.Client.Delete(ctx, pod.DeepCopy(), only)
	if err != nil {
		c.Expected.Deleted(owner.GetUID(), pod.Name)
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsConflict(err):
			return err
		}
		c.Events.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s of %s %s: %w", pod.Name, c.Kind.Kind, owner.GetName(), err)
	}
	c.Events.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// SlowStart calls act n times in batches of 1, 2, 4 and so on, a batch side by side, and stops after the first
// batch with an error: what the API server refuses once it mostly refuses always, and a thousand equal refusals
// help nobody. It returns how many calls succeeded.
func SlowStart(n int, act func(i int) error) (int, error) {
	done := 0
	for batch := 1; done < n; batch *= 2 {
		size := min(batch, n-done)
		succeeded, err := Together(size, func(i int) error { return act(done + i) })
		if err != nil {
			return done + succeeded, err
		}
		done += size
	}
	return done, nil
}

// Together calls act n times side by side and returns how many calls succeeded.
func Together(n int, act func(i int) error) (int, error) {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = act(i) })
	}
	wg.Wait()
	succeeded := 0
	for _, err := range errs {
		if err == nil {
			succeeded++
		}
	}
	return succeeded, errors.Join(errs...)
}

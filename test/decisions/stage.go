package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/scheduler/corpus"
)

const (
	// answerIn is how long a scheduler may take for one pod.
	answerIn = 10 * time.Second
	// secondThought is enough for its first back-off.
	secondThought = 3 * time.Second
)

// stage is a cluster in which one case after the other is played.
type stage struct {
	api   client.WithWatch
	asked *extender
}

// build makes what all cases have in common: namespaces whose pods have an account.
func (s *stage) build(ctx context.Context) error {
	for _, name := range []string{corpus.Namespace, "bank", "mint"} {
		err := s.api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if err == nil || apierrors.IsAlreadyExists(err) {
			err = s.api.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	return nil
}

// decide plays a case. The complaint says how the decision differs from the stated one, "" if it does not.
func (s *stage) decide(ctx context.Context, c corpus.Case) (complaint string, err error) {
	var made []client.Object
	defer func() { err = errors.Join(err, s.strike(ctx, made)) }()
	if err := s.sweep(ctx); err != nil { // what the scheduler made after the last case was taken away
		return "", err
	}
	for _, o := range c.Objects {
		o = o.DeepCopyObject().(client.Object)
		if err := s.make(ctx, o); err != nil {
			return "", err
		}
		made = append(made, o)
	}
	pod := c.Pod.DeepCopy()
	watcher, err := s.api.Watch(ctx, &corev1.PodList{}, client.InNamespace(corpus.Namespace), client.MatchingFields{"metadata.name": pod.Name})
	if err != nil {
		return "", fmt.Errorf("watch the pod: %w", err)
	}
	defer watcher.Stop()
	if err := s.make(ctx, pod); err != nil {
		return "", err
	}
	made = append(made, pod)
	if c.Best == nil {
		s.asked.hold(pod.UID)
	}
	fits, placed, err := s.await(ctx, pod.UID, c, watcher)
	if err != nil {
		return "", err
	}
	return verdict(c, fits, placed), nil
}

// await is what the scheduler does about a pod. That no node will do is taken for its last word only if that is stated,
// or if it does not think better of it: it may have seen the pod before the nodes.
func (s *stage) await(ctx context.Context, pod types.UID, c corpus.Case, watcher watch.Interface) (fits []string, placed string, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	var better <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			if len(c.Fits) == 0 {
				return nil, "", nil // it may keep pods aside of which it knows that they cannot be placed
			}
			return nil, "", errors.New("the scheduler says nothing about the pod")
		case <-better:
			return fits, "", nil
		case seen := <-s.asked.seen:
			if seen.pod != pod {
				continue
			}
			fits = seen.nodes
			if c.Best == nil {
				return fits, "", nil
			}
		case e, open := <-watcher.ResultChan():
			if !open {
				return nil, "", errors.New("the watch of the pod has ended")
			}
			p, ok := e.Object.(*corev1.Pod)
			if !ok || p.UID != pod {
				continue
			}
			// A pod whose volumes have to be bound first is not bound here, where nobody does that; but it says where it
			// is expected to go (KEP-5278).
			if chosen := cmp.Or(p.Spec.NodeName, p.Status.NominatedNodeName); chosen != "" {
				return s.lastSeen(pod, fits), chosen, nil
			}
			for _, condition := range p.Status.Conditions {
				if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse && condition.Reason == corev1.PodReasonUnschedulable {
					if len(c.Fits) == 0 {
						return s.lastSeen(pod, fits), "", nil
					}
					better = time.After(secondThought)
				}
			}
		}
	}
}

// lastSeen drains what the extender was asked, which may be in the queue behind the pod's news.
func (s *stage) lastSeen(pod types.UID, fits []string) []string {
	for {
		select {
		case seen := <-s.asked.seen:
			if seen.pod == pod {
				fits = seen.nodes
			}
		default:
			return fits
		}
	}
}

// make creates an object as it is stated, status included.
func (s *stage) make(ctx context.Context, o client.Object) error {
	stated := o.DeepCopyObject().(client.Object)
	o.SetUID("")
	if pod, ok := o.(*corev1.Pod); ok && pod.Spec.Overhead != nil {
		if err := s.giveOverhead(ctx, pod); err != nil {
			return err
		}
	}
	err := s.api.Create(ctx, o)
	if namespace, ok := o.(*corev1.Namespace); ok && apierrors.IsAlreadyExists(err) {
		return s.relabel(ctx, namespace)
	}
	if err != nil {
		return fmt.Errorf("create %T %s: %w", o, o.GetName(), err)
	}
	switch o := o.(type) {
	case *corev1.Node:
		o.Status = stated.(*corev1.Node).Status
		if err = s.api.Status().Update(ctx, o); err == nil {
			o.Spec.Taints = stated.(*corev1.Node).Spec.Taints // admission added that it is new
			err = s.api.Update(ctx, o)
		}
	case *corev1.Pod:
		if status := stated.(*corev1.Pod).Status; status.Phase != "" || len(status.Conditions) > 0 {
			o.Status = status
			err = s.api.Status().Update(ctx, o)
		}
	case *corev1.PersistentVolume:
		o.Status = stated.(*corev1.PersistentVolume).Status
		err = s.api.Status().Update(ctx, o)
	case *corev1.PersistentVolumeClaim:
		o.Status = stated.(*corev1.PersistentVolumeClaim).Status
		err = s.api.Status().Update(ctx, o)
	case *resourcev1.ResourceClaim:
		if status := stated.(*resourcev1.ResourceClaim).Status; status.Allocation != nil {
			o.Status = status
			err = s.api.Status().Update(ctx, o)
		}
	}
	if err != nil {
		return fmt.Errorf("make %T %s what is stated: %w", o, o.GetName(), err)
	}
	return nil
}

// giveOverhead lets a pod have its overhead the way pods get it: by a runtime class.
func (s *stage) giveOverhead(ctx context.Context, pod *corev1.Pod) error {
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{GenerateName: "overhead-"}, Handler: "runc", Overhead: &nodev1.Overhead{PodFixed: pod.Spec.Overhead}}
	if err := s.api.Create(ctx, class); err != nil {
		return fmt.Errorf("create a runtime class: %w", err)
	}
	pod.Spec.RuntimeClassName = &class.Name
	return nil
}

func (s *stage) relabel(ctx context.Context, stated *corev1.Namespace) error {
	found := &corev1.Namespace{}
	if err := s.api.Get(ctx, client.ObjectKeyFromObject(stated), found); err != nil {
		return fmt.Errorf("read namespace %s: %w", stated.Name, err)
	}
	found.Labels = stated.Labels
	if err := s.api.Update(ctx, found); err != nil {
		return fmt.Errorf("label namespace %s: %w", stated.Name, err)
	}
	return nil
}

// strike takes a case away again, but for its namespaces.
func (s *stage) strike(ctx context.Context, made []client.Object) error {
	for i := len(made) - 1; i >= 0; i-- {
		o := made[i]
		if _, ok := o.(*corev1.Namespace); ok {
			continue
		}
		err := s.api.Delete(ctx, o, client.GracePeriodSeconds(0))
		if err == nil {
			err = s.api.Patch(ctx, o, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete %T %s: %w", o, o.GetName(), err)
		}
	}
	return s.sweep(ctx)
}

// sweep deletes the claims a scheduler made for extended resources; nobody else does so here.
func (s *stage) sweep(ctx context.Context) error {
	var claims resourcev1.ResourceClaimList
	if err := s.api.List(ctx, &claims, client.InNamespace(corpus.Namespace)); err != nil {
		return fmt.Errorf("list resource claims: %w", err)
	}
	for i := range claims.Items {
		claim := &claims.Items[i]
		err := s.api.Patch(ctx, claim, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`)))
		if err == nil {
			err = s.api.Delete(ctx, claim)
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete resource claim %s: %w", claim.Name, err)
		}
	}
	return nil
}

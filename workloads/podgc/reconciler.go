// Package podgc deletes pods nobody else will delete any more.
//
// In:       pods and nodes, from the shared cache.
// Out:      pods deleted for good: of nodes that are gone or out of service, unplaced ones that end, too many finished.
// Promise:  a node counts as gone when it has been missing for a while and the API server itself confirms it.
// Not here: pods whose owner is gone (workloads/garbagecollector).
package podgc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/workloads/podcontrol"
)

const (
	// period between sweeps: nothing here is in a hurry, and a sweep only reads memory.
	period = 20 * time.Second
	// quarantine is how long a node must be missing before its pods count as orphans. A node that registers anew
	// under its name takes them back.
	quarantine = 40 * time.Second
	// finishedLimit is upstream's: enough to look at the results of a large Job, little enough for the datastore.
	finishedLimit = 12500
)

// Sweeper looks at all pods every now and then.
type Sweeper struct {
	client  client.Client
	live    client.Reader
	clock   clock.WithTicker   // for what passes between two sweeps
	steady  clock.PassiveClock // for what is written
	log     *slog.Logger
	missing map[string]time.Time // nodes pods name and the cache does not have, since when
}

// Register adds the sweeper to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock, log *slog.Logger) error {
	s := &Sweeper{
		client: mgr.GetClient(), live: mgr.GetAPIReader(), clock: clock.RealClock{}, steady: steady,
		log: log.With("component", "podgc"), missing: map[string]time.Time{},
	}
	if err := mgr.Add(s); err != nil {
		return fmt.Errorf("register the pod garbage collector: %w", err)
	}
	return nil
}

// Start sweeps until ctx ends. It implements the manager's Runnable.
func (s *Sweeper) Start(ctx context.Context) error {
	ticker := s.clock.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C():
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("sweep incomplete; the next one goes on", "err", err)
			}
		}
	}
}

// sweep deletes what one look at all pods finds.
func (s *Sweeper) sweep(ctx context.Context) error {
	var pods corev1.PodList
	var nodes corev1.NodeList
	err := errors.Join(s.client.List(ctx, &pods, client.UnsafeDisableDeepCopy), s.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy))
	if err != nil {
		return fmt.Errorf("list pods and nodes: %w", err)
	}
	now := s.clock.Now()
	s.missing = stillMissing(s.missing, pods.Items, nodes.Items, now)
	var errs []error
	for _, f := range judge(pods.Items, nodes.Items, s.missing, now) {
		if f.why == orphaned {
			gone, err := s.gone(ctx, f.pod.Spec.NodeName)
			if err != nil {
				errs = append(errs, err)
			}
			if !gone {
				continue
			}
		}
		errs = append(errs, s.remove(ctx, f))
	}
	return errors.Join(errs...)
}

// gone asks the API server itself whether a node is gone.
func (s *Sweeper) gone(ctx context.Context, name string) (bool, error) {
	err := s.live.Get(ctx, client.ObjectKey{Name: name}, &corev1.Node{})
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for node %s: %w", name, err)
	}
	return false, nil
}

// remove deletes one pod for good. An unfinished one is marked failed first, so that its owner counts it right.
func (s *Sweeper) remove(ctx context.Context, f finding) error {
	if f.why != surplus && !podcontrol.Terminal(f.pod) {
		marked := failed(f.pod, f.why, s.steady.Now())
		if err := s.client.Status().Patch(ctx, marked, client.StrategicMergeFrom(f.pod)); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("mark pod %s/%s failed: %w", f.pod.Namespace, f.pod.Name, err)
		}
	}
	err := s.client.Delete(ctx, f.pod.DeepCopy(), client.GracePeriodSeconds(0), client.Preconditions{UID: &f.pod.UID})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete pod %s/%s: %w", f.pod.Namespace, f.pod.Name, err)
	}
	return nil
}

// Package election lets one server of a cluster at a time do what only one may.
//
// In:       a Lease in kube-system; the identity leases of the cluster's API servers; elapsed time, never the time of day.
// Out:      the Lease held, and a context that lasts as long as it is.
// Promise:  a leader is told to stop a third of the lease before another may begin, whatever their clocks say; a server
//
//	that restarts goes on at once, and one that stops hands over at once.
//
// Not here: what the leader does (appliance/machine).
package election

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
)

const (
	// retry is how long to wait after a request that failed.
	retry = 2 * time.Second
	// handover bounds the last request of a leader that stops.
	handover = 2 * time.Second
)

// Candidate is one server that can lead.
type Candidate struct {
	leases coordinationv1client.LeaseInterface
	name   string
	me     string
	log    *slog.Logger
}

// New returns a candidate for the Lease of that name in kube-system. me must be this server's alone in the cluster, and
// the same after a restart: what a restarted server held it still holds.
func New(client coordinationv1client.LeasesGetter, name, me string, log *slog.Logger) *Candidate {
	return &Candidate{leases: client.Leases(metav1.NamespaceSystem), name: name, me: me, log: log.With("lease", name)}
}

// Run calls lead each time the lease is won, with a context that ends with it. An error of lead ends Run; a lead that
// returns nil before its context has ended ends it too.
func (c *Candidate) Run(ctx context.Context, lead func(ctx context.Context) error) error {
	for ctx.Err() == nil {
		term, err := c.win(ctx)
		if err != nil {
			return nil //nolint:nilerr // only the end of ctx ends the wait
		}
		c.log.Info("leading", "server", c.me)
		if lost, err := c.hold(ctx, term, lead); !lost {
			return err
		}
		c.log.Warn("lead lost; waiting for it again", "server", c.me)
	}
	return nil
}

// term is a lease as this server last wrote it, and when it began to write.
type term struct {
	lease *coordinationv1.Lease
	since time.Time
}

// win returns when the lease is this server's, or ctx ends.
func (c *Candidate) win(ctx context.Context) (*term, error) {
	var view sighting
	for {
		lease, err := c.leases.Get(ctx, c.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			lease, err = nil, nil
		}
		wait := retry
		if err == nil {
			if wait = view.left(lease, c.me); wait == 0 {
				began := time.Now()
				var held *coordinationv1.Lease
				if held, err = c.write(ctx, lease); err == nil {
					return &term{held, began}, nil
				}
				wait = retry
			}
		}
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
			c.log.Warn("lease cannot be had; trying again", "err", err)
		}
		if err := c.await(ctx, lease, wait); err != nil {
			return nil, err
		}
	}
}

// write makes the lease this server's for another while; nil means there is none yet.
func (c *Candidate) write(ctx context.Context, lease *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	next := claim(lease, c.name, c.me, c.alone(ctx), time.Now())
	if lease == nil {
		return c.leases.Create(ctx, next, metav1.CreateOptions{})
	}
	return c.leases.Update(ctx, next, metav1.UpdateOptions{})
}

// alone says whether no other API server has shown itself. In doubt there is one.
func (c *Candidate) alone(ctx context.Context) bool {
	servers, err := c.leases.List(ctx, metav1.ListOptions{LabelSelector: identities, ResourceVersion: "0"})
	return err == nil && len(servers.Items) < 2
}

// hold leads until the lease is lost or ctx ends. lost is false when there is nothing to wait for any more.
func (c *Candidate) hold(ctx context.Context, held *term, lead func(ctx context.Context) error) (lost bool, err error) {
	leading, end := context.WithCancel(ctx)
	defer end()
	done := make(chan error, 1)
	go func() { done <- lead(leading) }()

	kept := c.keep(leading, held, done)
	end()
	if kept.ended {
		c.release(ctx, held)
		return false, kept.err
	}
	if err := <-done; err != nil {
		return false, err
	}
	if ctx.Err() != nil {
		c.release(ctx, held)
		return false, nil
	}
	return true, nil
}

// keeping says how the time of a leader ended: by itself, or else by the lease or ctx.
type keeping struct {
	ended bool
	err   error
}

// keep renews the lease until ctx ends, the lease is another's, or it could become another's before the next try.
func (c *Candidate) keep(ctx context.Context, held *term, done <-chan error) keeping {
	timer := time.NewTimer(renewEvery(held.lease))
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return keeping{true, err}
		case <-ctx.Done():
			return keeping{}
		case <-timer.C:
		}
		deadline := held.since.Add(renewWithin(held.lease))
		if !time.Now().Before(deadline) {
			return keeping{}
		}
		began := time.Now()
		renewed, err := c.renew(ctx, held.lease, deadline)
		switch {
		case err == nil && renewed == nil:
			return keeping{} // another has it
		case err == nil:
			*held = term{renewed, began}
			timer.Reset(renewEvery(renewed))
		default:
			if ctx.Err() == nil {
				c.log.Warn("lease not renewed; trying again", "err", err)
			}
			timer.Reset(min(retry, time.Until(deadline)))
		}
	}
}

// renew returns the renewed lease, nil when it is another's.
func (c *Candidate) renew(ctx context.Context, lease *coordinationv1.Lease, deadline time.Time) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	renewed, err := c.write(ctx, lease)
	if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return renewed, err
	}
	// Somebody wrote it: a person, or the server that has it now. Or we did, and the answer was lost.
	lease, err = c.leases.Get(ctx, c.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return c.write(ctx, nil)
	}
	if err != nil {
		return nil, err
	}
	if holder(lease) != c.me {
		return nil, nil
	}
	return c.write(ctx, lease)
}

// release lets another begin at once. If it fails, the other waits.
func (c *Candidate) release(ctx context.Context, held *term) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handover)
	defer cancel()
	next := held.lease.DeepCopy()
	next.Spec.HolderIdentity = new(string)
	if _, err := c.leases.Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		c.log.Debug("lease not released; it runs out", "err", err)
	}
}

// sighting is the last change of the lease a waiting candidate saw, and when.
type sighting struct {
	version string
	since   time.Time
}

// left is how long the lease still is another's. It runs out when it has not been written to for its whole duration in
// front of our eyes: what its times say is by another machine's clock.
func (s *sighting) left(lease *coordinationv1.Lease, me string) time.Duration {
	now := time.Now()
	if lease != nil && (s.since.IsZero() || s.version != lease.ResourceVersion) {
		s.version, s.since = lease.ResourceVersion, now
	}
	return judge(lease, me, now.Sub(s.since))
}

// await returns when the lease was written to since, or the time is over; an error means ctx has ended.
func (c *Candidate) await(ctx context.Context, lease *coordinationv1.Lease, within time.Duration) error {
	timer := time.NewTimer(within)
	defer timer.Stop()
	var changes <-chan watch.Event
	if lease != nil {
		events, err := c.leases.Watch(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector("metadata.name", c.name).String(), ResourceVersion: lease.ResourceVersion,
		})
		if err == nil {
			defer events.Stop()
			changes = events.ResultChan()
		} else {
			timer.Reset(min(within, retry))
		}
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for lease %s: %w", c.name, ctx.Err())
		case event, open := <-changes:
			if !open || event.Type == watch.Error { // watches end now and then, and those of a broken server at once
				return pause(ctx, min(within, retry))
			}
			if seen, ok := event.Object.(*coordinationv1.Lease); ok && seen.ResourceVersion == lease.ResourceVersion && event.Type != watch.Deleted {
				continue // what we know
			}
		case <-timer.C:
		}
		return nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// Package identity shows which API servers a cluster has.
//
// In:       this server's name; the identity leases of all servers, in kube-system.
// Out:      this server's lease renewed, leases of servers that are gone deleted (KEP-1965).
// Promise:  a lease is deleted only when it was not renewed for its whole duration in front of our eyes: a clock that
//
//	jumps deletes none.
//
// Not here: which server leads (appliance/election).
package identity

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/utils/ptr"
)

const (
	// label and kind select identity leases.
	label = "apiserver.kubernetes.io/identity"
	kind  = "kube-apiserver"

	// lasts is how long readers trust a lease (KEP-1965).
	lasts = time.Hour
	// every leaves room for many failures in lasts, and costs a single write a minute.
	every = time.Minute
	// first keeps the write out of the server's start, where nobody waits for it.
	first = 2 * time.Second
)

// Keeper keeps one server's lease, and tidies up after others.
type Keeper struct {
	leases coordinationv1client.LeaseInterface
	name   string
	log    *slog.Logger
	seen   map[string]sighting
}

// sighting is the last change of a lease we saw, and when, on our own clock.
type sighting struct {
	version string
	since   time.Time
}

// New makes a keeper of the lease of that name; a server's is known by its APIServerID.
func New(client coordinationv1client.LeasesGetter, name string) *Keeper {
	return &Keeper{
		leases: client.Leases(metav1.NamespaceSystem), name: name,
		log: slog.With("component", "apiserver identity"), seen: map[string]sighting{},
	}
}

// Run renews and tidies until ctx ends. The lease stays: a server that restarts is the same one.
func (k *Keeper) Run(ctx context.Context) error {
	timer := time.NewTimer(first)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(every)
		}
		if err := k.settle(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("leases of API servers are not all in order", "err", err)
		}
	}
}

// settle makes one pass.
func (k *Keeper) settle(ctx context.Context) error {
	found, err := k.leases.List(ctx, metav1.ListOptions{LabelSelector: label + "=" + kind, ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list leases of API servers: %w", err)
	}
	var mine *coordinationv1.Lease
	for i := range found.Items {
		if found.Items[i].Name == k.name {
			mine = &found.Items[i]
		}
	}
	if err := k.renew(ctx, mine); err != nil {
		return err
	}
	for _, lease := range gone(found.Items, k.seen, k.name, time.Now()) {
		err := k.leases.Delete(ctx, lease.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete lease %s of an API server that is gone: %w", lease.Name, err)
		}
	}
	return nil
}

func (k *Keeper) renew(ctx context.Context, mine *coordinationv1.Lease) error {
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read this machine's name: %w", err)
	}
	next := wanted(mine, k.name, hostname, time.Now())
	if mine == nil {
		_, err = k.leases.Create(ctx, next, metav1.CreateOptions{})
	} else {
		_, err = k.leases.Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) { // our view was old; there is the next pass
		return fmt.Errorf("renew lease %s of this API server: %w", k.name, err)
	}
	return nil
}

// wanted is a server's lease as it is renewed; have is nil when there is none.
func wanted(have *coordinationv1.Lease, name, hostname string, now time.Time) *coordinationv1.Lease {
	next := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name}}
	if have != nil {
		next = have.DeepCopy()
	}
	metav1.SetMetaDataLabel(&next.ObjectMeta, label, kind)
	metav1.SetMetaDataLabel(&next.ObjectMeta, corev1.LabelHostname, hostname)
	next.Spec.HolderIdentity = &name
	next.Spec.LeaseDurationSeconds = ptr.To(int32(lasts / time.Second))
	next.Spec.RenewTime = ptr.To(metav1.NewMicroTime(now))
	return next
}

// gone are the leases that have not changed for as long as they last. seen is brought up to date.
func gone(leases []coordinationv1.Lease, seen map[string]sighting, me string, now time.Time) []*coordinationv1.Lease {
	var out []*coordinationv1.Lease
	there := map[string]bool{}
	for i := range leases {
		lease := &leases[i]
		if lease.Name == me {
			continue
		}
		there[lease.Name] = true
		s := seen[lease.Name]
		if s.version != lease.ResourceVersion {
			s = sighting{lease.ResourceVersion, now}
			seen[lease.Name] = s
		}
		if now.Sub(s.since) >= duration(lease) {
			out = append(out, lease)
		}
	}
	for name := range seen {
		if !there[name] {
			delete(seen, name)
		}
	}
	return out
}

func duration(lease *coordinationv1.Lease) time.Duration {
	return time.Duration(ptr.Deref(lease.Spec.LeaseDurationSeconds, int32(lasts/time.Second))) * time.Second
}

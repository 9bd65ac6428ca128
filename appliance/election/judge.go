package election

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// identities selects the leases by which API servers show themselves (KEP-1965).
const identities = "apiserver.kubernetes.io/identity=kube-apiserver"

// How long a lease lasts. A server that is alone writes as seldom as a node renews its lease; as soon as another is
// there to take over, it is to do so as soon as upstream's would.
const (
	alone    = 40 * time.Second
	together = 15 * time.Second
)

// judge says how long a lease is still another's; 0 when this server may have it. unchanged is how long it has not been
// written to.
func judge(lease *coordinationv1.Lease, me string, unchanged time.Duration) time.Duration {
	if lease == nil || holder(lease) == "" || holder(lease) == me {
		return 0
	}
	return max(0, duration(lease)-unchanged)
}

// claim is the lease as this server writes it to have it; the times are for people to read.
func claim(lease *coordinationv1.Lease, name, me string, single bool, now time.Time) *coordinationv1.Lease {
	at := metav1.NewMicroTime(now)
	next := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: name}}
	if lease != nil {
		next = lease.DeepCopy()
	}
	if holder(next) != me {
		if lease != nil {
			next.Spec.LeaseTransitions = ptr.To(ptr.Deref(lease.Spec.LeaseTransitions, 0) + 1)
		}
		next.Spec.HolderIdentity, next.Spec.AcquireTime = &me, &at
	}
	lasts := together
	if single {
		lasts = alone
	}
	next.Spec.LeaseDurationSeconds, next.Spec.RenewTime = ptr.To(int32(lasts/time.Second)), &at
	return next
}

func holder(lease *coordinationv1.Lease) string { return ptr.Deref(lease.Spec.HolderIdentity, "") }

// duration is what a lease says; one that says nothing lasts as long as one of several servers.
func duration(lease *coordinationv1.Lease) time.Duration {
	if lease.Spec.LeaseDurationSeconds == nil {
		return together
	}
	return time.Duration(*lease.Spec.LeaseDurationSeconds) * time.Second
}

// renewEvery leaves time for a second and a third try.
func renewEvery(lease *coordinationv1.Lease) time.Duration { return duration(lease) / 4 }

// renewWithin is how long a leader leads after its last renewal; the rest of the lease is its time to stop.
func renewWithin(lease *coordinationv1.Lease) time.Duration { return duration(lease) * 2 / 3 }

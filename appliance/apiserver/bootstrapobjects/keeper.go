// Package bootstrapobjects keeps the objects a cluster has before anybody made one.
//
// In:       where the API server is, the service networks, certificates others need to know.
// Out:      the system namespaces, the kubernetes Service and its endpoints, the ServiceCIDR, the system priority
//
//	classes, flow control's levels and schemas, the extension-apiserver-authentication ConfigMap.
//
// Promise:  they exist when the server is called ready, and what is deleted or damaged comes back.
// Not here: roles (appliance/apiserver/baseline), service accounts (workloads).
package bootstrapobjects

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/appliance/apiserver/scheme"
)

// every is how long a deleted object may be missing. A pass costs some forty reads from the watch cache in memory.
const every = 30 * time.Second

// peersEvery is how often this server says that it is there, and looks who else is: a third of the time after which
// one that died no longer counts.
const peersEvery = 10 * time.Second

// Peers are the API servers of the cluster; all of them are endpoints of the kubernetes Service.
type Peers interface {
	Announce(ctx context.Context) error
	Withdraw(ctx context.Context) error
	Present(ctx context.Context) (addresses []string, err error)
}

// Config is what the objects say.
type Config struct {
	Peers        Peers
	Advertise    netip.Addr
	Port         int
	ServiceCIDRs []netip.Prefix

	ClientCA, FrontProxyCA                                               string // files
	UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes, AllowedProxies []string
}

// Keeper keeps the objects.
type Keeper struct {
	client  kubernetes.Interface
	config  Config
	log     *slog.Logger
	present []string // addresses of the API servers that are there, this one's among them
}

// New makes a keeper with a client that may do everything.
func New(client kubernetes.Interface, config Config) *Keeper {
	return &Keeper{client: client, config: config, log: slog.With("component", "bootstrapobjects")}
}

// Settle makes one pass. Namespaces come first since other objects live in them; the rest goes side by side.
func (k *Keeper) Settle(ctx context.Context) error {
	if err := together(ctx, append(k.namespaces(), k.meet)); err != nil {
		return err
	}
	rest, err := k.objects()
	if err != nil {
		return err
	}
	return together(ctx, rest)
}

// Run makes a pass now and then until ctx ends, and one for the endpoints when a server came or went.
func (k *Keeper) Run(ctx context.Context) error {
	all, peers := time.NewTicker(every), time.NewTicker(peersEvery)
	defer all.Stop()
	defer peers.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return k.leave(ctx)
		case <-all.C:
			err = k.Settle(ctx)
		case <-peers.C:
			before := k.present
			if err = k.meet(ctx); err == nil && !slices.Equal(before, k.present) {
				k.log.Info("API servers of the cluster changed", "now", k.present, "before", before)
				err = together(ctx, k.endpointSteps())
			}
		}
		if err != nil && ctx.Err() == nil {
			k.log.Warn("objects of the cluster itself are not all in place", "err", err)
		}
	}
}

// meet says that this server is there and learns who else is. Whoever can't be asked may still be there.
func (k *Keeper) meet(ctx context.Context) error {
	if err := k.config.Peers.Announce(ctx); err != nil {
		return err
	}
	present, err := k.config.Peers.Present(ctx)
	if err != nil {
		return err
	}
	k.present = present
	return nil
}

// leaving is the time there is to say so; the others find out by themselves a little later.
const leaving = 2 * time.Second

func (k *Keeper) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	if err := k.config.Peers.Withdraw(ctx); err != nil {
		k.log.Debug("the other API servers are not told that this one stops", "err", err)
	}
	return nil
}

// step brings one object about.
type step func(ctx context.Context) error

// parallel is how many are asked for at once: the datastore syncs several writes to disk together.
const parallel = 16

func together(ctx context.Context, steps []step) error {
	errs := make([]error, len(steps))
	var group errgroup.Group
	group.SetLimit(parallel)
	for i, s := range steps {
		group.Go(func() error {
			errs[i] = s(ctx)
			return nil // one failure must not keep the others from being tried
		})
	}
	_ = group.Wait()
	return errors.Join(errs...)
}

// object is what a typed client's objects have.
type object interface {
	metav1.Object
	runtime.Object
}

// api is a typed client of one kind.
type api[T object] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
	Create(ctx context.Context, obj T, options metav1.CreateOptions) (T, error)
	Update(ctx context.Context, obj T, options metav1.UpdateOptions) (T, error)
}

// keep creates the wanted object, or lets heal correct the one that is there; heal says whether it had to.
// A nil heal leaves what is there alone.
func keep[T object](kind string, client api[T], want T, heal func(have, want T) bool) step {
	return func(ctx context.Context) error {
		scheme.Scheme.Default(want) // what comes back has defaults, so comparing needs them too
		have, err := client.Get(ctx, want.GetName(), metav1.GetOptions{ResourceVersion: "0"})
		if apierrors.IsNotFound(err) {
			_, err = client.Create(ctx, want, metav1.CreateOptions{})
			if apierrors.IsAlreadyExists(err) { // another server was quicker, or our cache was old
				return nil
			}
			if err != nil {
				return fmt.Errorf("create %s %s: %w", kind, want.GetName(), err)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("get %s %s: %w", kind, want.GetName(), err)
		}
		if heal == nil || !heal(have, want) {
			return nil
		}
		_, err = client.Update(ctx, have, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // the next pass looks again
			return fmt.Errorf("update %s %s: %w", kind, want.GetName(), err)
		}
		return nil
	}
}

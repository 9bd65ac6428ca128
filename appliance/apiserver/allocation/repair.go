package allocation

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/storage"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// repairFirst lets a machine start in peace.
const repairFirst = time.Minute

// repairEvery is rare, because a reservation that was left over hurts only when the range is nearly full, and one
// that somebody asks for is reclaimed at once.
const repairEvery = 15 * time.Minute

var _ resource.Background = &Services{}

// Run repairs from time to time until ctx ends.
func (s *Services) Run(ctx context.Context) {
	timer := time.NewTimer(repairFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(repairEvery)
		}
		if err := s.Repair(ctx, time.Now()); err != nil && ctx.Err() == nil {
			slog.Warn("service reservations were not all checked", "component", "apiserver", "err", err)
		}
	}
}

// Repair makes reservations and services agree: services come first, as they are what users see.
func (s *Services) Repair(ctx context.Context, now time.Time) error {
	list, err := s.List(genericapirequest.WithNamespace(ctx, ""), &metainternalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	for i := range list.(*corev1.ServiceList).Items {
		svc := &list.(*corev1.ServiceList).Items[i]
		for _, r := range s.held(svc) {
			if err := r.book.ensure(ctx, r.name, ownerOf(svc)); err != nil {
				return err
			}
		}
	}
	for _, b := range []*book{s.addresses, s.ports} {
		if err := b.sweep(ctx, now); err != nil {
			return err
		}
	}
	return nil
}

// ensure reserves what a service already has. Two services with the same need a person.
func (b *book) ensure(ctx context.Context, name string, o owner) error {
	key, err := b.key(name)
	if err != nil {
		return fmt.Errorf("key of %s: %w", name, err)
	}
	found := &networkingv1.IPAddress{}
	err = b.store.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, found)
	if storage.IsNotFound(err) {
		if err = b.create(ctx, key, name, o); storage.IsExist(err) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("reserve %s for %s: %w", name, o, err)
	}
	if ref := found.Spec.ParentRef; ref != nil && (ref.Namespace != o.namespace || ref.Name != o.name) {
		slog.Error("two services have the same address or node port; delete one of them and create it again",
			"component", "apiserver", "name", name, "service", o.String(), "reserved", ref.Namespace+"/"+ref.Name)
	}
	return nil
}

// sweep gives back what no service has.
func (b *book) sweep(ctx context.Context, now time.Time) error {
	list, err := b.all(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		stale, err := b.stale(ctx, &list[i], now)
		if err != nil {
			return fmt.Errorf("look who has %s: %w", list[i].Name, err)
		}
		if !stale {
			continue
		}
		key, err := b.key(list[i].Name)
		if err != nil {
			return fmt.Errorf("key of %s: %w", list[i].Name, err)
		}
		if err := b.remove(ctx, key, &list[i]); err != nil {
			return err
		}
		slog.Info("reservation of no service given back", "component", "apiserver", "name", list[i].Name)
	}
	return nil
}

// names are all reservations of a service, of either book: an address never looks like a port.
func names(svc *corev1.Service) []string {
	var all []string
	for _, r := range (&Services{}).held(svc) {
		all = append(all, r.name)
	}
	return all
}

func familyLabel(name string) string {
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return ""
	}
	return string(familyOf(ip))
}

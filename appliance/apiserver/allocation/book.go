package allocation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	// luck is how often a name is guessed before looking which are free. In a range that is not nearly full
	// the first guess is right.
	luck = 3
	// pending is how long a reservation may wait for its service to be written. It is longer than any request.
	pending = 90 * time.Second
	// settleTimeout bounds giving back after a request, whose own time may be over.
	settleTimeout = 10 * time.Second
)

// errFull is what a client is told when nothing is left.
var errFull = errors.New("range is full; delete services that are not needed")

// book is where reservations are kept: objects named after what they reserve.
type book struct {
	store    storage.Interface
	key      func(name string) (string, error)
	root     string
	services func(ctx context.Context, namespace, name string) (*corev1.Service, error)
}

// owner is the service a reservation is for.
type owner struct{ namespace, name string }

func ownerOf(svc *corev1.Service) owner { return owner{svc.Namespace, svc.Name} }

func (o owner) String() string { return o.namespace + "/" + o.name }

// reservation names one thing in one book.
type reservation struct {
	book *book
	name string
}

func without(all, kept []reservation) []reservation {
	keep := map[reservation]bool{}
	for _, r := range kept {
		keep[r] = true
	}
	var rest []reservation
	for _, r := range all {
		if !keep[r] {
			rest = append(rest, r)
		}
	}
	return rest
}

// transaction is what one request has reserved so far.
type transaction struct {
	owner owner
	held  []reservation // before
	made  []reservation // by this request
	dry   bool
}

func (t *transaction) holds(b *book, name string) bool {
	for _, list := range [][]reservation{t.held, t.made} {
		for _, r := range list {
			if r == (reservation{b, name}) {
				return true
			}
		}
	}
	return false
}

func (t *transaction) rollback(ctx context.Context) {
	if t.dry {
		return
	}
	release(ctx, t.owner, t.made)
	t.made = nil
}

// reserve takes one name, and says no when it is taken, by this service or another.
func (b *book) reserve(ctx context.Context, t *transaction, name string) (bool, error) {
	if t.holds(b, name) {
		return false, nil
	}
	key, err := b.key(name)
	if err != nil {
		return false, fmt.Errorf("key of %s: %w", name, err)
	}
	if t.dry {
		switch err := b.store.Get(ctx, key, storage.GetOptions{}, &networkingv1.IPAddress{}); {
		case storage.IsNotFound(err):
			t.made = append(t.made, reservation{b, name})
			return true, nil
		case err != nil:
			return false, fmt.Errorf("look for %s: %w", name, err)
		}
		return false, nil
	}
	err = b.create(ctx, key, name, t.owner)
	if storage.IsExist(err) && b.reclaim(ctx, key) {
		err = b.create(ctx, key, name, t.owner)
	}
	switch {
	case err == nil:
		t.made = append(t.made, reservation{b, name})
		return true, nil
	case storage.IsExist(err):
		return false, nil
	}
	return false, fmt.Errorf("reserve %s: %w", name, err)
}

// reserveAny takes any name of a space.
func (b *book) reserveAny(ctx context.Context, t *transaction, s space) (string, error) {
	size, band := s.size(), s.band()
	if size == 0 {
		return "", errFull
	}
	for range luck {
		name := s.name(band + rand.Uint64N(size-band))
		free, err := b.reserve(ctx, t, name)
		if err != nil {
			return "", err
		}
		if free {
			return name, nil
		}
	}
	taken, err := b.taken(ctx)
	if err != nil {
		return "", err
	}
	for i := range candidates(size, band, rand.Uint64N(size-band)) {
		name := s.name(i)
		if taken[name] {
			continue
		}
		free, err := b.reserve(ctx, t, name)
		if err != nil {
			return "", err
		}
		if free {
			return name, nil
		}
	}
	return "", errFull
}

// candidates walks through a space once: from start to the end of the upper part and round to its beginning, then
// the band.
func candidates(size, band, start uint64) func(yield func(uint64) bool) {
	return func(yield func(uint64) bool) {
		upper := size - band
		for i := range upper {
			if !yield(band + (start+i)%upper) {
				return
			}
		}
		for i := range band {
			if !yield(i) {
				return
			}
		}
	}
}

func (b *book) create(ctx context.Context, key, name string, o owner) error {
	obj := &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io"}},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: o.namespace, Name: o.name}},
	}
	if family := familyLabel(name); family != "" {
		obj.Labels[networkingv1.LabelIPAddressFamily] = family
	}
	rest.FillObjectMetaSystemFields(obj)
	return b.store.Create(ctx, key, obj, nil, 0)
}

// reclaim removes a reservation whose service never came to be or is gone, and says whether it did.
func (b *book) reclaim(ctx context.Context, key string) bool {
	found := &networkingv1.IPAddress{}
	if err := b.store.Get(ctx, key, storage.GetOptions{}, found); err != nil {
		return storage.IsNotFound(err)
	}
	stale, err := b.stale(ctx, found, time.Now())
	if err != nil || !stale {
		return false
	}
	return b.remove(ctx, key, found) == nil
}

// stale says whether nobody needs a reservation: it is not young, and the service it names does not have it.
func (b *book) stale(ctx context.Context, r *networkingv1.IPAddress, now time.Time) (bool, error) {
	ref := r.Spec.ParentRef
	if ref == nil || ref.Resource != "services" || now.Sub(r.CreationTimestamp.Time) < pending {
		return false, nil
	}
	svc, err := b.services(ctx, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	for _, name := range names(svc) {
		if name == r.Name {
			return false, nil
		}
	}
	return true, nil
}

// remove deletes exactly the reservation that was looked at.
func (b *book) remove(ctx context.Context, key string, r *networkingv1.IPAddress) error {
	uid := r.UID
	err := b.store.Delete(ctx, key, &networkingv1.IPAddress{}, &storage.Preconditions{UID: &uid}, rest.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
	if err != nil && !storage.IsNotFound(err) {
		return fmt.Errorf("give back %s: %w", r.Name, err)
	}
	return nil
}

func (b *book) all(ctx context.Context) ([]networkingv1.IPAddress, error) {
	list := &networkingv1.IPAddressList{}
	if err := b.store.GetList(ctx, b.root, storage.ListOptions{Predicate: storage.Everything, Recursive: true}, list); err != nil {
		return nil, fmt.Errorf("list reservations: %w", err)
	}
	return list.Items, nil
}

func (b *book) taken(ctx context.Context) (map[string]bool, error) {
	list, err := b.all(ctx)
	if err != nil {
		return nil, err
	}
	taken := make(map[string]bool, len(list))
	for i := range list {
		taken[list[i].Name] = true
	}
	return taken, nil
}

// release gives back what a service no longer needs. What fails here is found by repair later.
func (s *Services) release(ctx context.Context, svc *corev1.Service, list []reservation) {
	release(ctx, ownerOf(svc), list)
}

func release(ctx context.Context, o owner, list []reservation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	for _, r := range list {
		if err := r.book.giveBack(ctx, r.name, o); err != nil {
			slog.Warn("reservation is not given back yet", "component", "apiserver", "service", o.String(), "name", r.name, "err", err)
		}
	}
}

// giveBack removes a reservation if it is still this owner's.
func (b *book) giveBack(ctx context.Context, name string, o owner) error {
	key, err := b.key(name)
	if err != nil {
		return fmt.Errorf("key of %s: %w", name, err)
	}
	found := &networkingv1.IPAddress{}
	if err := b.store.Get(ctx, key, storage.GetOptions{}, found); err != nil {
		if storage.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("look for %s: %w", name, err)
	}
	if ref := found.Spec.ParentRef; ref == nil || ref.Namespace != o.namespace || ref.Name != o.name {
		return nil
	}
	return b.remove(ctx, key, found)
}

// serviceGetter reads services from the datastore, not from the watch cache: a reservation is taken away by what it says.
func serviceGetter(env *resource.Env) func(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	services := env.Storage(corev1.Resource("services"))
	return func(ctx context.Context, namespace, name string) (*corev1.Service, error) {
		obj, err := services.Get(genericapirequest.WithNamespace(ctx, namespace), name, &metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		return obj.(*corev1.Service), nil
	}
}
